"""Three projections become one where that is quicker; nothing else of the network changes, and whoever meddles gets the three."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from sdapi.pipelines.added.loras import Applied, Delta, Lora, applied
from sdapi.pipelines.forwards.attention_choice import AttentionChoice, choose_attention
from sdapi.pipelines.forwards.best_time import best_seconds
from sdapi.pipelines.forwards.joined_projections import JoiningChoice, joined_weight, lay_together
from sdapi.pipelines.guidance.perturbed_attention import perturbed

from .drawing import demo_parts
from .test_attention_choice import seen
from .tiny_families import XL, parts_of

CLOSENESS = 1e-5
PATH = "up_blocks.2.attentions.1.transformer_blocks.0.attn1"


def always(_: Callable[[], Tensor]) -> float:
    return 0.0


def a_unet() -> Any:
    unet = copy.deepcopy(demo_parts().unet)
    unet.set_attn_processor(AttnProcessor2_0())
    return unet


def joined(unet: Any, joining: JoiningChoice | None = None) -> Any:
    """The same network, whose projections are joined wherever that can be."""
    choose_attention(unet, AttentionChoice({"default": scaled_dot_product_attention}, lambda *_: 0.0), joining or JoiningChoice(always))
    return unet


def self_attentions(unet: Any) -> list[Any]:
    return [module for module in unet.modules() if isinstance(module, Attention) and not module.is_cross_attention]


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts matrix products."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        self.count += func.overloadpacket.__name__ in ("mm", "addmm", "bmm", "linear")
        return func(*args, **(kwargs or {}))


def products(unet: Any) -> int:
    with Products() as counting:
        seen(unet)
    counted: int = counting.count
    return counted


def test_the_prediction_is_the_same_by_two_products_fewer_each() -> None:
    unet = a_unet()
    expected, before = seen(unet), products(unet)
    joined(unet)
    assert (seen(unet) - expected).abs().max() <= CLOSENESS
    assert products(unet) == before - 2 * len(self_attentions(unet))


def test_the_weights_keep_their_names_numbers_and_objects_and_take_no_more_memory() -> None:
    unet = a_unet()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    objects = {name: id(parameter) for name, parameter in unet.named_parameters()}
    joined(unet)
    assert {name: id(parameter) for name, parameter in unet.named_parameters()} == objects
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
    storages = {parameter.untyped_storage().data_ptr(): parameter.untyped_storage().nbytes() for parameter in unet.parameters()}
    assert sum(storages.values()) == sum(parameter.nbytes for parameter in unet.parameters())


@torch.inference_mode()
def test_what_is_laid_over_a_projection_counts() -> None:
    unet, plain = joined(a_unet()), a_unet()
    generator = torch.Generator().manual_seed(1)

    def delta(path: str) -> Delta:
        outputs, inputs = unet.get_submodule(path).weight.shape
        return Delta(torch.randn(4, inputs, generator=generator) / 8, None, torch.randn(outputs, 4, generator=generator), 1.0)

    lora = Lora("one", {f"{PATH}.{side}": delta(f"{PATH}.{side}") for side in ("to_q", "to_v")}, {})
    uses = [(Applied(lora, 1.0),), ()]
    with applied(plain, "unet", uses):
        expected = seen(plain)
    with applied(unet, "unet", uses):
        assert (seen(unet) - expected).abs().max() <= CLOSENESS
    assert (seen(unet) - expected).abs().max() > 100 * CLOSENESS
    which = torch.tensor([False, True])
    with perturbed(plain, which), perturbed(unet, which):
        assert (seen(unet) - seen(plain)).abs().max() <= CLOSENESS


def test_weights_that_were_moved_or_replaced_are_used_apart() -> None:
    unet, plain = joined(a_unet()), a_unet()
    attention = unet.get_submodule(PATH)
    assert joined_weight(attention) is not None
    other = torch.randn_like(attention.to_k.weight)
    for changed in (attention, plain.get_submodule(PATH)):
        changed.to_k.weight = nn.Parameter(other.clone(), requires_grad=False)
    assert joined_weight(attention) is None
    assert (seen(unet) - seen(plain)).abs().max() <= CLOSENESS
    assert all(joined_weight(each) is None for each in self_attentions(unet.half()))


def test_what_lies_together_is_not_laid_anew() -> None:
    """So whoever keeps a copy of the weights finds them where they were."""
    unet = joined(a_unet())
    places = {name: parameter.data_ptr() for name, parameter in unet.named_parameters()}
    joined(unet)
    assert {name: parameter.data_ptr() for name, parameter in unet.named_parameters()} == places


@pytest.mark.parametrize("change", ["bias", "another shape", "another kind"])
def test_projections_that_are_not_plain_and_alike_are_left(change: str) -> None:
    attention = copy.deepcopy(a_unet().get_submodule(PATH))
    width = attention.to_q.weight.shape[1]
    if change == "bias":
        attention.to_v = nn.Linear(width, width)
    elif change == "another shape":
        attention.to_v = nn.Linear(width, 2 * width, bias=False)
    else:
        attention.to_v = nn.Sequential(attention.to_v)
    lay_together(attention)
    assert joined_weight(attention) is None


def test_one_product_is_taken_only_where_it_is_quicker_and_measured_once() -> None:
    unet = a_unet()
    before = products(unet)
    asked: list[float] = []

    def seconds(run: Callable[[], Tensor]) -> float:
        run()
        asked.append(float(len(asked) % 2))
        return asked[-1]

    # Of each pair the three are measured first, so they are always quicker.
    joined(unet, JoiningChoice(seconds))
    seen(unet)
    shapes = len(asked) // 2
    assert 0 < shapes < len(self_attentions(unet))
    assert products(unet) == before
    assert len(asked) == 2 * shapes


def test_a_kernel_that_can_not_read_them_joined_reads_them_apart() -> None:
    runs: list[str] = []

    def fail() -> Tensor:
        runs.append("joined")
        raise RuntimeError("(*bias): last dimension must be contiguous")

    choice = JoiningChoice(lambda run: best_seconds(run, device=torch.device("cpu")))
    assert not choice.is_quicker("shape", fail, lambda: torch.zeros(1))
    assert not choice.is_quicker("shape", fail, lambda: torch.zeros(1))
    assert runs == ["joined"]


@torch.inference_mode()
def test_of_stable_diffusion_xl_too() -> None:
    unet = copy.deepcopy(parts_of(XL).unet)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([500.0, 20.0]), torch.randn(2, 77, unet.config.cross_attention_dim)
    conditions = {"text_embeds": torch.randn(2, 1280), "time_ids": torch.full((2, 6), 64.0)}
    expected = unet(*inputs, added_cond_kwargs=conditions, return_dict=False)[0]
    joined(unet)
    assert any(joined_weight(each) is not None for each in self_attentions(unet))
    assert (unet(*inputs, added_cond_kwargs=conditions, return_dict=False)[0] - expected).abs().max() <= CLOSENESS
