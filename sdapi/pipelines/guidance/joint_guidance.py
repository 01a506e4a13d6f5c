"""What a forward predicts for the rows of a batch: each row's halves added up by its guidance, all rows together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdapi.pipelines.samplers.row_sums import added_up, brought
from sdapi.pipelines.scheduling.row import Row


def guided_together(rows: Sequence[Row], output: Tensor) -> list[Tensor]:
    """The prediction (1, 4, h, w), float32, of each row from `output` (samples, 4, h, w): all halves of the first row, of the next..."""
    shares = [row.guidance for row in rows]
    most = max(len(each) for each in shares)
    starts = [sum(len(each) for each in shares[:number]) for number in range(len(rows))]
    halves = output.float()
    if any(len(each) < most for each in shares):
        # A row that has fewer takes its first half again, no times: another row's might be broken.
        places = [start + (at if at < len(each) else 0) for start, each in zip(starts, shares, strict=True) for at in range(most)]
        halves = halves.index_select(0, brought(torch.tensor(places), output.device))
    table = torch.tensor([[*each, *[0.0] * (most - len(each))] for each in shares])
    led = added_up(brought(table, output.device)[:, None], halves.reshape(len(rows), most, -1))
    return [each.view(1, *output.shape[1:]) for each in led.unbind()]
