"""What is in memory, for how long, and what brings it there."""
