"""What becomes of pictures that a safety checker calls unsafe, and when pictures are looked at."""

from __future__ import annotations

from typing import Literal, get_args

SafetyType = Literal["black", "blur", "pixelate", "sensitive_content_text"]
"""How an unsafe picture is covered, in the words of `safety_checker_type`."""
SAFETY_TYPES: tuple[SafetyType, ...] = get_args(SafetyType)
DEFAULT_SAFETY_TYPE: SafetyType = "sensitive_content_text"

SafetyMode = Literal["optional", "required", "off"]
"""Pictures are checked when a request asks for it and a checker is installed; always, or not given out; never."""

NO_CHECKER = "This server has no safety checker: its operator installs a model in models/safety/."
"""What clients are told who can't do without."""
