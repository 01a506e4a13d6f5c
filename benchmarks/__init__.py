"""Figures of this machine: `make bench` measures and prints them; nothing is asserted."""
