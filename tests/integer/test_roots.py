"""Integer square roots, and comparisons of 64-bit integers, in every interpreter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from zeroq_asr.integer.backends.interval import Interval
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import Sym
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.types import I64

from .parity import all_cases
from .programs import random_program
from .test_parity import build as build_case

LARGEST = (1 << 52) - 1


def run_strict(define: Callable[[Any, Any], Any], x: np.ndarray, lo: int, hi: int) -> np.ndarray:
    """Run primitives on an int64 vector of which the proof knows ``lo`` and ``hi``."""
    backend = OnnxStrictBackend()
    result: Sym = define(backend, backend.input("x", Interval.of(lo, hi, I64), ("n",)))
    nodes = [*backend.nodes, helper.make_node("Identity", [result.name], ["y"])]
    graph = helper.make_graph(
        nodes,
        "primitive",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["n"])],
        list(backend.initializers.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert_no_wide_extremes(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def assert_no_wide_extremes(model: onnx.ModelProto) -> None:
    """No Min, Max or Clip of int64: with equal upper halves, ONNX Runtime 1.31 takes the lower for signed."""
    inferred = onnx.shape_inference.infer_shapes(model)
    wide = {t.name for t in model.graph.initializer if t.data_type == TensorProto.INT64}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.INT64:
            wide.add(value.name)
    for node in model.graph.node:
        if node.op_type in ("Min", "Max", "Clip"):
            assert not wide & {*node.input, *node.output}, node


def around(values: list[int]) -> list[int]:
    return [v + d for v in values for d in (-2, -1, 0, 1, 2)]


def numbers(lo: int, hi: int) -> np.ndarray:
    """Squares, numbers beside them, powers of two, and others of every size."""
    generator = np.random.default_rng(0)
    roots = [int(2**e) for e in generator.uniform(0, 26, 3000)] + list(range(1, 300)) + [(1 << 26) - 1]
    found = around([r * r for r in roots]) + around([1 << k for k in range(52)])
    found += [int(2**e) for e in generator.uniform(0, 52, 3000)] + [lo, hi]
    return np.array(sorted({v for v in found if lo <= v <= hi}), dtype=np.int64)


RANGES = [(1, LARGEST), (1, 1), (1, 3), (1 << 20, (1 << 45) - 1), (4095, 1 << 26), ((1 << 52) - 7, LARGEST)]


@pytest.mark.parametrize(("lo", "hi"), RANGES)
def test_roots_are_exact_in_every_interpreter(lo: int, hi: int) -> None:
    x = numbers(lo, hi)
    wanted = np.array([math.isqrt(v) for v in x.tolist()])
    np.testing.assert_array_equal(NumpyBackend().isqrt(x), wanted)
    np.testing.assert_array_equal(TorchBackend().isqrt(torch.from_numpy(x)).numpy(), wanted)
    np.testing.assert_array_equal(run_strict(lambda f, v: f.isqrt(v), x, lo, hi), wanted)


@pytest.mark.parametrize("lo", [-(1 << 40), -1, 0, 1, (1 << 31) - 1, 1 << 31, 1 << 32])
def test_64_bits_are_clamped(lo: int) -> None:
    edges = around([0, 1 << 31, 1 << 32, (1 << 32) + (1 << 31), 1 << 40, -(1 << 31), -(1 << 32)])
    x = np.array(edges * 3, dtype=np.int64)
    for hi in (lo, lo + 1, 1 << 33, (1 << 40) - 1, 1 << 50):
        if hi >= lo:
            found = run_strict(lambda f, v, hi=hi: f.clamp(v, lo, hi), x, min(edges), max(edges))  # type: ignore[misc]
            np.testing.assert_array_equal(found, np.clip(x, lo, hi))


@pytest.mark.parametrize("op", sorted({case.op for case in all_cases()}))
def test_no_spelling_compares_64_bits_by_extremes(op: str) -> None:
    for case in all_cases():
        if case.op == op:
            # strict holds no float island
            dialect = OnnxFusedBackend if op == "float_island" else OnnxStrictBackend
            assert_no_wide_extremes(build_case(case, dialect()))


@pytest.mark.parametrize("dialect", [OnnxStrictBackend, OnnxFusedBackend])
def test_no_program_compares_64_bits_by_extremes(dialect: Any) -> None:
    for seed in range(10):
        backend = dialect()
        build(backend, random_program(seed))
        graph = helper.make_graph(backend.nodes, "g", [], [], list(backend.initializers.values()))
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        assert_no_wide_extremes(helper.make_model(graph, opset_imports=opsets))
