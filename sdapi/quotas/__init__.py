"""What one API key may ask for, counted in the database: the limits hold across every process that shares it."""

from .quotas import Quotas

__all__ = ["Quotas"]
