"""From a float graph and ranges to a program: formats, weights, and the same integers everywhere."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from integer.sessions import session_of
from torch import Tensor, nn

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import capture
from zeroq_asr.config import NONLINEARITIES, CalibrationSpec, QuantSpec
from zeroq_asr.errors import CalibrationError, ProofError, UnsupportedOperatorError, ZeroqError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.grid import grid_of, symmetric
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import prove
from zeroq_asr.integer.types import weight_limit
from zeroq_asr.lowering.lower import lower
from zeroq_asr.operators.convolution.feedback import weighted_gain
from zeroq_asr.operators.convolution.weights import corrected_bias, quantize_weight

MELS, HIDDEN, TOKENS = 6, 10, 5
MAX_FRAMES = 6000
BITS = {"w8a8": (8, 8), "w7a8": (7, 8), "w6a6": (6, 6), "w4a8": (4, 8), "w2a2": (2, 2)}


# -- a whole network -----------------------------------------------------------------------------


class Network(nn.Module):
    """Every operator that lowers, once: stride, depthwise, shuffle, gate, residual, functions."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(MELS)
        self.stem = nn.Conv1d(MELS, HIDDEN, 5, stride=2, padding=2)
        self.depthwise = nn.Conv1d(HIDDEN, HIDDEN, 7, padding=6, dilation=2, groups=HIDDEN)
        self.pointwise = nn.Conv1d(HIDDEN, HIDDEN, 1)
        self.squeeze, self.excite = nn.Conv1d(HIDDEN, 4, 1), nn.Conv1d(4, HIDDEN, 1)
        self.left = nn.Conv1d(HIDDEN, HIDDEN, 4, groups=2)
        self.head = nn.Linear(HIDDEN, TOKENS)
        self.register_buffer("order", torch.randperm(HIDDEN))

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        def mask(x: Tensor, n: Tensor) -> Tensor:
            return x.masked_fill((torch.arange(x.shape[2])[None] >= n[:, None])[:, None], 0.0)

        x = self.stem(mask(self.norm(x), n)).relu()
        n = (n - 1) // 2 + 1
        y = self.pointwise(self.depthwise(mask(x, n)))
        y = y.index_select(1, self.order)
        mean = mask(y, n).sum(2, keepdim=True) / n[:, None, None]
        y = y * torch.sigmoid(self.excite(self.squeeze(mean).relu()))
        x = (x + y + nn.functional.silu(y)).clamp(-1.0, 6.0)
        x = x + torch.tanh(self.left(nn.functional.pad(mask(x, n), (3, 0))))
        return self.head(x.transpose(1, 2)), n


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    made = Network().eval().requires_grad_(False)
    made.norm.running_var.uniform_(0.5, 2)
    made.norm.running_mean.normal_()
    return made


def batch(count: int, frames: int, lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, MELS, frames, generator=generator), torch.tensor(lengths)


@pytest.fixture(scope="module")
def graph(network: nn.Module) -> FloatGraph:
    return capture(network, batch(2, 40, [40, 21]))


@pytest.fixture(scope="module")
def ranges(graph: FloatGraph) -> dict[str, tuple[float, float]]:
    features = [batch(1, frames, [frames], seed)[0][0] for seed, frames in enumerate((60, 41, 90))]
    return calibrate(graph, features, CalibrationSpec()).ranges


def lowered(graph: FloatGraph, ranges: Any, bits: str = "w8a8", **fields: Any) -> Program:
    spec = QuantSpec.parse_bits(bits, **fields)
    return lower(graph, ranges, spec, channels=MELS, max_frames=MAX_FRAMES)


