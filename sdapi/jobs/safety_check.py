"""Whether a request's pictures are looked at by a safety checker, and what can be refused of that before anything is recorded."""

from __future__ import annotations

from sdapi.catalog import Assets, Refused
from sdapi.dialects.base import Asked
from sdapi.domain.errors import NotAvailable
from sdapi.domain.safety import DEFAULT_SAFETY_TYPE, NO_CHECKER, SafetyMode, SafetyType


def choose_safety(asked: Asked, assets: Assets, mode: SafetyMode) -> SafetyType | None:
    """How unsafe pictures of the request are covered; None where they are not looked at.

    Raises NotAvailable where they must be looked at and nothing can. Looks at the disk, so call it in a thread.
    """
    if mode == "off" or (mode == "optional" and not asked.safety_checker):
        return None
    if mode == "required":
        try:
            if assets.safety.used() is None:
                raise NotAvailable(NO_CHECKER)
        except Refused as refusal:
            raise NotAvailable(str(refusal)) from refusal
    return asked.safety_type or DEFAULT_SAFETY_TYPE
