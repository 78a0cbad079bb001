"""Streams of 16 bits: which values are wide, which share a scale, and blocks of attention in integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from float_graphs import HIDDEN, MELS, Builder
from integer.sessions import session_of
from torch import Tensor

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import prepared_graph
from zeroq_asr.capture.tracer import OfFrames
from zeroq_asr.config import CalibrationSpec, QuantSpec
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.formats import WIDE_MARGIN, wide_formats, wide_values
from zeroq_asr.lowering.lower import lower
from zeroq_asr.operators.attention.scores import aligned, hides, reach_of

HEADS, LONGEST = 2, 200


def rows(frames: int) -> Tensor:
    """Sines of the distances T − 1 down to 1 − T, [2T − 1, HIDDEN]."""
    distance = torch.arange(frames - 1, -frames, -1.0)[:, None]
    return torch.sin(distance * 0.5 ** torch.arange(HIDDEN)[None] + torch.arange(HIDDEN)[None])


def conformer(layers: int = 2, front: bool = True) -> tuple[FloatGraph, list[str]]:
    """Residual blocks of attention with relative positions and of linear layers; returns the stream too."""
    b = Builder()
    x, lengths, width = "audio_signal", "length", MELS
    if front:
        image = b.node("image", x)
        layout = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        image = b.node("conv2d", image, weight=b.random(3, 1, 3, 3) / 3, bias=b.random(3) / 10, **layout)
        lengths = b.node("length_step", lengths, before=-1, divisor=2, after=1)
        image = b.node("mask_time", b.node("clamp", image, clamp=(0.0, None)), lengths)
        x, width = b.node("flatten", image, channels=3 * MELS // 2), 3 * MELS // 2
    stream = [b.linear(x, width, HIDDEN)]
    table = OfFrames(rows)
    for _ in range(layers):
        weight = b.random(HIDDEN, HIDDEN) / HIDDEN**0.5

        def positions(frames: int, weight: Tensor = weight) -> Tensor:
            return (rows(frames) @ weight.t()).t().reshape(HEADS, HIDDEN // HEADS, -1)

        y = b.norm(stream[-1])
        query, key, value, place = (b.linear(y, HIDDEN, HIDDEN) for _ in range(4))
        y = b.node(
            "attention",
            *(query, key, value, lengths, place),
            heads=HEADS,
            scale=(HIDDEN // HEADS) ** -0.5,
            positions=OfFrames(positions, (table, weight)),
        )
        added = b.linear(y, HIDDEN, HIDDEN)
        stream += [added, b.node("add", stream[-1], added)]
        y = b.node("silu", b.linear(b.norm(stream[-1]), HIDDEN, HIDDEN))
        added = b.linear(y, HIDDEN, HIDDEN)
        stream += [added, b.node("add", stream[-1], added)]
    return b.graph(b.norm(stream[-1]), lengths), stream


def features(count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(MELS, 40 + 30 * k, generator=generator) for k in range(count)]


def lowered(graph: FloatGraph) -> Program:
    ranges = calibrate(graph, features(), CalibrationSpec()).ranges
    return lower(graph, ranges, QuantSpec(), channels=MELS, max_frames=LONGEST)


# -- which values are wide -----------------------------------------------------------------------


def test_a_stream_is_one_group() -> None:
    graph, stream = conformer()
    assert [{*group} for group in wide_values(graph)] == [{*stream}]


def test_what_norms_alone_read_is_wide_by_itself() -> None:
    b = Builder()
    x = b.linear("audio_signal", MELS, HIDDEN)
    graph = b.graph(b.norm(x))
    assert wide_values(graph) == [{x}]


def test_moves_are_as_wide_as_what_they_move() -> None:
    b = Builder()
    x = b.linear("audio_signal", MELS, HIDDEN)
    masked = b.node("mask_time", x, "length")
    graph = b.graph(b.norm(masked))
    assert wide_values(graph) == [{x, masked}]


def test_clamped_sums_and_bytes_alone_are_not_wide() -> None:
    b = Builder()
    x, y = (b.linear("audio_signal", MELS, HIDDEN) for _ in range(2))
    clamped = b.node("add", x, y, clamp=(0.0, None))
    graph = b.graph(b.norm(clamped))
    assert wide_values(graph) == []
    c = Builder()
    x, y = (c.linear("audio_signal", MELS, HIDDEN) for _ in range(2))
    assert wide_values(c.graph(c.node("add", x, y))) == []


def test_a_group_has_one_scale_and_each_value_its_bounds() -> None:
    graph, stream = conformer()
    ranges = {name: (-1.0 - k, 0.5) for k, name in enumerate(stream)}
    formats = wide_formats(graph, ranges)
    assert set(formats) == set(stream)
    largest = float(len(stream))
    for k, name in enumerate(stream):
        info = formats[name]
        assert (info.type, info.zero_point, info.lo) == ("int32", 0, -info.hi)
        assert info.scale == largest * WIDE_MARGIN / 32767
        assert info.hi == round((1.0 + k) * WIDE_MARGIN / info.scale)
    assert formats[stream[-1]].hi == 32767


def test_values_of_zero_have_a_format() -> None:
    graph, stream = conformer()
    formats = wide_formats(graph, dict.fromkeys(stream, (0.0, 0.0)))
    assert all((info.scale, info.lo, info.hi) == (1.0, -1, 1) for info in formats.values())


@pytest.mark.parametrize("ratio", [1e-4, 0.3, 1.0, 3.7, 900.0])
def test_distances_share_the_unit_of_contents(ratio: float) -> None:
    b = Builder()
    ins = [b.linear("audio_signal", MELS, HIDDEN) for _ in range(5)]
    query, key, value, place, distances = ins
    b.node("attention", query, key, value, "length", place, distances, heads=HEADS, scale=1.0)
    scales = dict(zip(ins, (0.1, 0.2, 1.0, 0.3, ratio * 0.02 / 0.3), strict=True))
    q, k, p, r = (ValueInfo("uint8", scales[name], 128, 0, 255) for name in (query, key, place, distances))
    up, mp = aligned(q, k, p, r, HIDDEN // HEADS, 1.0)
    found = {distances: q.scale * k.scale * mp / (up * p.scale)}
    # never a finer one, which would clip, and hardly a coarser: by a 32nd of the unit of contents
    unit, own = scales[query] * scales[key] / scales[place], scales[distances]
    assert own * (1 - 1e-6) <= found[distances] <= max(own * 1.05, own + unit / 32)
    # a whole number of 2^-12 units at most
    units = found[distances] * scales[place] / (scales[query] * scales[key]) * 4096
    assert units == pytest.approx(round(units), rel=1e-9)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("size", [HIDDEN // HEADS, 24, 64, 128])
def test_scores_of_few_bits_lie_above_the_masked_ones(bits: int, size: int) -> None:
    high = (1 << bits) - 1
    info = ValueInfo("uint8", 6.0 / high, high // 2, 0, high)
    up, mp = aligned(info, info, info, info, size, size**-0.5)
    cap = reach_of(size**-0.5 * info.scale**2 / up)
    tables = np.array([255, 0]), np.array([127, 0])
    assert hides(*tables, {"size": size, "up": up, "mp": mp, "cap": cap})


# -- a whole network -----------------------------------------------------------------------------


def test_the_stream_is_added_as_integers_of_one_scale() -> None:
    graph, stream = conformer()
    program = lowered(prepared_graph(graph))
    prove(program)
    sums = [i for i in program.code if i.op == "add_requant" and i.out in stream]
    assert len(sums) == 4
    assert all((i.attrs["m"], i.attrs["c"]) == ((1, 1), 0) for i in sums)
    assert {program.values[name].scale for name in stream} == {program.values[stream[0]].scale}
    assert {program.values[name].type for name in stream} == {"int32"}
    tables = [i for i in program.code if i.op == "positions"]
    assert len(tables) == 1
    # 100 frames behind the stride of two, and as many columns for each sign
    assert program.constants[tables[0].ins[1]].shape == (HIDDEN, 2 * LONGEST // 2)


def test_what_cannot_read_words_reads_one_copy_of_bytes() -> None:
    b = Builder()
    x = b.linear("audio_signal", MELS, HIDDEN)
    y = b.node("add", x, b.linear(b.norm(x), HIDDEN, HIDDEN))
    z = b.node("mul", b.norm(y), b.node("sigmoid", b.linear(y, HIDDEN, HIDDEN)))
    z = b.node("add", z, b.node("tanh", y))
    program = lowered(b.graph(z))
    prove(program)
    copies = [i for i in program.code if i.out.endswith(":bytes")]
    assert [(i.op, i.ins, i.attrs["type"]) for i in copies] == [("add_requant", (y,), "uint8")]
    readers = {i.op for i in program.code if f"{y}:bytes" in i.ins}
    assert readers == {"conv_requant", "table"}
    assert {i.op for i in program.code if y in i.ins} == {"add_requant", "layer_norm"}


@pytest.mark.parametrize("front", [False, True])
def test_every_interpreter_agrees_and_the_reals_are_near(front: bool) -> None:
    graph = prepared_graph(conformer(front=front)[0])
    program = lowered(graph)
    prove(program)
    sessions = [session_of(program, backend) for backend in (OnnxStrictBackend(), OnnxFusedBackend())]
    for lengths in ([70, 31, 1], [200], [1]):
        n = torch.tensor(lengths)
        x = torch.randn(
            len(lengths), MELS, max(lengths), generator=torch.Generator().manual_seed(len(lengths))
        )
        x = x.masked_fill(torch.arange(max(lengths))[None, None] >= n[:, None, None], 0.0)
        logits, encoded = program.run(NumpyBackend(), x.numpy(), n.numpy())
        for session in sessions:
            found = session.run(["logits", "encoded"], {"audio_signal": x.numpy(), "length": n.numpy()})
            np.testing.assert_array_equal(found[0], logits)
            np.testing.assert_array_equal(found[1], encoded)
        with torch.inference_mode():
            tensors = program.run(TorchBackend(), x, n)
        np.testing.assert_array_equal(tensors[0].numpy(), logits)
        reals, _ = graph.run(x, n)
        info = program.values[program.leaving[0]]
        for row, count in enumerate(encoded.tolist()):
            wanted = reals[row, :count].numpy()
            error = info.scale * logits[row, :count] - wanted
            # five logits of one frame are few to take a mean of
            assert np.square(error).mean() < (0.02 if count > 1 else 0.1) * np.square(wanted).mean()
            alone = program.run(
                NumpyBackend(), x[row : row + 1, :, : lengths[row]].numpy(), n[row : row + 1].numpy()
            )
            np.testing.assert_array_equal(alone[0][0], logits[row, :count])


# -- positions as values -------------------------------------------------------------------------


def test_positions_become_values_and_nothing_else_changes() -> None:
    graph, _ = conformer()
    exposed = prepared_graph(graph)
    tables = [n for n in exposed.nodes if n.op == "positions"]
    assert len(tables) == 1
    assert [len(n.ins) for n in exposed.nodes if n.op == "attention"] == [6, 6]
    assert all(n.attrs["positions"] is None for n in exposed.nodes if n.op == "attention")
    assert tables[0].attrs["compute"](7).shape == (HIDDEN, 13)
    # the graph that was given is as it was
    assert [n.op for n in graph.nodes if n.op == "positions"] == []
    for count in (1, 2, 41):
        x, n = torch.randn(1, MELS, count), torch.tensor([count])
        for found, wanted in zip(exposed.run(x, n), graph.run(x, n), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_positions_without_usable_factors_are_tables_of_their_own() -> None:
    graph, _ = conformer()
    for node in graph.nodes:
        if node.op == "attention":
            whole = node.attrs["positions"]
            # factors of something else: a matrix that does not give these distances
            wrong = OfFrames(whole.compute, (whole.factors[0], whole.factors[1] + 1))
            node.attrs = {**node.attrs, "positions": wrong}
    exposed = prepared_graph(graph)
    assert len([n for n in exposed.nodes if n.op == "positions"]) == 2
    assert [n.op for n in exposed.nodes].count("conv1d") == [n.op for n in graph.nodes].count("conv1d")
    x, n = torch.randn(1, MELS, 21), torch.tensor([21])
    torch.testing.assert_close(exposed.run(x, n)[0], graph.run(x, n)[0], rtol=1e-5, atol=1e-5)


def test_layers_of_other_frames_have_tables_of_their_own() -> None:
    b = Builder()
    table, weight = OfFrames(rows), b.random(HIDDEN, HIDDEN)

    def positions(frames: int) -> Tensor:
        return (rows(frames) @ weight.t()).t().reshape(HEADS, HIDDEN // HEADS, -1)

    attrs = {"heads": HEADS, "scale": 0.2, "positions": OfFrames(positions, (table, weight))}
    x = b.linear("audio_signal", MELS, HIDDEN)
    x = b.node("attention", x, x, x, "length", x, **attrs)
    layout = {"stride": 2, "padding": (1, 1), "dilation": 1, "groups": 1}
    x = b.node("conv1d", x, weight=b.random(HIDDEN, HIDDEN, 3), bias=b.random(HIDDEN), **layout)
    lengths = b.node("length_step", "length", before=-1, divisor=2, after=1)
    x = b.node("attention", x, x, x, lengths, x, **attrs)
    graph = b.graph(x, lengths)
    exposed = prepared_graph(graph)
    assert [n.op for n in exposed.nodes].count("positions") == 2
    features, n = torch.randn(1, MELS, 21), torch.tensor([21])
    torch.testing.assert_close(exposed.run(features, n)[0], graph.run(features, n)[0], rtol=1e-4, atol=1e-4)


def test_attention_without_positions_is_left_alone() -> None:
    b = Builder()
    x = b.linear("audio_signal", MELS, HIDDEN)
    graph = b.graph(b.node("attention", x, x, x, "length", heads=HEADS, scale=1.0))
    assert prepared_graph(graph).nodes == graph.nodes