def run(program: Program, x: Tensor, n: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return program.run(NumpyBackend(), x.numpy(), n.numpy())


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("bits", BITS)
def test_whole_network_is_equal_everywhere(
    graph: FloatGraph, ranges: Any, bits: str, nonlinearity: str
) -> None:
    program = lowered(graph, ranges, bits, nonlinearity=nonlinearity)
    assert ("table" in {i.op for i in program.code}) == (nonlinearity == "table")
    assert prove(program).headroom_bits >= 0
    sessions = [session_of(program, backend) for backend in (OnnxStrictBackend(), OnnxFusedBackend())]
    for x, n in (
        batch(3, 50, [50, 17, 1]),
        batch(1, 1, [1], 1),
        batch(2, 131, [130, 131], 2),
        # far outside of the calibrated range: everything saturates
        (batch(2, 30, [30, 9], 3)[0] * 1000, torch.tensor([30, 9])),
    ):
        logits, encoded = run(program, x, n)
        assert logits.dtype == np.int32
        for session in sessions:
            found = session.run(["logits", "encoded"], {"audio_signal": x.numpy(), "length": n.numpy()})
            np.testing.assert_array_equal(found[0], logits)
            np.testing.assert_array_equal(found[1], encoded)
        with torch.inference_mode():
            tensors = program.run(TorchBackend(), x, n)
        np.testing.assert_array_equal(tensors[0].numpy(), logits)
        np.testing.assert_array_equal(tensors[1].numpy(), encoded)


@pytest.mark.parametrize("bits", BITS)
def test_a_batch_gives_each_utterance_what_it_gets_alone(graph: FloatGraph, ranges: Any, bits: str) -> None:
    program = lowered(graph, ranges, bits)
    x, n = batch(4, 64, [64, 33, 2, 17])
    logits, encoded = run(program, x, n)
    for i, frames in enumerate(n.tolist()):
        alone, count = run(program, x[i : i + 1, :, :frames], n[i : i + 1])
        assert count[0] == encoded[i] == alone.shape[1]
        np.testing.assert_array_equal(logits[i, : count[0]], alone[0])


def test_padding_never_matters(graph: FloatGraph, ranges: Any) -> None:
    program = lowered(graph, ranges)
    x, n = batch(2, 64, [30, 41])
    logits, encoded = run(program, x, n)
    x[0, :, 30:], x[1, :, 41:] = 1e4, -77.0
    again, _ = run(program, x, n)
    for i, valid in enumerate(encoded):
        np.testing.assert_array_equal(logits[i, :valid], again[i, :valid])


@pytest.mark.parametrize(("bits", "error"), [("w8a8", 0.03), ("w7a8", 0.05), ("w6a6", 0.2)])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_logits_approximate_the_network(
    network: nn.Module, graph: FloatGraph, ranges: Any, bits: str, error: float, nonlinearity: str
) -> None:
    program = lowered(graph, ranges, bits, nonlinearity=nonlinearity)
    x, n = batch(1, 60, [60])
    wanted, _ = network(x, n)
    logits, _ = run(program, x, n)
    found = logits * program.values[program.leaving[0]].scale
    assert np.abs(found - wanted.numpy()).mean() <= error * float(wanted.std())


@pytest.mark.parametrize("bits", BITS)
def test_formats_and_weights_stay_within_their_bits(graph: FloatGraph, ranges: Any, bits: str) -> None:
    weight_bits, activation_bits = BITS[bits]
    program = lowered(graph, ranges, bits, sensitive_bits=weight_bits)
    for name, info in program.values.items():
        if name in program.outputs or info.type == "int32":
            assert (info.zero_point, info.lo, info.hi) == (0, -32768, 32767)
            continue
        assert (info.lo, info.hi) == (0, 2**activation_bits - 1)
        assert info.lo <= info.zero_point <= info.hi, name
        assert info.scale > 0
    for name, array in program.constants.items():
        if name.endswith(":weight"):
            assert symmetric(weight_bits).holds(array)
            assert array.dtype == np.int8
        elif name.endswith(":multiplier"):
            assert array.dtype == np.int32
            assert array.min() >= 1
        elif name.endswith(":bias"):
            assert array.dtype == np.int32
    seen: dict[str, tuple[int, int]] = {}
    program.run(
        NumpyBackend(),
        *(t.numpy() for t in batch(2, 50, [50, 20])),
        observe=lambda i, v: seen.update({i.out: (int(v.min()), int(v.max()))}),
    )
    for name, info in program.values.items():
        assert info.lo <= seen[name][0] <= seen[name][1] <= info.hi, name


def test_every_byte_operator_finds_its_kernel(graph: FloatGraph, ranges: Any) -> None:
    backend = OnnxFusedBackend()
    session_of(lowered(graph, ranges), backend)
    # the last convolution makes 16-bit logits and stays spelled out
    assert backend.spellings["conv_requant"] == {"QLinearConv": 7, "primitives": 1}
    assert set(backend.spellings["add_requant"]) == {"QLinearAdd", "sum in exact floats"}
    assert set(backend.spellings["mul_requant"]) == {"QLinearMul"}


def test_programs_are_json(graph: FloatGraph, ranges: Any) -> None:
    program = lowered(graph, ranges)
    data = json.loads(json.dumps(program.to_json()))
    again = Program.from_json(data, program.constants)
    assert again == program
    assert again.digest() == program.digest()


def test_ranges_may_be_numpy_scalars(graph: FloatGraph, ranges: Any) -> None:
    wanted = lowered(graph, ranges)
    given_ranges = {k: (np.float64(lo), np.float64(hi)) for k, (lo, hi) in ranges.items()}
    assert lowered(graph, given_ranges).digest() == wanted.digest()
    narrow = lowered(graph, {k: (np.float32(lo), np.float32(hi)) for k, (lo, hi) in ranges.items()})
    json.dumps(narrow.to_json())


def test_lowering_is_deterministic_and_leaves_the_graph_alone(graph: FloatGraph, ranges: Any) -> None:
    before = [(n.op, n.out, n.ins, sorted(n.attrs)) for n in graph.nodes]
    assert lowered(graph, ranges).digest() == lowered(graph, ranges).digest()
    assert [(n.op, n.out, n.ins, sorted(n.attrs)) for n in graph.nodes] == before


def test_program_says_what_it_is_proven_for(graph: FloatGraph, ranges: Any) -> None:
    program = lowered(graph, ranges)
    assert (program.channels, program.max_frames) == (MELS, MAX_FRAMES)
    assert prove(program).max_frames == MAX_FRAMES


# -- weights -------------------------------------------------------------------------------------


def reconstructed(w: np.ndarray, ratio: float, bits: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, m = quantize_weight(w, ratio, grid_of(f"int{bits}"))
    return q, m, q * (m * ratio)[:, None, None]


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_largest_weight_is_not_clipped(bits: int) -> None:
    # one weight alone: clipping it could only cost
    w = np.zeros((2, 3, 5))
    w[0, 1, 2], w[1, 2, 0] = 0.731, -0.731
    q, m, back = reconstructed(w, 1e-6, bits)
    # the multiplier is fine enough here to hit it to a part in ten thousand
    np.testing.assert_allclose(back, w, rtol=1e-4, atol=1e-12)
    assert abs(int(q[0, 1, 2])) == abs(int(q[1, 2, 0]))
    assert m.min() > 1


@pytest.mark.parametrize("sign", [1, -1])
def test_both_signs_reach_the_same_limit(sign: int) -> None:
    w = sign * np.linspace(-1, 1, 255)[None, None]
    q, _, back = reconstructed(w, 1e-6, 8)
    # uniform weights have no tail to sacrifice, and -128 is never used
    assert (int(q.min()), int(q.max())) == (-127, 127)
    assert np.abs(back - w).max() < 1 / 254


def gain(back: np.ndarray, w: np.ndarray) -> np.ndarray:
    return (back * w).sum(axis=(1, 2)) / (w**2).sum(axis=(1, 2))


def cost(back: np.ndarray, w: np.ndarray) -> np.ndarray:
    """tan² of the angle between the channels, plus the square of how far the gain is from one."""
    along = gain(back, w)[:, None, None] * w
    across = back - along
    return (across**2).sum(axis=(1, 2)) / (along**2).sum(axis=(1, 2)) + (gain(back, w) - 1) ** 2


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_beat_plain_rounding(bits: int) -> None:
    w = np.random.default_rng(bits).standard_normal((16, 8, 3))
    limit = weight_limit(bits)
    for ratio in (1e-6, 1e-4, 3e-3):
        _, _, back = reconstructed(w, ratio, bits)
        largest = np.abs(w).max(axis=(1, 2))
        for rounding in (np.floor, np.ceil, np.rint):
            m = np.maximum(rounding(largest / (limit * ratio)), 1)
            scale = (m * ratio)[:, None, None]
            plain = np.clip(np.rint(w / scale), -limit, limit) * scale
            assert (cost(back, w) <= cost(plain, w) * (1 + 1e-9)).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_keep_the_gain_of_their_channel(bits: int) -> None:
    # least squares would shrink it: by a tenth at three bits
    w = np.random.default_rng(bits).laplace(size=(16, 8, 3))
    for ratio in (1e-6, 1e-3):
        _, m, back = reconstructed(w, ratio, bits)
        assert (np.abs(gain(back, w) - 1) <= 0.5 / m * 1.01).all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(-9, 1))
def test_quantized_weights_are_sound(seed: int, bits: int, exponent: float) -> None:
    generator = np.random.default_rng(seed)
    w = generator.standard_normal((5, 2, 3)) * 10.0 ** generator.uniform(-6, 2, (5, 1, 1))
    w[2] = 0
    q, m, back = reconstructed(w, 10.0**exponent, bits)
    assert q.dtype == np.int8
    assert np.abs(q.astype(int)).max() <= weight_limit(bits)
    assert m.min() >= 1
    assert m[2] == 1
    assert not q[2].any()
    # never worse than dropping the channel
    alive = q.any(axis=(1, 2))
    assert (cost(back[alive], w[alive]) <= 1).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from([(6, 4, 1), (6, 6, 2), (4, 4, 4)]))
