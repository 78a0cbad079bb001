"""Which values have 16 bits: streams, and what the user names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from integer.sessions import session_of
from torch import Tensor, nn

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import capture
from zeroq_asr.config import NONLINEARITIES, CalibrationSpec, QuantSpec
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.pair_saturation import saturates
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.formats import named_values
from zeroq_asr.lowering.lower import lower

MELS, HIDDEN, TOKENS = 6, 8, 5


class Network(nn.Module):
    """What makes and what reads 16 bits: convolutions in a row, a gate, functions, a sum, masks and moves."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(MELS, HIDDEN, 3, padding=1)
        self.depthwise = nn.Conv1d(HIDDEN, HIDDEN, 5, padding=2, groups=HIDDEN)
        self.pointwise, self.gate = nn.Conv1d(HIDDEN, HIDDEN, 1), nn.Conv1d(HIDDEN, HIDDEN, 1)
        self.up, self.down = nn.Conv1d(HIDDEN, HIDDEN, 1), nn.Conv1d(HIDDEN, HIDDEN, 1)
        self.head = nn.Linear(HIDDEN, TOKENS)

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        def mask(x: Tensor) -> Tensor:
            return x.masked_fill((torch.arange(x.shape[2])[None] >= n[:, None])[:, None], 0.0)

        x = self.stem(mask(x)).relu()
        y = self.pointwise(mask(self.depthwise(mask(x))))
        y = y * torch.sigmoid(self.gate(x))
        y = nn.functional.gelu(self.down(nn.functional.silu(self.up(y))))
        return self.head((x + y).transpose(1, 2)), n


@pytest.fixture(scope="module")
def graph() -> FloatGraph:
    torch.manual_seed(0)
    network = Network().eval().requires_grad_(False)
    return capture(network, (torch.randn(2, MELS, 40), torch.tensor([40, 21])))


@pytest.fixture(scope="module")
def ranges(graph: FloatGraph) -> Any:
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(MELS, frames, generator=generator) for frames in (60, 41)]
    return calibrate(graph, features, CalibrationSpec("audio")).ranges


def lowered(graph: FloatGraph, ranges: Any, *names: str, **fields: Any) -> Program:
    spec = QuantSpec.parse_bits("8", *(f"{name}=16" for name in names), **fields)
    return lower(graph, ranges, spec, channels=MELS, max_frames=3000)


EVERYTHING = ("*",)
SOME = [("depthwise",), ("stem",), ("pointwise",), ("up", "down"), ("*wise", "up"), EVERYTHING]


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("names", SOME, ids="+".join)
def test_named_layers_are_equal_everywhere(
    graph: FloatGraph, ranges: Any, names: tuple[str, ...], nonlinearity: str
) -> None:
    program = lowered(graph, ranges, *names, nonlinearity=nonlinearity)
    assert prove(program).headroom_bits >= 0
    generator = torch.Generator().manual_seed(1)
    x, n = torch.randn(3, MELS, 33, generator=generator) * 2, torch.tensor([33, 1, 20])
    wanted, _ = program.run(NumpyBackend(), x.numpy(), n.numpy())
    found = [program.run(TorchBackend(), x, n)[0].numpy()]
    feeds = dict(zip(program.entering, (x.numpy(), n.numpy()), strict=True))
    for backend in (OnnxStrictBackend(), OnnxFusedBackend(), OnnxFusedBackend("x86-vnni")):
        found.append(session_of(program, backend).run(None, feeds)[0])
    for logits in found:
        for row, frames in enumerate(n):
            np.testing.assert_array_equal(logits[row, :frames], wanted[row, :frames])


def error(graph: FloatGraph, program: Program) -> float:
    # what was calibrated on: nothing is clipped
    x, n = torch.randn(MELS, 60, generator=torch.Generator().manual_seed(0))[None], torch.tensor([60])
    real, _ = graph.run(x, n)
    integers, _ = program.run(TorchBackend(), x, n)
    meant = integers * program.values[program.leaving[0]].scale
    return float((meant - real).square().mean() / real.square().mean())


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_each_16_bit_layer_brings_the_logits_nearer(
    graph: FloatGraph, ranges: Any, nonlinearity: str
) -> None:
    # weights at full range: it is activations that are looked at
    fields = {"nonlinearity": nonlinearity, "target": "x86-vnni"}
    errors = [
        error(graph, lowered(graph, ranges, *names, **fields))
        for names in ((), ("stem", "*wise"), EVERYTHING)
    ]
    assert errors[1] < errors[0]
    # what is left is the weights', and the input's
    assert errors[2] < 0.7 * errors[0]


