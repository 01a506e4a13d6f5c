"""From words to what networks read."""