def test_bias_correction_restores_the_mean(seed: int, layout: tuple[int, int, int]) -> None:
    outputs, inputs, groups = layout
    generator = np.random.default_rng(seed)
    w = generator.standard_normal((outputs, inputs // groups, 3))
    rounded = np.round(w * 2) / 2
    bias, x = generator.standard_normal(outputs), generator.standard_normal((inputs, 50)) + 2
    # without padding every tap sees the same mean but for the ends of the recording
    x[:, :2], x[:, -2:] = 0, 0
    found = corrected_bias(bias, w, rounded, x.mean(axis=1), groups)

    def mean(weight: np.ndarray, b: np.ndarray) -> np.ndarray:
        y = torch.conv1d(
            torch.tensor(x)[None], torch.tensor(weight), torch.tensor(b), padding=1, groups=groups
        )
        return y[0].mean(dim=1).numpy()

    np.testing.assert_allclose(mean(rounded, found), mean(w, bias), atol=1e-12)
    assert corrected_bias(bias, w, rounded, None, groups) is bias


def test_bias_correction_can_be_left_out(graph: FloatGraph, ranges: Any) -> None:
    means = {
        node.ins[0]: np.ones(node.attrs["weight"].shape[1] * node.attrs["groups"])
        for node in graph.nodes
        if node.op == "conv1d"
    }
    plain = lowered(graph, ranges, "w3a8")
    corrected = lower(
        graph, ranges, QuantSpec.parse_bits("w3a8"), channels=MELS, max_frames=MAX_FRAMES, means=means
    )
    changed = {name for name, array in plain.constants.items() if (array != corrected.constants[name]).any()}
    assert changed
    assert all(name.endswith(":bias") for name in changed)


# -- one layer -----------------------------------------------------------------------------------


def test_rounding_by_feedback_changes_constants_alone_and_helps() -> None:
    """On inputs with few causes, the layer's output is nearer to float; formats and instructions stay."""
    generator = torch.Generator().manual_seed(0)
    causes = torch.randn(4, 6, 400, generator=generator)
    mixing = torch.randn(MELS, 6, generator=generator)
    features = [mixing @ c for c in causes]
    graph = one_conv(torch.randn(24, MELS, 1, generator=generator).numpy(), torch.zeros(24).numpy())
    found = calibrate(graph, features, CalibrationSpec("noise", margin=1.0), covariances=True)
    options = {"channels": MELS, "max_frames": MAX_FRAMES}
    spec = QuantSpec.parse_bits("w3a8", sensitive_bits=3)
    plain = lower(graph, found.ranges, spec, **options)
    mended = lower(graph, found.ranges, spec, **options, covariances=found.covariances)
    changed = {n for n in plain.constants if not np.array_equal(plain.constants[n], mended.constants[n])}
    assert any(name.endswith(":weight") for name in changed)
    assert mended.code == plain.code
    assert mended.values == plain.values
    x, n = features[0][None], torch.tensor([400])
    wanted, _ = graph.run(x, n)

    def off(program: Program) -> float:
        logits, _ = run(program, x, n)
        return float(np.square(logits * program.values[program.leaving[0]].scale - wanted.numpy()).mean())

    assert off(mended) < 0.7 * off(plain)
    (conv,) = (i for i in mended.code if i.op == "conv_requant")
    q, m = (mended.constants[name] for name in (conv.ins[1], conv.ins[3]))
    scale = m / 2.0 ** conv.attrs["c"] * mended.values[conv.out].scale / mended.values[conv.ins[0]].scale
    (node,) = (n for n in graph.nodes if n.op == "conv1d")
    rows = node.attrs["weight"].double().numpy()[:, :, 0]
    grown = weighted_gain(rows, q[:, :, 0] * scale[:, None], found.covariances[node.out])
    # to the nearest multiplier
    assert (np.abs(grown - 1) <= 0.51 / m + 1e-6).all()
    prove(mended)


def one_conv(weight: np.ndarray, bias: np.ndarray, clamp: Any = None, **layout: Any) -> FloatGraph:
    attrs: dict[str, Any] = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": 1, **layout}
    attrs["weight"] = torch.tensor(weight, dtype=torch.float32)
    attrs["bias"] = torch.tensor(bias, dtype=torch.float32)
    if clamp is not None:
        attrs["clamp"] = clamp
    nodes = [
        FloatNode("conv1d", "h", ("audio_signal",), attrs, "layer"),
        # a second reader keeps h a byte activation and not the logits
        FloatNode("add", "s", ("h", "h"), {}, "sum"),
        FloatNode("transpose", "y", ("s",), {"perm": (0, 2, 1)}, "logits"),
    ]
    return FloatGraph(("audio_signal", "length"), ("y", "length"), nodes)


def hidden(
    graph: FloatGraph, ranges: dict[str, Any], x: np.ndarray, bits: str = "w8a8"
) -> tuple[np.ndarray, Program]:
    """Real values of ``h`` as the integers mean them."""
    count = graph.nodes[0].attrs["weight"].shape[0]
    filled = {"s": (-1.0, 1.0), "y": (-1.0, 1.0), **ranges}
    channels = x.shape[1]
    spec = QuantSpec.parse_bits(bits)
    program = lower(graph, filled, spec, channels=channels, max_frames=100)
    prove(program)
    seen: dict[str, np.ndarray] = {}
    lengths = np.full(x.shape[0], x.shape[2])
    program.run(NumpyBackend(), x.astype(np.float32), lengths, observe=lambda i, v: seen.update({i.out: v}))
    info = program.values["h"]
    assert seen["h"].shape[1] == count
    return info.scale * (seen["h"].astype(float) - info.zero_point), program


@pytest.mark.parametrize("bits", BITS)
def test_a_dead_channel_keeps_its_bias(bits: str) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 2, 1))
    weight[1] = 0
    x = np.random.default_rng(1).uniform(-1, 1, (1, 2, 30))
    graph = one_conv(weight, np.array([0.1, 1.7, -0.4]))
    found, program = hidden(graph, {"audio_signal": (-1, 1), "h": (-4, 4)}, x, bits)
    assert program.constants["h:multiplier"][1] == 1
    assert np.abs(found[0, 1] - 1.7).max() <= 0.5 * program.values["h"].scale + 1e-9
    assert len(set(found[0, 1])) == 1


