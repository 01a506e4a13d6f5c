"""Forwards of sizes that come often, compiled beside the drawing."""
