"""Networks that make pictures larger, and how they are run: tile by tile, in turns with the drawing."""
