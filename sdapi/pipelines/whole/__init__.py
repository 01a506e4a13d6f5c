"""Pipelines of diffusers that are called whole."""
