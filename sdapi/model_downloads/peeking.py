"""What kind of model a source has, from its list of files or the header of its one file, before anything is fetched."""

from __future__ import annotations

from sdapi.catalog.asset_inspection import kind_of_tensors
from sdapi.catalog.inventory import ModelKind
from sdapi.catalog.weights import Refused, header_bytes, parse_header

from .download import DownloadFailed
from .http_source import HttpSource, Transient, chunks
from .hub import list_repository, only_weights
from .interrupt import Interrupt
from .sources import DirectFile, HubFile, HubRepository, Source, hub_file_url

_START_BYTES = 8
_FIRST_BYTES = 2**18
_MAX_HEADER_BYTES = 16 * 2**20
"""Of real models it is less than 1 MB."""


async def kind_of_source(http: HttpSource, hub_url: str, source: Source) -> ModelKind:
    """The kind of what lies there. Raises DownloadFailed, also where that can't be told or the source does not answer."""
    interrupt = Interrupt()
    try:
        if isinstance(source, DirectFile):
            return _known(await _kind_of_file(http, source.url, interrupt))
        listing = await list_repository(http, hub_url, source, interrupt)
        if isinstance(source, HubRepository) and "model_index.json" in listing.files:
            return "checkpoint"
        file = source.file if isinstance(source, HubFile) else only_weights(listing)
        return _known(await _kind_of_file(http, hub_file_url(hub_url, source.repository, listing.revision, file), interrupt))
    except Transient as failure:
        raise DownloadFailed(str(failure), resumable=True) from failure
    except Refused as refusal:
        raise DownloadFailed(f"What lies there can't be used: {refusal}") from refusal


async def _kind_of_file(http: HttpSource, url: str, interrupt: Interrupt) -> ModelKind | None:
    name = "it"
    body = await _beginning(http, url, _FIRST_BYTES, interrupt)
    length = header_bytes(name, body[:_START_BYTES])
    if length > _MAX_HEADER_BYTES:
        raise Refused(f"Its header has {length:,} bytes, more than that of any model.")
    if len(body) < _START_BYTES + length:
        body = await _beginning(http, url, _START_BYTES + length, interrupt)
    tensors, _ = parse_header(name, body[:_START_BYTES], body[_START_BYTES : _START_BYTES + length])
    return kind_of_tensors({tensor: entry.shape for tensor, entry in tensors.items()})


async def _beginning(http: HttpSource, url: str, count_bytes: int, interrupt: Interrupt) -> bytes:
    """So many bytes, or a few more; of a shorter file all. A source that knows no ranges is left when they have come."""
    body = bytearray()
    async with http.open(url, interrupt, headers={"Range": f"bytes=0-{count_bytes - 1}"}) as response:
        async for chunk in chunks(response, interrupt):
            body += chunk
            if len(body) >= count_bytes:
                break
    return bytes(body)


def _known(kind: ModelKind | None) -> ModelKind:
    if kind is None:
        raise DownloadFailed("What lies there is no model of a kind that is known here.")
    return kind
