"""Films as MP4 files that every browser plays: H.264, eight bits, its index at the front."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from sdapi.domain.films import Film

_CODEC: Final = "libx264"
_QUALITY: Final = {"crf": "18", "preset": "medium"}
"""Constant quality; at 18 most people see no difference to the frames."""
_BT709: Final = 1
_LIMITED_RANGE: Final = 1
_EVEN: Final = 2
"""Colours are kept for two by two pixels."""


def encode_mp4(film: Film, comment: str | None) -> bytes:
    """The film, `comment` kept with it as the tag of that name; None writes none. Blocks: call it in a thread.

    Frames of odd sizes lose their last row or column of pixels.
    """
    # Imported here: it brings the whole of FFmpeg into memory, which a server that makes no films never needs.
    import av
    import numpy as np
    from av.video.reformatter import ColorRange, Colorspace

    width, height = (side // _EVEN * _EVEN for side in film.frames[0].size)
    with TemporaryDirectory(prefix="sdapi-film-") as folder:
        path = Path(folder) / "film.mp4"
        # A file, not memory: the index is written last and moved to the front by reading the file again.
        with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            if comment is not None:
                container.metadata["comment"] = comment.replace("\0", "")
            stream = container.add_stream(_CODEC, rate=film.frames_per_s, options=_QUALITY)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            context = stream.codec_context
            # Said in the file, because players guess otherwise, some by the size.
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
            for picture in film.frames:
                rgb = av.VideoFrame.from_ndarray(np.asarray(picture.crop((0, 0, width, height))), format="rgb24")
                yuv = rgb.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
                container.mux(stream.encode(yuv))
            container.mux(stream.encode())
        return path.read_bytes()
