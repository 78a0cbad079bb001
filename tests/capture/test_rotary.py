"""Rotary positions as integers: tables that layers share, in every dialect, and the limits of stored ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from integer.sessions import session_of
from test_rotary_positions import SPELLINGS, WIDTH, captured

from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.config import CalibrationSpec, QuantSpec
from zeroq_asr.errors import UnsupportedOperatorError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.graph.frame_tables import distinct
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.lower import lower

LONGEST = 60


def features(frames: int = 50) -> torch.Tensor:
    return torch.randn(WIDTH, frames, generator=torch.Generator().manual_seed(3))


def lowered(graph: FloatGraph, longest: int = LONGEST) -> Program:
    ranges = calibrate(graph, iter([features()]), CalibrationSpec()).ranges
    return lower(graph, ranges, QuantSpec(), channels=WIDTH, max_frames=longest)


@pytest.mark.parametrize("name", SPELLINGS)
def test_the_same_integers_everywhere(name: str) -> None:
    _, graph = captured(SPELLINGS[name])
    program = lowered(graph)
    assert prove(program).instructions == len(program.code)
    x = torch.stack([features()[:, :40], features()[:, 10:]]).numpy()
    lengths = np.array([40, 17], dtype=np.int64)
    expected, _ = program.run(NumpyBackend(), x, lengths)
    with torch.inference_mode():
        found = program.run(TorchBackend(), torch.from_numpy(x), torch.from_numpy(lengths))[0].numpy()
    np.testing.assert_array_equal(found, expected)
    for backend in (OnnxStrictBackend, OnnxFusedBackend):
        found = session_of(program, backend()).run(None, {"audio_signal": x, "length": lengths})[0]
        np.testing.assert_array_equal(found, expected)
    wanted = graph.run(torch.from_numpy(x), torch.from_numpy(lengths))[0].numpy()
    reals = expected * program.values[program.leaving[0]].scale
    for row, count in enumerate(lengths):
        assert np.corrcoef(reals[row, :count].ravel(), wanted[row, :count].ravel())[0, 1] > 0.99


def test_queries_keys_and_layers_share_small_tables(huggingface_graph: Callable[[str], Any]) -> None:
    _, graph = huggingface_graph("rotary")
    seconds = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 16000)).astype(np.float32))
    ranges = calibrate(graph, iter([seconds]), CalibrationSpec()).ranges
    program = lower(graph, ranges, QuantSpec(), channels=1, max_frames=32000, waveform=True)
    tables = [i for i in program.code if i.op == "frame_table"]
    turns = [i for i in program.code if i.op == "rotate"]
    assert len(turns) == 2
    assert [i.ins[1:] for i in turns] == [tuple(table.out for table in tables)] * 2
    # one row of a table for the two channels of a pair in each of four heads of eight channels
    longest = ((32000 - 10) // 5 + 1 - 4) // 4 + 1
    assert [program.constants[i.ins[1]].shape for i in tables] == [(4, longest)] * 2
    for table in tables:
        assert program.constants[table.ins[1]].dtype == np.int16
        assert program.values[table.out].scale == 2.0**-14


def test_a_stored_table_ends_somewhere() -> None:
    _, graph = captured(SPELLINGS["by_stored_tables"])
    lowered(graph, 64)
    with pytest.raises(UnsupportedOperatorError, match=r"positions end before 65 frames.*--max-seconds"):
        lowered(graph, 65)


def test_turned_features_are_no_logits() -> None:
    _, graph = captured(SPELLINGS["by_halves"])
    turn = next(node for node in graph.nodes if node.op == "rotate")
    nodes = graph.nodes[: graph.nodes.index(turn) + 1]
    end = graph.nodes[-1]
    end.ins = (turn.out,)
    cut = FloatGraph(graph.inputs, graph.outputs, [*nodes, end])
    with pytest.raises(UnsupportedOperatorError, match="cannot make the logits"):
        lowered(cut)


def test_distinct_rows_give_all_of_them() -> None:
    generator = np.random.default_rng(0)
    basis = np.concatenate((generator.integers(-9, 9, (3, 20)), np.zeros((1, 20), np.int64)))
    whole = np.concatenate((basis, -basis, basis[::-1])).astype(np.int16)
    table, rows, signs = distinct(whole)
    assert (table.shape, table.dtype) == ((4, 20), np.int16)
    np.testing.assert_array_equal(signs[:, None] * table[list(rows)], whole)
    # of floats, zeros of either sign are one
    table, rows, signs = distinct(np.array([[0.0, 0.5], [-0.0, -0.5]], np.float32))
    assert (table.shape, rows, signs.tolist()) == ((1, 2), (0, 0), [1, -1])
