"""What goes wrong where models of the user's are read, in sentences for clients; the causes are for the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from sdapi.catalog import ModelBroken, Refused

_log = logging.getLogger(__name__)

READING_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, ImportError, RuntimeError, SafetensorError)
"""What the libraries raise on damaged or mislabelled files; there is no common base."""


@contextmanager
def told_as_broken(model_id: str, where: str) -> Iterator[None]:
    """Raises ModelBroken for whatever reading raises inside. `where` begins the sentence: "The annotator in models/annotators/depth/".

    torch.OutOfMemoryError passes: it says nothing of the files.
    """
    try:
        yield
    except Refused as refusal:
        raise ModelBroken(model_id, f"{where} can't be used: {refusal}") from refusal
    except torch.OutOfMemoryError:
        raise
    except READING_ERRORS as error:
        _log.exception("a model can't be read", extra={"model": model_id})
        raise ModelBroken(model_id, f"{where} can't be loaded: it is damaged, or another kind of model.") from error