def test_what_reads_16_bits_takes_both_bytes(graph: FloatGraph, ranges: Any) -> None:
    program = lowered(graph, ranges, "depthwise", "up")
    made = {i.out: i for i in program.code}
    assert made["pointwise"].op == "conv_wide_requant"
    assert program.values["depthwise"].type == "int32"
    ops = [i.op for i in program.code if i.where == made["down"].where or i.op == "mul_wide_requant"]
    assert "mul_wide_requant" in ops
    assert all(program.values[name].type == "uint8" for name in ("stem", "down") if name in made)


def test_nothing_named_changes_nothing(graph: FloatGraph, ranges: Any) -> None:
    plain = lower(graph, ranges, QuantSpec(), channels=MELS, max_frames=3000)
    assert lowered(graph, ranges).digest() == plain.digest()
    assert not any("wide" in i.op for i in plain.code)


def test_the_qdq_spelling_knows_16_bits(graph: FloatGraph, ranges: Any) -> None:
    program = lowered(graph, ranges, *EVERYTHING)
    backend = OnnxQdqBackend(program)
    build(backend, program)
    assert backend.spellings["conv_wide_requant"].keys() == {"qdq"}


def test_both_forms_of_a_nonlinearity_have_one_qdq_spelling(graph: FloatGraph, ranges: Any) -> None:
    nodes = []
    for nonlinearity, op in (("table", "table"), ("polynomial", "polynomial_requant")):
        program = lowered(graph, ranges, *EVERYTHING, nonlinearity=nonlinearity)
        backend = OnnxQdqBackend(program)
        build(backend, program)
        assert backend.spellings[op].keys() == {"qdq"}
        nodes.append([node.op_type for node in backend.nodes if node.op_type != "Clip"])
    assert nodes[0] == nodes[1]


def test_a_name_that_is_none_lists_near_ones(graph: FloatGraph) -> None:
    with pytest.raises(ConfigError, match=r"no layer or value 'depthwize'; near it: depthwise"):
        named_values(graph, [("depthwize", 16)])
    with pytest.raises(ConfigError, match="inspect"):
        named_values(graph, [("zzzzzzzz", 16)])


def test_what_cannot_have_16_bits_is_refused(graph: FloatGraph) -> None:
    sigmoid = next(n.out for n in graph.nodes if n.op == "sigmoid")
    with pytest.raises(ConfigError, match=f"'{sigmoid}' names sigmoid, which cannot have 16 bits"):
        named_values(graph, [(sigmoid, 16)])
    # a product with its operand has no more bits than that
    silu = next(n.out for n in graph.nodes if n.op == "silu")
    with pytest.raises(ConfigError, match="silu and gelu behind one of 16 bits"):
        named_values(graph, [(silu, 16)])
    assert silu in named_values(graph, [(silu, 16), ("up", 16)])


def test_a_move_means_what_is_moved(graph: FloatGraph) -> None:
    mask = next(n for n in graph.nodes if n.op == "mask_time" and n.ins[0] == "stem")
    assert named_values(graph, [(mask.out, 16)]) == {"stem", mask.out} | named_values(graph, [("stem", 16)])


def test_weights_of_products_are_bounded_whatever_the_bits_of_their_operand(
    graph: FloatGraph, ranges: Any
) -> None:
    def weights(target: str, layer: str, *names: str) -> np.ndarray:
        return lowered(graph, ranges, *names, target=target).constants[f"{layer}:weight"]

    for wide in ((), ("depthwise",)):
        assert saturates(weights("x86-vnni", "pointwise", *wide), 255)
        assert not saturates(weights("x86-any", "pointwise", *wide), 255)


def test_weights_of_integer_convolutions_of_16_bits_keep_their_range() -> None:
    network = nn.Sequential(nn.Conv1d(MELS, HIDDEN, 1), nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = network, nn.Linear(HIDDEN, TOKENS)

        def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(self.layers(x).transpose(1, 2)), n

    torch.manual_seed(0)
    two = capture(Two().eval().requires_grad_(False), (torch.randn(2, MELS, 40), torch.tensor([40, 21])))
    known = calibrate(two, [torch.randn(MELS, 60)], CalibrationSpec("audio")).ranges
    first, second = (node.out for node in two.nodes if node.op == "conv1d" and node.out.startswith("layers"))

    def weights(target: str, *names: str) -> np.ndarray:
        return lowered(two, known, *names, target=target).constants[f"{second}:weight"]

    # their kernel takes them unsigned, and saturates nowhere
    np.testing.assert_array_equal(weights("x86-any", first), weights("x86-vnni", first))
    assert saturates(weights("x86-vnni", first), 255)
    assert not saturates(weights("x86-any"), 255)
