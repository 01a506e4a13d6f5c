"""What an operator is told, at start-up and by the doctor, of how drawn pictures are checked."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sdapi.catalog import Refused
from sdapi.catalog.safety import SafetyCheckers
from sdapi.domain.safety import SafetyMode

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SafetyFinding:
    """How it stands."""

    ok: bool
    """Whether it is as the setting says."""
    has_checker: bool
    sentence: str


def safety_finding(mode: SafetyMode, checkers: SafetyCheckers) -> SafetyFinding:
    """Looks at the disk."""
    if mode == "off":
        return SafetyFinding(ok=True, has_checker=False, sentence="SDAPI_SAFETY is off: no picture is checked")
    try:
        used = checkers.used()
    except Refused as refusal:
        return SafetyFinding(ok=False, has_checker=True, sentence=f"{refusal} Until then nothing is given out that is to be checked")
    if used is None and mode == "required":
        return SafetyFinding(
            ok=False, has_checker=False, sentence="SDAPI_SAFETY is required, but models/safety/ has no checker: every request is refused"
        )
    if used is None:
        sentence = "no checker in models/safety/: pictures are given out unchecked, also to who asks for safety_checker"
        return SafetyFinding(ok=True, has_checker=False, sentence=sentence)
    which = "every picture" if mode == "required" else "pictures of requests with safety_checker"
    return SafetyFinding(ok=True, has_checker=True, sentence=f"{used.id} checks {which}")


def warn_of_safety(mode: SafetyMode, checkers: SafetyCheckers) -> None:
    """At start-up, where pictures may be given out unchecked or none at all. Looks at the disk."""
    finding = safety_finding(mode, checkers)
    if mode != "off" and not (finding.ok and finding.has_checker):
        _log.warning("safety: %s", finding.sentence)
