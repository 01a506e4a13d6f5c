"""Everything that can be refused, in domain words; HTTP gives them a status in one place.

SdapiError
├── InvalidRequest        a field is missing, malformed or out of range
│   └── ImageRefused      an input image can't be fetched or read
├── NotAuthorised         no key, or a wrong one
├── ModelNotFound         no checkpoint of that id
├── JobNotFound           unknown id, or somebody else's
├── NotAllowed            a valid key that may not do this
├── QueueFull             too much is waiting already, or asked for too often
├── NotAvailable          the server has no such feature, or it is not set up
└── PictureUnavailable    a picture that is not there (any more)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class SdapiError(Exception):
    """Base of the errors a client is told about."""


class InvalidRequest(SdapiError):
    """The request can't be accepted. `problems` maps each field, as the client spelt it, to sentences about it."""

    def __init__(self, problems: Mapping[str, Sequence[str]]) -> None:
        self.problems: dict[str, list[str]] = {field: list(sentences) for field, sentences in problems.items()}
        super().__init__("; ".join(f"{field}: {' '.join(sentences)}" for field, sentences in self.problems.items()))

    @classmethod
    def of(cls, field: str, sentence: str) -> InvalidRequest:
        """One problem with one field."""
        return cls({field: [sentence]})


class ImageRefused(InvalidRequest):
    """An input image could not be fetched or is not a picture we read."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__({field: [sentence]})


class NotAuthorised(SdapiError):
    """No API key came with the request, or one that is unknown or revoked."""


class ModelNotFound(SdapiError):
    """No checkpoint has this id or alias. `available` lists those there are."""

    def __init__(self, model_id: str, available: Sequence[str]) -> None:
        self.model_id = model_id
        self.available = tuple(available)
        super().__init__(f"no checkpoint {model_id!r}")


class JobNotFound(SdapiError):
    """No job of that id belongs to the caller."""


class QueueFull(SdapiError):
    """More than the server accepts, of everybody or of this client; try again in `retry_after_s` seconds.

    `reason` is a sentence for the client, which ends in how long to wait.
    """

    def __init__(self, retry_after_s: int, reason: str = "The server has as many requests as it takes at once") -> None:
        self.retry_after_s = retry_after_s
        self.reason = f"{reason}, please wait for {retry_after_s} seconds and try again"
        super().__init__(self.reason)


class NotAllowed(SdapiError):
    """The key is valid, but administration needs an enterprise key."""


class NotAvailable(SdapiError):
    """What was asked for is not set up on this server. The text is a sentence for the client that names what to install or set."""


class PictureUnavailable(SdapiError):
    """The picture is not there: unknown name, not drawn yet, or removed by retention. `retry_after_s` is 0 where waiting won't help."""

    def __init__(self, retry_after_s: int = 0) -> None:
        self.retry_after_s = retry_after_s
        super().__init__("picture unavailable")
