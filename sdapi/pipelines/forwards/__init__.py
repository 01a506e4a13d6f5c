"""How a UNet is run: number formats, buckets, graphs, compiling, keys and values of prompts."""
