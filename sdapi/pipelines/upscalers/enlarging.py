"""A picture on its way to a larger one: a row of the drawing loop whose step is one tile."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image

from sdapi.pipelines.scheduling.row import BatchKey

from .tiles import Span, Tile


@dataclass
class TileCourse:
    """See Course."""

    tiles: list[Tile]
    position: int = 0

    @property
    def finished(self) -> bool:
        """See Course."""
        return self.position == len(self.tiles)

    @property
    def name(self) -> str:
        """See Course: no sampler has to do with it."""
        return ""


@dataclass
class Enlarging:
    """See InFlight. Made with the size alone where the picture is still being drawn; `picture` comes then."""

    key: BatchKey
    """Nobody else's."""
    sampler: TileCourse
    size: tuple[int, int]
    """Of the input."""
    target: tuple[int, int]
    """Of the result."""
    own_scale: int
    """The network's."""
    forwards: int
    """See InFlight."""
    picture: Image.Image | None = None
    """RGB, of `size`."""
    canvas: Image.Image | None = field(default=None, init=False)
    """RGB, of the result's size, as far as it is done; the only thing as large as that."""

    @property
    def ready(self) -> bool:
        """Whether its picture is there."""
        return self.picture is not None

    def begin(self, picture: Image.Image) -> None:
        """The picture has come. It must have the size its tiles were made for."""
        if picture.size != self.size:
            raise ValueError(f"a picture of {picture.size} came where one of {self.size} was to be enlarged")
        self.picture = picture

    @property
    def steps_done(self) -> int:
        """See InFlight."""
        return self.sampler.position

    @property
    def steps(self) -> int:
        """See InFlight."""
        return len(self.sampler.tiles)

    @property
    def tile(self) -> Tile:
        """The next one."""
        return self.sampler.tiles[self.sampler.position]

    def shown_to_network(self) -> Image.Image:
        """What the network is to be shown next."""
        if self.picture is None:
            raise ValueError("there is no picture to enlarge yet")
        tile = self.tile
        return self.picture.crop((tile.across.read_start, tile.down.read_start, tile.across.read_end, tile.down.read_end))

    def take(self, enlarged: Image.Image) -> None:
        """Paste what the network made of that, resized to the asked size, and go on to the next tile.

        Resizing by tile gives what resizing the whole would: the filter looks into the tile's margin.
        """
        tile = self.tile
        left, right, x0, x1 = _mapped(tile.across, self.size[0], self.target[0], self.own_scale)
        top, bottom, y0, y1 = _mapped(tile.down, self.size[1], self.target[1], self.own_scale)
        if right > left and bottom > top:
            if self.canvas is None:
                self.canvas = Image.new("RGB", self.target)
            wanted = (right - left, bottom - top)
            self.canvas.paste(enlarged.resize(wanted, Image.Resampling.LANCZOS, box=(x0, y0, x1, y1)), (left, top))
        self.sampler.position += 1

    def close(self) -> None:
        """See InFlight."""
        self.picture = self.canvas = None


def _mapped(span: Span, length: int, target: int, own_scale: int) -> tuple[int, int, float, float]:
    """(first, past the last) pixel of the result that the span is for, and where these lie in what the network made of the span."""
    first, past = (round(edge * target / length) for edge in (span.start, span.end))
    per_pixel = length * own_scale / target
    origin = span.read_start * own_scale
    highest = (span.read_end - span.read_start) * own_scale
    # Rounding may lead a hair over the edge, which Pillow refuses.
    return first, past, max(0.0, first * per_pixel - origin), min(float(highest), past * per_pixel - origin)
