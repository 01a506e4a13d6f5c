"""Trains the embedded x2 upscaler: from drawings made smaller back to the drawings.

Half of what it sees are the model's scenes, half is clutter of shapes, lines and gradients in any colour, so that it stays sensible
about other pictures. They are made smaller by area or bicubic averaging, and some get the grain or the JPEG traces that pictures
from outside have. It is judged against Lanczos on scenes that training leaves out.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sdapi.pipelines.upscalers.networks import CompactNetwork, CompactShape

from .drawing import draw
from .scenes import draw_scene

SHAPE = CompactShape(features=32, convolutions=5, scale=2)
_BATCH = 24
_CROP_PX = 64
"""Of the large picture."""


def small(image: Image.Image, rng: random.Random | None = None) -> Image.Image:
    """Half as wide and high; with `rng` by any filter, and sometimes not quite clean."""
    size = (image.width // 2, image.height // 2)
    if rng is None:
        return image.resize(size, Image.Resampling.BOX)
    smaller = image.resize(size, rng.choice((Image.Resampling.BOX, Image.Resampling.BOX, Image.Resampling.BICUBIC)))
    if rng.random() < 0.15:
        grain = np.random.default_rng(rng.randrange(2**32)).normal(0, rng.uniform(0.5, 4), (*size[::-1], 3))
        smaller = Image.fromarray((np.asarray(smaller) + grain).round().clip(0, 255).astype(np.uint8))
    if rng.random() < 0.1:
        buffer = io.BytesIO()
        smaller.save(buffer, "JPEG", quality=rng.randrange(70, 96))
        smaller = Image.open(buffer).convert("RGB")
    return smaller


def clutter(rng: random.Random, side_px: int) -> Image.Image:
    """Shapes, lines and a gradient of any colour, one over the other."""
    factor = 3
    side = side_px * factor
    slope = Image.linear_gradient("L").resize((side, side)).rotate(rng.uniform(0, 360), resample=Image.Resampling.BILINEAR)
    canvas = Image.composite(Image.new("RGB", (side, side), _colour(rng)), Image.new("RGB", (side, side), _colour(rng)), slope)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.randrange(6, 20)):
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(0.01, 0.2) * side
        match rng.randrange(4):
            case 0:
                pen.ellipse((x - r, y - r * rng.uniform(0.3, 1), x + r, y + r), fill=_colour(rng))
            case 1:
                pen.line((x, y, rng.uniform(0, side), rng.uniform(0, side)), fill=_colour(rng), width=rng.randrange(2, 14))
            case 2:
                pen.ellipse((x - r, y - r, x + r, y + r), outline=_colour(rng), width=rng.randrange(2, 14))
            case _:
                corners = [(x + r * rng.uniform(-1, 1), y + r * rng.uniform(-1, 1)) for _ in range(rng.randrange(3, 7))]
                pen.polygon(corners, fill=_colour(rng))
    return canvas.reduce(factor)


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def to_tensor(images: list[Image.Image]) -> Tensor:
    """(n, 3, h, w), 0 to 1."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2).float().div(255)


def psnr_db(picture: Image.Image, original: Image.Image) -> float:
    """Peak signal to noise over all three channels."""
    error = np.asarray(picture, dtype=np.float64) - np.asarray(original, dtype=np.float64)
    return 10 * math.log10(255**2 / max(1e-9, float((error**2).mean())))


def judged(net: CompactNetwork, side_px: int, count: int = 24) -> dict[str, float]:
    """Mean PSNR in dB over held-out drawings of that size, enlarged from their half: the net's, and Lanczos'."""
    rng = random.Random(2025)
    originals = [draw(draw_scene(rng, held_out=True), side_px, side_px) for _ in range(count)]
    net_db, lanczos_db, seconds = 0.0, 0.0, 0.0
    for original in originals:
        less = small(original)
        started = time.perf_counter()
        with torch.no_grad():
            out = net(to_tensor([less]))[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        seconds += (time.perf_counter() - started) / count
        net_db += psnr_db(Image.fromarray(out), original) / count
        lanczos_db += psnr_db(less.resize(original.size, Image.Resampling.LANCZOS), original) / count
    return {"side_px": side_px, "net_db": round(net_db, 2), "lanczos_db": round(lanczos_db, 2), "seconds": round(seconds, 3)}


def _pairs(rng: random.Random) -> tuple[Tensor, Tensor]:
    smalls: list[Image.Image] = []
    larges: list[Image.Image] = []
    while len(larges) < _BATCH:
        side = rng.choice((128, 256))
        large = draw(draw_scene(rng), side, side) if rng.random() < 0.5 else clutter(rng, 192)
        less = small(large, rng)
        for _ in range(4):
            x, y = (2 * rng.randrange((large.width - _CROP_PX) // 2 + 1) for _ in range(2))
            larges.append(large.crop((x, y, x + _CROP_PX, y + _CROP_PX)))
            smalls.append(less.crop((x // 2, y // 2, (x + _CROP_PX) // 2, (y + _CROP_PX) // 2)))
    return to_tensor(smalls), to_tensor(larges)


def loaded(path: Path) -> CompactNetwork:
    """The net of a file this has written."""
    net = CompactNetwork(SHAPE)
    net.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return net


def report(net: CompactNetwork) -> None:
    """Print its PSNR, and Lanczos', a line of JSON for each size."""
    for side_px in (128, 256, 512):
        print(json.dumps(judged(net, side_px)), flush=True)


def main() -> None:
    """Train, write `--out` in fp16, and print its PSNR."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("assets/upscalers/demo-x2.safetensors"), help="the file to write")
    parser.add_argument("--judge", type=Path, help="train nothing, only print the PSNR of this file")
    parser.add_argument("--minutes", type=float, default=10.5, help="of one core; the learning rate falls with the time")
    parser.add_argument("--seed", type=int, default=6)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.judge is not None:
        report(loaded(args.judge))
        return
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    net = CompactNetwork(SHAPE)
    with torch.no_grad():
        for layer in net.body:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.25)
        last = net.body[-1]
        assert isinstance(last, nn.Conv2d)
        # It begins close to the picture itself, only larger.
        last.weight.mul_(0.1)
    averaged = copy.deepcopy(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=2e-3, betas=(0.9, 0.99))
    started, step = time.process_time(), 0
    while (share := (time.process_time() - started) / (60 * args.minutes)) < 1:
        smalls, larges = _pairs(rng)
        for group in optimiser.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * share))
        error = net(smalls) - larges
        # Squared, because most pixels lie in flat areas: a net that leaves everything as it is has the least absolute error for long.
        loss = 20 * error.square().mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            for mean, now in zip(averaged.parameters(), net.parameters(), strict=True):
                mean.lerp_(now, 0.01 if step > 100 else 1.0)
        if step % 200 == 0:
            print(
                json.dumps({"step": step, "share": round(share, 2), "loss": round(loss.item(), 5), **judged(averaged, 128, 8)}), flush=True
            )
        step += 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half().contiguous() for name, tensor in averaged.state_dict().items()}, args.out)
    report(averaged)


if __name__ == "__main__":
    main()
