"""Every operator gives the same integers in every interpreter."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from zeroq_asr.deployment import runtimes
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends import base, onnx_loops
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import Sym
from zeroq_asr.integer.backends.onnx_loops import every_graph
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.pair_saturation import saturates
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import BOOL, I32, I64, U8
from zeroq_asr.operators.convolution.blocks import blocks_of
from zeroq_asr.registry import INTEGER_OPERATORS

from .parity import MAX_FRAMES, Arrays, Case, all_cases

ALL = all_cases()
#: (optimised, threads) of the ONNX Runtime sessions
SESSIONS = [(True, 1), (True, 2), (False, 1)]
FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}


def instruction_of(case: Case) -> Instruction:
    others = tuple(f"out{k}" for k in range(1, INTEGER_OPERATORS[case.op].results))
    return Instruction(case.op, "out", case.order, case.attrs, "layer", others)


def interval_of(case: Case, name: str, array: np.ndarray) -> Interval:
    """What the proof may assume of an input."""
    if array.dtype == np.float32:
        return Interval.of(0, 0, I32)
    kind = {"uint8": U8, "int32": I32, "bool": BOOL, "int64": I64}[array.dtype.name]
    default = (1, MAX_FRAMES) if kind is I64 else (kind.lo, kind.hi)
    return Interval.of(*case.bounds.get(name, default), kind)


def run_arrays(case: Case, backend: NumpyBackend | TorchBackend, inputs: Arrays) -> list[np.ndarray]:
    """Run the definition over numpy or torch: every result."""
    env: dict[str, Any] = {name: backend.constant(name, array) for name, array in case.constants.items()}
    for name, array in inputs.items():
        env[name] = torch.from_numpy(array) if isinstance(backend, TorchBackend) else array
    results = base.interpreted(backend, instruction_of(case), [env[name] for name in case.order])
    return [v.numpy() if isinstance(v, torch.Tensor) else v for v in results]


def dims_of(case: Case) -> dict[str, tuple[int | str, ...]]:
    """Shapes of the inputs: an extent that differs between the input sets is a name, equal ones the same."""
    extents = {
        (name, axis): tuple(one[name].shape[axis] for one in case.inputs)
        for name, array in case.inputs[0].items()
        for axis in range(array.ndim)
    }
    names: dict[tuple[int, ...], int | str] = {e: e[0] for e in extents.values() if len({*e}) == 1}
    for (name, axis), extent in extents.items():
        names.setdefault(extent, f"{name}_{axis}")
    return {
        name: tuple(names[extents[name, axis]] for axis in range(array.ndim))
        for name, array in case.inputs[0].items()
    }


def build(case: Case, backend: OnnxStrictBackend) -> onnx.ModelProto:
    """Spell the instruction as an ONNX model with free axes, told the shapes that ONNX cannot infer."""
    env = {name: backend.constant(name, array) for name, array in case.constants.items()}
    example, dims = case.inputs[0], dims_of(case)
    graph_inputs = []
    for name, array in example.items():
        env[name] = backend.input(name, interval_of(case, name, array), dims[name])
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph_inputs.append(helper.make_tensor_value_info(name, kind, dims[name]))
    instruction = instruction_of(case)
    results: tuple[Sym, ...] = backend.instruction(instruction, [env[name] for name in case.order])
    # what a float carries is cast where integers are wanted
    last, graph_outputs = [], []
    expected = run_arrays(case, NumpyBackend(), example)
    for name, result, wanted in zip(instruction.outs, results, expected, strict=True):
        assert result.name in (name, *example)
        last.append(helper.make_node("Identity", [backend.plain(result).name], [f"{name}/result"]))
        kind = helper.np_dtype_to_tensor_dtype(wanted.dtype)
        graph_outputs.append(helper.make_tensor_value_info(f"{name}/result", kind, [None] * wanted.ndim))
    graph = helper.make_graph(
        [*backend.nodes, *last],
        "case",
        graph_inputs,
        graph_outputs,
        list(backend.initializers.values()),
        value_info=backend.value_infos(),
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def session_of(model: onnx.ModelProto, optimised: bool, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def assert_equal(found: list[np.ndarray], wanted: list[np.ndarray], message: str = "") -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs, err_msg=message)


def assert_model_agrees(case: Case, model: onnx.ModelProto, expected: list[list[np.ndarray]]) -> None:
    for optimised, threads in SESSIONS:
        session = session_of(model, optimised, threads)
        for inputs, wanted in zip(case.inputs, expected, strict=True):
            assert_equal(session.run(None, inputs), wanted, f"optimised={optimised} threads={threads}")


def reference(case: Case) -> list[list[np.ndarray]]:
    return [run_arrays(case, NumpyBackend(), inputs) for inputs in case.inputs]


@pytest.mark.parametrize("op", INTEGER_OPERATORS)
def test_every_operator_has_a_case(op: str) -> None:
    cases = INTEGER_OPERATORS[op].cases
    assert cases is not None, f"give the record of {op} cases"
    assert {case.op for case in cases()} == {op}


def test_case_names_are_unique() -> None:
    names = [case.id for case in ALL]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("int8", [False, True], ids=["float carriers", "int8 products"])
@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_torch_equals_numpy(case: Case, int8: bool) -> None:
    for inputs, wanted in zip(case.inputs, reference(case), strict=True):
        with torch.inference_mode():
            assert_equal(run_arrays(case, TorchBackend(int8=int8), inputs), wanted)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_results_lie_in_the_proven_interval(case: Case) -> None:
    proof = IntervalBackend()
    env: dict[str, Any] = {name: proof.constant(name, array) for name, array in case.constants.items()}
    env |= {name: interval_of(case, name, array) for name, array in case.inputs[0].items()}
    proven = base.interpreted(proof, instruction_of(case), [env[name] for name in case.order])
    for results in reference(case):
        for bounds, wanted in zip(proven, results, strict=True):
            assert bounds.type.name == wanted.dtype.name
            assert (wanted >= bounds.lo).all()
            assert (wanted <= bounds.hi).all()


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_strict_equals_numpy(case: Case) -> None:
    backend = OnnxStrictBackend()
    if case.op == "float_island":
        with pytest.raises(ExportError, match="out: strict cannot hold a float island; export fused"):
            build(case, backend)
        return
    model = build(case, backend)
    assert backend.spellings == {case.op: {"primitives": 1}}
    assert_integer_only(model, way_in=case.op == "quantize_input")
    assert_model_agrees(case, model, reference(case))


def assert_integer_only(model: onnx.ModelProto, way_in: bool) -> None:
    """No tensor is a float, but the quantizer's own input and scale."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    floats = {t.name for t in model.graph.initializer if t.data_type in FLOATS}
    nodes = onnx_loops.every_node(model.graph)
    typed = {i.name for i in model.graph.initializer}
    for graph in onnx_loops.every_graph(inferred.graph):
        for value in [*graph.input, *graph.value_info, *graph.output]:
            typed.add(value.name)
            if value.type.tensor_type.elem_type in FLOATS:
                floats.add(value.name)
    assert {name for node in nodes for name in node.output} <= typed
    if way_in:
        # the quantizer's own, which for 16 bits goes step by step
        steps = {n.output[0] for n in nodes if n.op_type in ("Div", "Round", "Clip")}
        floats -= {"x", "out/scale"} | {name for name in floats if name in steps or name.startswith("out/")}
    assert not floats
    assert all(node.domain == "" for node in nodes)


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.id)
def test_fused_equals_numpy(case: Case) -> None:
    backend = OnnxFusedBackend()
    model = build(case, backend)
    spelled = backend.spellings[case.op]
    assert spelled == {case.kernel: 1}
    if "w" in case.constants:
        stored = next(t for t in model.graph.initializer if t.name == "w")
        weight, groups = case.constants["w"], case.attrs["groups"]
        depthwise = weight.shape[1] == 1 and len(weight) == groups > 1
        # of 16 bits both bytes are multiplied
        highest = min(U8.hi, case.bounds.get("x", (0, U8.hi))[1])
        if any(case.attrs.get("padding", case.attrs.get("pads", ()))):
            highest = max(highest, case.attrs.get("zx", 0))
        # a subsampling's first convolution sums in another order, that of blocks
        by_blocks = any(
            n.op_type == "QLinearConv" and n.domain and weight.ndim == 4 for n in model.graph.node
        )
        assert by_blocks == case.name.startswith("subsampling")
        summed = blocks_of(weight) if by_blocks else weight
        exact = depthwise or not saturates(summed, highest)
        signed = exact and case.kernel != "primitives" and not case.kernel.startswith("ConvInteger")
        assert stored.data_type == (TensorProto.INT8 if signed else TensorProto.UINT8)
    assert_model_agrees(case, model, reference(case))


