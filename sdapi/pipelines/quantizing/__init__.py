"""Weights in eight bits, where they draw the same picture."""