def test_a_dead_channel_saturates_where_its_bias_leaves_the_range() -> None:
    weight = np.ones((3, 1, 1))
    weight[1:] = 0
    graph = one_conv(weight, np.array([0.0, 1e9, -1e9]))
    found, program = hidden(graph, {"audio_signal": (-1, 1), "h": (-1, 1)}, np.zeros((1, 1, 4)))
    scale = program.values["h"].scale
    assert np.abs(found[0, 0]).max() == 0.0
    assert np.abs(found[0, 1] - 1).max() <= scale
    assert np.abs(found[0, 2] + 1).max() <= scale


def test_weak_channels_beside_strong_ones_survive() -> None:
    # scales are per channel: a channel a thousand times weaker keeps a multiplier of at least one
    weight = np.array([10.0, 1e-2, 1e-6])[:, None, None] * np.ones((3, 4, 1))
    x = np.ones((1, 4, 3))
    graph = one_conv(weight, np.array([0.0, 0.0, 5.0]))
    found, program = hidden(graph, {"audio_signal": (0, 1), "h": (0, 40)}, x)
    step = program.values["h"].scale
    assert np.abs(found[0, :, 0] - [40.0, 0.04, 5.0]).max() <= 0.51 * step
    assert program.constants["h:multiplier"].min() >= 1


