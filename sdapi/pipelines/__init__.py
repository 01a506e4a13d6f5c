"""The drawing itself: the only package that imports torch, diffusers and transformers."""