@pytest.mark.parametrize("dialect", [OnnxStrictBackend, OnnxFusedBackend])
@pytest.mark.parametrize("case", [c for c in ALL if c.op == "attention"], ids=lambda case: case.id)
def test_blocks_of_rows_are_the_whole(
    case: Case, dialect: type[OnnxStrictBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = reference(case)
    # 70 rows in blocks of 9, of which the last begins inside of the one before; few rows are not in blocks
    monkeypatch.setattr(base, "ROWS", 9)
    monkeypatch.setattr(onnx_loops, "BLOCK", 9)
    monkeypatch.setattr(onnx_loops, "WHOLE", 20)
    monkeypatch.setattr(onnx_loops, "LARGEST", 0)
    monkeypatch.setitem(globals(), "MAX_FRAMES", 80)
    for inputs, whole in zip(case.inputs, wanted, strict=True):
        assert_equal(run_arrays(case, NumpyBackend(), inputs), whole)
    model = build(case, dialect())
    (choice,) = [n for n in model.graph.node if n.op_type == "If"]
    loops = {a.name: [n.op_type for n in a.g.node].count("Loop") for a in choice.attribute}
    assert loops == {"then_branch": 0, "else_branch": 1}
    if dialect is OnnxStrictBackend:
        assert_integer_only(model, way_in=False)
    assert_model_agrees(case, model, wanted)


@pytest.mark.parametrize("case", [c for c in ALL if c.op == "attention"], ids=lambda case: case.id)
def test_attention_of_signed_factors_is_the_same(case: Case) -> None:
    model = build(case, OnnxFusedBackend("x86-vnni"))
    if case.kernel != "primitives":
        products = [
            n for graph in every_graph(model.graph) for n in graph.node if "MatMulInteger" in n.op_type
        ]
        zeros = {t.name: t.data_type for t in model.graph.initializer}
        assert products
        assert all(
            zeros[n.input[3 if n.op_type == "MatMulInteger" else 5]] == TensorProto.INT8 for n in products
        )
    if this_machine().exact_at_full_range:
        assert_model_agrees(case, model, reference(case))


def test_blocks_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in ALL if c.op == "attention")
    monkeypatch.setattr(onnx_loops, "LONG_BLOCK", 31)
    monkeypatch.setattr(onnx_loops, "BLOCK", 31)
    with pytest.raises(ExportError, match=r"1000 frames .* at most 960 .* --max-seconds"):
        build(case, OnnxFusedBackend())


@pytest.mark.parametrize(
    "case", [c for c in ALL if "fused" in INTEGER_OPERATORS[c.op].kernels], ids=lambda case: case.id
)
def test_conditions_are_reported_for_kernels_only(case: Case) -> None:
    backend = OnnxFusedBackend()
    build(case, backend)
    (spelling,) = backend.spellings[case.op]
    if spelling == "primitives":
        assert backend.conditions == {}
    else:
        assert backend.conditions[spelling]
        assert all(condition.holds for condition in backend.conditions[spelling].values())


def alone(inputs: Arrays, row: int, frames: int) -> Arrays:
    """One utterance of a batch, without what lies behind its end."""
    found: Arrays = {}
    for name, array in inputs.items():
        if name == "lengths":
            found[name] = array[row : row + 1]
        elif name == "r":  # distances, of which the middle ones are those of fewer frames
            half = array.shape[2] // 2
            found[name] = np.ascontiguousarray(array[:, :, half - frames : half + frames])
        else:
            found[name] = np.ascontiguousarray(array[row : row + 1, :, :frames])
    return found


@pytest.mark.parametrize(
    "case", [c for c in ALL if {"mask", "lengths"} <= {*c.inputs[0]}], ids=lambda case: case.id
)
def test_a_batch_gives_each_utterance_what_it_gets_alone(case: Case) -> None:
    met = 0
    for inputs, together in zip(case.inputs, reference(case), strict=True):
        longest = inputs["mask"].shape[2]
        for row, frames in enumerate(inputs["lengths"].tolist()):
            if frames < longest:
                found = run_arrays(case, NumpyBackend(), alone(inputs, row, frames))
                assert_equal(found, [whole[row : row + 1, :, :frames] for whole in together])
                met += 1
    assert met


@pytest.mark.parametrize("dialect", [OnnxStrictBackend, OnnxFusedBackend])
def test_old_runtimes_have_every_minimum_and_maximum(dialect: type[OnnxStrictBackend]) -> None:
    """Before 1.24, ONNX Runtime has Min and Max of float, int32 and int64 alone, before 1.21 Equal, too."""
    compared = 0
    wide = {TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64}
    for case in ALL:
        if case.op == "float_island":
            continue
        graph = onnx.shape_inference.infer_shapes(build(case, dialect())).graph
        types = {
            v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)
        }
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        for node in onnx_loops.every_node(graph):
            if node.op_type in ("Min", "Max"):
                compared += 1
                assert {types[name] for name in node.input if name in types} <= wide, case.id
            elif (
                node.op_type == "Equal" and not {types[name] for name in node.input if name in types} <= wide
            ):
                assert runtimes.compares_narrow(build(case, dialect())), case.id
    assert compared
