"""Compiles one forward of a UNet into a file, in a process of its own: in the server it would hold up all other threads for seconds.

`python -m sdapi.pipelines.compiling.compile_process TARGET PARENT` reads a `CompileSpec` as JSON from its standard input. TARGET appears
whole or not at all. The network has no weights: whoever runs the file brings its own. It ends when the process numbered PARENT has ended.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Any

_LOWEST_PRIORITY = 19
_TIME_TO_END_S = 10


def main() -> None:
    """See the module."""
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(_LOWEST_PRIORITY)
    target = Path(sys.argv[1])
    unfinished = target.with_name(f".{target.stem}.{os.getpid()}.pt2")
    with tempfile.TemporaryDirectory(prefix="sdapi-compile-") as scratch:
        # Both are read when torch's compiler is imported.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = scratch
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        try:
            _compile(sys.stdin.read(), unfinished)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


def _end_with(parent: int) -> None:
    """Nobody is there any more to use the file."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)  # so that what is half made is cleaned up
    time.sleep(_TIME_TO_END_S)
    os._exit(1)


def _compile(spec_json: str, target: Path) -> None:
    import torch
    import torch._inductor
    from diffusers import UNet2DConditionModel

    from sdapi.pipelines.compiling.compile_spec import CompileSpec
    from sdapi.pipelines.compiling.compiled_network import BiaslessNetwork
    from sdapi.pipelines.forwards.text_keys import text_keys_of

    spec = CompileSpec.from_json(spec_json)
    torch.set_num_threads(spec.threads)
    warnings.simplefilter("ignore")
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel(**json.loads(spec.config)).to(getattr(torch, spec.dtype))
    # Memory that is never written to is none.
    unet = unet.to_empty(device=spec.device).eval().requires_grad_(requires_grad=False)
    if spec.is_channels_last:
        unet = unet.to(memory_format=torch.channels_last)
    text_keys_of(unet)
    given = [None if each is None else torch.empty(each[0], dtype=getattr(torch, each[1]), device=spec.device) for each in spec.inputs]
    with torch.no_grad():
        exported = torch.export.export(BiaslessNetwork(unet), tuple(given))
        torch._inductor.aoti_compile_and_package(  # noqa: SLF001 - its documented name
            exported, package_path=str(target), inductor_configs={"aot_inductor.package_constants_in_so": False}
        )


if __name__ == "__main__":
    main()
