"""From files to networks."""