@pytest.mark.parametrize("reach", [1e-3, 1e-6, 1e-9, 1e-12, 1e-30])
def test_a_range_far_below_the_weights_saturates_and_never_wraps(reach: float) -> None:
    graph = one_conv(np.array([[[1.0]], [[-1.0]]]), np.zeros(2))
    x = np.array([[[1.0, -1.0, 0.0]]])
    try:
        found, program = hidden(graph, {"audio_signal": (-1, 1), "h": (-reach, reach)}, x)
    except ZeroqError:
        return  # refusing is as good
    assert program.constants["h:multiplier"].min() >= 1
    wanted = np.array([[1, -1, 0], [-1, 1, 0]]) * reach
    assert np.abs(found[0] - wanted).max() <= 1.01 * program.values["h"].scale


@pytest.mark.parametrize("source", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("target", [1e-4, 1.0, 1e4])
def test_scales_of_any_ratio(source: float, target: float) -> None:
    weight = np.array([[[1.0]], [[0.3]]]) * target / source
    x = np.linspace(-source, source, 50)[None, None]
    graph = one_conv(weight, np.array([0.0, 0.1]) * target)
    found, program = hidden(graph, {"audio_signal": (-source, source), "h": (-target, target)}, x)
    wanted = np.clip(weight[:, 0] * x[0] + np.array([[0.0], [0.1]]) * target, -target, target)
    assert np.abs(found[0] - wanted).max() <= 1.6 * program.values["h"].scale


@pytest.mark.parametrize(
    ("real", "zero_point"),
    [((2.0, 5.0), 0), ((-5.0, -2.0), 255), ((0.0, 1.0), 0), ((-1.0, 0.0), 255), ((-1.0, 254.0), 1)],
)
def test_zero_is_always_representable(real: tuple[float, float], zero_point: int) -> None:
    graph = one_conv(np.ones((1, 1, 1)), np.zeros(1))
    _, program = hidden(graph, {"audio_signal": real, "h": real}, np.zeros((1, 1, 2)))
    for name in ("h", "audio_signal:quantized"):
        info = program.values[name]
        assert info.zero_point == zero_point
        # and the range still covers what was asked for
        assert info.scale * (info.lo - info.zero_point) <= min(real[0], 0.0) + info.scale
        assert info.scale * (info.hi - info.zero_point) >= max(real[1], 0.0) - info.scale


@pytest.mark.parametrize(
    "real", [(-1e-3, 1000.0), (-1000.0, 1e-3), (-1e-22, 1e-22), (-1e28, 1e28), (0.0, 0.0)]
)
def test_zero_points_stay_inside(real: tuple[float, float]) -> None:
    graph = one_conv(np.zeros((1, 1, 1)), np.zeros(1))
    for bits in BITS:
        everywhere = dict.fromkeys(("audio_signal", "h", "s", "y"), real)
        _, program = hidden(graph, everywhere, np.zeros((1, 1, 2)), bits)
        for info in program.values.values():
            assert info.lo <= info.zero_point <= info.hi
            assert info.scale > 0


@pytest.mark.parametrize("real", [(-1e-30, 1e-30), (-3e38, 3e38)])
def test_scales_that_leave_float32_no_room_are_refused(real: tuple[float, float]) -> None:
    graph = one_conv(np.zeros((1, 1, 1)), np.zeros(1))
    with pytest.raises(ProofError, match="scale must be"):
        hidden(graph, dict.fromkeys(("audio_signal", "h", "s", "y"), real), np.zeros((1, 1, 2)))


@pytest.mark.parametrize(
    "real", [(float("nan"), 1.0), (0.0, float("nan")), (0.0, float("inf")), (-float("inf"), 0.0)]
)
@pytest.mark.parametrize("name", ["h", "audio_signal", "s"])
def test_ranges_that_are_not_finite_name_the_value(name: str, real: tuple[float, float]) -> None:
    graph = one_conv(np.ones((1, 1, 1)), np.zeros(1))
    given_ranges = {"audio_signal": (0, 1), "h": (0, 1), name: real}
    with pytest.raises(CalibrationError) as caught:
        hidden(graph, given_ranges, np.zeros((1, 1, 2)))
    assert caught.value.where == name


def test_a_range_that_is_missing_names_the_value() -> None:
    graph = one_conv(np.ones((1, 1, 1)), np.zeros(1))
    with pytest.raises(CalibrationError, match="h: was never observed"):
        hidden(graph, {"audio_signal": (0, 1)}, np.zeros((1, 1, 2)))


def test_an_operator_without_a_lowering_names_its_layer() -> None:
    graph = one_conv(np.ones((1, 1, 1)), np.zeros(1))
    graph.nodes[1].op = "affine"
    graph.nodes[1].attrs = {"scale": torch.ones(1), "shift": torch.zeros(1)}
    with pytest.raises(UnsupportedOperatorError, match=r"sum: operator affine .*supported: .*conv1d"):
        hidden(graph, {"audio_signal": (0, 1), "h": (0, 1)}, np.zeros((1, 1, 2)))


@pytest.mark.parametrize(
    "clamp", [(0.0, None), (0.0, 0.5), (-0.25, 0.5), (None, 0.3), (-9.0, 9.0), (0.2, 0.6)]
)
def test_fused_clamps_bound_the_integers(clamp: tuple[float | None, float | None]) -> None:
    x = np.linspace(-1, 1, 101)[None, None]
    graph = one_conv(np.ones((1, 1, 1)), np.zeros(1), clamp)
    found, program = hidden(graph, {"audio_signal": (-1, 1), "h": (-1, 1)}, x)
    wanted = np.clip(x, clamp[0], clamp[1])
    assert np.abs(found - wanted).max() <= 1.01 * program.values["h"].scale


@pytest.mark.parametrize("clamp", [(2.0, 3.0), (-3.0, -2.0), (0.0, 1e-9), (0.0, 1e30), (-1e30, 0.0)])
def test_clamps_beyond_the_range_stay_inside_the_type(clamp: tuple[float, float]) -> None:
    graph = one_conv(np.ones((1, 1, 1)), np.zeros(1), clamp)
    x = np.linspace(-1, 1, 11)[None, None]
    found, _ = hidden(graph, {"audio_signal": (-1, 1), "h": (-1, 1)}, x)
    assert np.isfinite(found).all()


# -- what becomes the logits ---------------------------------------------------------------------


def ends_with(*last: FloatNode) -> FloatGraph:
    generator = torch.Generator().manual_seed(0)
    layout = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": 1}
    weight = torch.randn(4, 3, 3, generator=generator)
    first = FloatNode("conv1d", "h", ("audio_signal",), {"weight": weight, "bias": torch.zeros(4), **layout})
    end = FloatNode("transpose", "y", (last[-1].out,), {"perm": (0, 2, 1)})
    return FloatGraph(("audio_signal", "length"), ("y", "length"), [first, *last, end])


ENDS: dict[str, list[FloatNode]] = {
    "conv": [
        FloatNode(
            "conv1d",
            "z",
            ("h",),
            {
                "weight": torch.eye(4)[:, :, None],
                "bias": torch.ones(4),
                "stride": 1,
                "padding": (0, 0),
                "dilation": 1,
                "groups": 1,
            },
        )
    ],
    "add": [FloatNode("add", "z", ("h", "h"))],
    "relu": [FloatNode("clamp", "z", ("h",), {"clamp": (0.0, None)})],
    "mul": [FloatNode("mul", "z", ("h", "h"))],
    "sigmoid": [FloatNode("sigmoid", "z", ("h",))],
    "tanh": [FloatNode("tanh", "z", ("h",))],
    "silu": [FloatNode("silu", "z", ("h",))],
    "mask": [FloatNode("mask_time", "z", ("h", "length"))],
    "channels": [FloatNode("take_channels", "z", ("h",), {"index": (3, 0)})],
    "masked sum": [FloatNode("add", "s", ("h", "h")), FloatNode("mask_time", "z", ("s", "length"))],
    "chosen sum": [
        FloatNode("add", "s", ("h", "h")),
        FloatNode("take_channels", "z", ("s",), {"index": (3, 0)}),
    ],
}


@pytest.mark.parametrize("logit_bits", [8, 12, 16])
@pytest.mark.parametrize("end", ENDS)
def test_whatever_ends_a_network_becomes_logits_or_is_refused(end: str, logit_bits: int) -> None:
    graph = ends_with(*ENDS[end])
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(3, 40, generator=generator) for _ in range(3)]
    ranges = calibrate(graph, features, CalibrationSpec()).ranges
    spec = QuantSpec(logit_bits=logit_bits)
    try:
        program = lower(graph, ranges, spec, channels=3, max_frames=1000)
        prove(program)
    except ZeroqError:
        return
    x, n = features[0][None], torch.tensor([40])
    wanted, _ = graph.run(x, n)
    logits, _ = run(program, x, n)
    info = program.values["y"]
    found = info.scale * (logits.astype(float) - info.zero_point)
    assert np.abs(found - wanted.numpy()).max() <= 0.04 * float(wanted.abs().max())
    for backend in (OnnxStrictBackend(), OnnxFusedBackend()):
        session = session_of(program, backend)
        exported = session.run(["logits"], {"audio_signal": x.numpy(), "length": n.numpy()})[0]
        np.testing.assert_array_equal(exported, logits)


