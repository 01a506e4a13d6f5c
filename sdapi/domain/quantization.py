"""In how many bits the weights of the networks that draw are held."""

from __future__ import annotations

from typing import Literal

EightBits = Literal["int8", "fp8"]
"""Whole numbers, or floating point with four bits of exponent."""

Quantize = Literal["off", "int8", "fp8"]
"""What an operator may choose."""
