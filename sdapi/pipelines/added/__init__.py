"""What is added to a UNet for some rows."""