def test_masks_of_one_length_over_values_of_different_frames() -> None:
    # a network that never counts the frames its convolution without padding takes away
    layout = {"stride": 1, "padding": (0, 0), "dilation": 1, "groups": 1}

    def conv(out: str, source: str) -> FloatNode:
        weight = torch.eye(3)[:, :, None].repeat(1, 1, 3) / 3
        return FloatNode("conv1d", out, (source,), {"weight": weight, "bias": torch.zeros(3), **layout})

    nodes = [
        FloatNode("mask_time", "a", ("audio_signal", "length")),
        conv("b", "a"),
        FloatNode("mask_time", "c", ("b", "length")),
        conv("d", "c"),
        FloatNode("transpose", "y", ("d",), {"perm": (0, 2, 1)}),
    ]
    graph = FloatGraph(("audio_signal", "length"), ("y", "length"), nodes)
    ranges = calibrate(graph, [torch.randn(3, 40)], CalibrationSpec()).ranges
    program = lower(graph, ranges, QuantSpec(), channels=3, max_frames=1000)
    x, n = torch.randn(2, 3, 20), torch.tensor([20, 11])
    logits, _ = run(program, x, n)
    assert logits.shape == (2, 16, 3)
    assert sum(i.op == "time_mask" for i in program.code) == 2
