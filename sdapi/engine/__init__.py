"""Where pictures are drawn: the Engine protocol and the engines behind it."""
