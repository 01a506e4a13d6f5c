"""What clients are told of errors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from sdapi.domain.errors import SdapiError
from sdapi.pipelines.scheduling.tickets import Trouble

_log = logging.getLogger(__name__)


def trouble(error: Exception, job_ids: Sequence[int], sentence: str) -> Trouble:
    """Errors of the domain are written for clients; others are logged and summed up."""
    if isinstance(error, SdapiError):
        return Trouble(str(error))
    _log.error(sentence, extra={"job_ids": list(job_ids)}, exc_info=error)
    return Trouble(sentence)
