"""Which values a search gives 16 bits: what they take is counted, and what harms most is taken first."""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.errors import ZeroqWarning
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.measure import widening
from zeroq_asr.measure.heard import Heard
from zeroq_asr.measure.widening import candidates, products, widened
from zeroq_asr.progress import silent

MELS, TOKENS = 16, 29


class Stack(nn.Module):
    """Layers one after the other; ``behind`` stands behind the first."""

    def __init__(self, width: int = 64, behind: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, width, 1)
        self.behind = behind or nn.Identity()
        self.depthwise = nn.Conv1d(width, width, 3, padding=1, groups=width)
        self.second = nn.Conv1d(width, width, 1)
        self.last = nn.Conv1d(width, TOKENS, 1)

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = self.depthwise(self.behind(self.first(x)))
        return self.last(self.second(y).relu()).transpose(1, 2), n


class Sum(nn.Module):
    """A residual stream, which has 16 bits whatever is named."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(MELS, 8, 1), nn.Conv1d(MELS, 8, 1)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, TOKENS)

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(self.norm((self.left(x) + self.right(x)).transpose(1, 2))), n


def graph_of(network: nn.Module) -> FloatGraph:
    return capture(
        network.eval().requires_grad_(False), (torch.randn(2, MELS, 30), torch.tensor([30, 30])), "net"
    )


def prepared_of(network: nn.Module, small_model: Any, *bits: str) -> zq.Prepared:
    model = dataclasses.replace(
        small_model,
        network=network.eval().requires_grad_(False),
        name="net",
        architecture="",
        config={},
        subsampling_factor=1,
    )
    return zq.prepare(
        model,
        spec=zq.QuantSpec.parse_bits(*bits or ("8",)),
        also=[zq.QuantSpec.parse_bits("w4a8")],
        synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
        calibration=zq.CalibrationSpec("speech"),
    )


def harmed(network: Stack) -> Stack:
    """``network`` with a channel in ``second`` that nobody reads, and that takes the steps of all others."""
    with torch.no_grad():
        network.second.bias[0] = 3e3
        network.last.weight[:, 0] = 0.0
    return network


def test_products_are_counted_a_byte_each() -> None:
    graph = graph_of(Stack(8))
    frames = 20
    sizes = {"first": 8 * frames, "depthwise": 8 * frames, "second": 8 * frames, "last": TOKENS * frames}
    first, depthwise, second, last = 8 * MELS, 8 * 3, 8 * 8, TOKENS * 8
    entries = 8 * widening._ENTRY
    for wide, wanted in (
        (set(), first + depthwise + second + last),
        # what a depthwise layer reads: both bytes, each by the slower kernel
        ({"first"}, first + 4 * depthwise + second + last + entries),
        # what it makes, and what is made of that
        ({"depthwise"}, first + 2 * depthwise + 2 * second + last + entries),
        ({"first", "depthwise"}, first + 4 * depthwise + 2 * second + last + 2 * entries),
        ({"second"}, first + depthwise + second + 2 * last + entries),
    ):
        assert products(graph, sizes, wide) == frames * wanted, wide


def test_candidates_are_what_can_be_named_and_is_read() -> None:
    graph = graph_of(Stack(8))
    plain = Plan()
    # not the logits, which have 16 bits
    assert candidates(graph, plain.resolve(graph)) == ["first", "depthwise", "second"]
    named = Plan(values=(("*", 8), ("depthwise", 16)))
    assert candidates(graph, named.resolve(graph)) == ["first", "second"]
    # what an activation reads that takes bytes alone gains nothing
    assert candidates(graph := graph_of(Stack(8, nn.SELU())), plain.resolve(graph))[0] == "depthwise"
    # that of a Swish can have 16 bits where its operand has
    graph = graph_of(Stack(8, nn.SiLU()))
    swish = next(node.out for node in graph.nodes if node.op == "silu")
    assert swish not in candidates(graph, plain.resolve(graph))
    named = Plan(values=(("*", 8), ("first", 16)))
    assert candidates(graph, named.resolve(graph))[0] == swish
    graph = graph_of(Sum())
    normed = next(node.out for node in graph.nodes if node.op == "layer_norm")
    assert candidates(graph, plain.resolve(graph)) == [normed]


@pytest.fixture(scope="module")
def prepared(small_model: Any) -> zq.Prepared:
    torch.manual_seed(0)
    return prepared_of(harmed(Stack()), small_model)


def chosen(prepared: zq.Prepared, most: float) -> widening.Widened:
    heard = [Heard(prepared.graph, [x[None, :, :64]]) for x in islice(prepared.utterances(), 2)]
    return widened(prepared, Plan.of(prepared.spec), heard, most, silent)


def test_what_harms_most_is_taken_first(prepared: zq.Prepared) -> None:
    before: tuple[str, ...] = ("second",)
    for most, count in ((4.0, 1), (7.5, 2), (12.0, 3)):
        found = chosen(prepared, most)
        assert 1.0 < found.products <= most
        assert len(found.names) == count
        assert found.names[: len(before)] == before
        before = found.names
    assert {*before} == {"first", "depthwise", "second"}
    # where there is no time for it alone, another
    assert chosen(prepared, 3.8).names == ("first",)
    with pytest.warns(ZeroqWarning, match=r"no value more can have 16 bits: the cheapest .* by 3\.76"):
        assert chosen(prepared, 1.001) == widening.Widened()


def test_the_factor_is_that_of_the_plan_over_that_of_the_format(small_model: Any) -> None:
    torch.manual_seed(0)
    named = prepared_of(harmed(Stack()), small_model, "8", "first=16")
    found = chosen(named, 100.0)
    assert {*found.names} == {"depthwise", "second"}
    sizes = {"first": 64, "depthwise": 64, "second": 64, "last": TOKENS}
    count = [products(named.graph, sizes, wide) for wide in ({"first"}, {"first", *found.names})]
    assert found.products == pytest.approx(count[1] / count[0])


def test_plans_have_the_values(prepared: zq.Prepared) -> None:
    plain = zq.find_plan(prepared, max_loss=1e9)
    found = zq.find_plan(prepared, max_loss=1e9, max_time=4.0)
    first = found.plan.values[len(plain.plan.values)]
    assert first == ("second", 16)
    assert found.plan.values == (*plain.plan.values, *((name, 16) for name in chosen_names(found)))
    assert found.wide_values == found.row.wide_values == len(chosen_names(found))
    assert 1.0 < found.products == found.row.products <= 4.0
    assert zq.Plan.from_yaml(found.plan.to_yaml()) == found.plan
    made = zq.quantize(
        prepared, spec=found.plan, search=found.row, training=zq.TrainingSpec(reconstruction="off")
    )
    assert made.size == found.chosen.bytes
    assert made.program.values["second"].type == "int32"
    assert made.verify().program_sha256 == made.program.digest()
    # losses are measured with them, and beyond those of plain 8 bits
    assert found.chosen.measured is not None
    assert plain.chosen.measured is not None
    assert found.chosen.measured < plain.chosen.measured
    assert found.chosen.measured < 0


def chosen_names(found: zq.FoundPlan) -> list[str]:
    return [name for name, bits in found.plan.values if bits == 16]


def test_by_default_no_value_is_chosen(prepared: zq.Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("values were searched")

    monkeypatch.setattr("zeroq_asr.measure.plans.widened", never)
    found = zq.find_plan(prepared, max_loss=0.05)
    assert (found.wide_values, found.products) == (0, 1.0)
    assert found.plan.values == Plan.of(prepared.spec).values
    with pytest.raises(AssertionError, match="values were searched"):
        zq.find_plan(prepared, max_loss=0.05, max_time=1.1)


def test_a_network_whose_values_all_have_16_bits_has_none_more(small_model: Any) -> None:
    torch.manual_seed(0)
    named = prepared_of(Stack(), small_model, "8", "*=16")
    with pytest.warns(ZeroqWarning, match="no value more can have 16 bits; leave it out"):
        assert chosen(named, 9.0) == widening.Widened()
