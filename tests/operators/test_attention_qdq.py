"""Attention between Q/DQ pairs: its scale is read off a table, and no node of it is of integers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zeroq_asr as zq
from zeroq_asr.deployment.export import Deployment, export
from zeroq_asr.operators.attention.scores import ENTRIES, LOW, NUMERATOR, reach_of, unit_of


def table_of(unit: float) -> tuple[np.ndarray, np.ndarray, int, int]:
    """A table of numerators as the lowering makes it: high, low, shift and cap."""
    cap = reach_of(unit)
    shift = max(0, (cap // ENTRIES).bit_length())
    steps = np.arange((cap >> shift) + 1)
    entries = np.rint(NUMERATOR * np.exp(-unit * 2.0**shift * steps)).astype(np.int32)
    entries[-1] = 0
    return (entries >> LOW).astype(np.uint8), (entries & 127).astype(np.uint8), shift, cap


@pytest.mark.parametrize("unit", [3e-8, 1e-6, 3.7e-4, 0.01, 0.3, 1.0, 4.0])
def test_a_unit_is_read_off_its_table(unit: float) -> None:
    found = unit_of(*table_of(unit))
    # an entry of n is known to 1 / 2n: where it is largest against its logarithm, to 1 in 24,000
    assert math.isclose(found, unit, rel_tol=1e-4 if unit < 1 else 3e-3)


def test_a_table_of_one_entry_tells_where_it_ends() -> None:
    unit = 20.0
    assert math.isclose(unit_of(*table_of(unit)), math.log(2.0 * (NUMERATOR + 1)) / reach_of(unit))


def test_scores_that_take_much_memory_are_told_of(conformer_of: Callable[..., Any], tmp_path: Path) -> None:
    tokenizer = zq.Tokenizer(("a", "b", "c", "d"))
    model = zq.AsrModel(
        conformer_of(), zq.FrontendConfig(features=16), tokenizer, "small", subsampling_factor=4
    )
    spec = zq.QuantSpec(max_seconds=400.0)
    prepared = zq.prepare(model, spec=spec, synthesis=zq.SynthesisSpec(batch=2, frames=64, iterations=2))
    out = tmp_path / "x.onnx"
    # 4 bytes × 4 heads × 10,001² frames
    told = r"small: attention in qdq .* at once: 1\.6 GB .* 400 s; say a smaller"
    # here warnings are errors, so nothing is written behind it
    with pytest.raises(zq.ZeroqWarning, match=told):
        zq.quantize(prepared, out, dialect="qdq")
    assert not out.exists()
    with pytest.warns(zq.ZeroqWarning, match=told):
        zq.quantize(prepared, out, dialect="qdq")
    assert out.exists()
    # strict takes so many in blocks, and few are none that matter
    zq.quantize(prepared, dialect="strict")
    zq.quantize(prepared, dialect="fused")


def test_a_conformer_is_float_between_pairs(conformer_of: Callable[..., Any]) -> None:
    tokenizer = zq.Tokenizer(("a", "b", "c", "d"))
    model = zq.AsrModel(
        conformer_of(), zq.FrontendConfig(features=16), tokenizer, "small", subsampling_factor=4
    )
    made = zq.quantize(model, synthesis=zq.SynthesisSpec(batch=2, frames=64, iterations=2))
    surroundings: Deployment = made.deployment
    graph = export(made.program, surroundings, "qdq").model
    opsets = {entry.domain: entry.version for entry in graph.opset_import}
    assert opsets[""] == 21
    operators = {node.op_type for node in graph.graph.node}
    assert {"Softmax", "LayerNormalization", "Sigmoid", "QuantizeLinear", "DequantizeLinear"} <= operators
    assert not operators & {"ConvInteger", "MatMulInteger", "GatherElements", "BitwiseAnd", "ReduceSumSquare"}
    # 16 bits are int16 between pairs
    kinds = {value.data_type for value in graph.graph.initializer}
    assert 5 in kinds
    # frames are counted from the input's: no quantized value is asked for its shape
    quantized = {node.output[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"}
    asked = {node.input[0] for node in graph.graph.node if node.op_type == "Shape"}
    assert not asked & quantized
    features = np.random.default_rng(0).normal(size=(2, 16, 90)).astype(np.float32) * 2
    feed = {"audio_signal": features, "length": np.array([90, 41])}
    import onnxruntime

    found, wanted = (
        onnxruntime.InferenceSession(
            export(made.program, surroundings, dialect).to_bytes(), providers=["CPUExecutionProvider"]
        ).run(["logits", "encoded_lengths"], feed)
        for dialect in ("qdq", "fused")
    )
    assert np.array_equal(found[1], wanted[1])
    valid = np.arange(found[0].shape[1])[None] < found[1][:, None]
    assert np.abs(found[0] - wanted[0])[valid].mean() < 0.05 * wanted[0][valid].std()
