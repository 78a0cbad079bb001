"""What a packing stores is what its nodes, and whoever reads the file, make of it again."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from zeroq_asr.deployment.runtimes import opset_of
from zeroq_asr.errors import ConfigError, ExportError
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import TRANSPOSED, decode
from zeroq_asr.integer.grid import GRIDS, Grid, grid_of, register_grid, unregister_grid
from zeroq_asr.integer.packing import BYTES, FIRST_OPSET, PACKINGS, Packing, within_first_opset

#: bits that a weight takes in a file
WIDTHS = {"int8": 8, "int7": 8, "full7": 8, "int6": 8, "full6": 8, "int5": 8, "full5": 8}
WIDTHS |= {"int4": 4, "full4": 4, "logistic4": 4, "int3": 4, "full3": 4}
WIDTHS |= {"int2": 2, "full2": 2, "ternary": 2, "midrise2": 2, "logistic2": 2, "binary": 1}
#: what a kernel may need of weights [O, I, K] → numpy's own
FORMS = {
    "i8": lambda q: q,
    "u8+128": lambda q: (q.astype(np.int16) + 128).astype(np.uint8),
    "i8" + TRANSPOSED: lambda q: q[:, :, 0].T,
    "u8+128" + TRANSPOSED: lambda q: (q[:, :, 0].T.astype(np.int16) + 128).astype(np.uint8),
    "i32": lambda q: q.astype(np.int32),
}
shapes = st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 5))


def weights(grid: Grid, shape: tuple[int, ...], seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed).choice(np.array(grid.levels, dtype=np.int8), shape)
    # the ends are the hardest
    chosen.reshape(-1)[:2] = np.array(grid.levels)[[0, -1]][: chosen.size]
    return chosen


def tensor_bits(kind: int) -> int:
    """Bits of what is stored at once: bytes hold several integers of ONNX's own few bits."""
    return max(8, 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize)


def backend_of(packing: str) -> OnnxFusedBackend:
    backend = OnnxFusedBackend()
    backend.packings = {"w": packing}
    backend.scope("w")
    return backend


def made_by_onnx(backend: OnnxFusedBackend, names: list[str], optimised: bool) -> list[Any]:
    """What ONNX Runtime makes of initializers."""
    # a graph of constants alone is none to ONNX Runtime
    nodes = [*backend.nodes, *(helper.make_node("Identity", [n], [f"y{k}"]) for k, n in enumerate(names))]
    outputs = [onnx.ValueInfoProto(name=f"y{k}") for k in range(len(names))]
    graph = helper.make_graph(nodes, "packing", [], outputs, [*backend.initializers.values()])
    opset = opset_of(backend.opset)
    imports = [helper.make_opsetid("", opset.version)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=opset.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(model).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    return list(session.run(None, {}))


@pytest.mark.parametrize("name", GRIDS)
def test_weights_take_their_width(name: str) -> None:
    grid = grid_of(name)
    if WIDTHS[name] == 8:
        assert grid.packing == BYTES
        return
    stored = PACKINGS[grid.packing].pack(weights(grid, (64, 16, 3), 0))
    assert 8 * len(numpy_helper.from_array(stored).raw_data) == 64 * 16 * 3 * WIDTHS[name]


@given(st.sampled_from([g for g in GRIDS.values() if g.packing != BYTES]), shapes, st.integers(0, 1 << 30))
@settings(deadline=None, max_examples=60)
def test_what_is_stored_is_read_back(grid: Grid, shape: tuple[int, ...], seed: int) -> None:
    q = weights(grid, shape, seed)
    for packing in (PACKINGS[grid.packing], PACKINGS[within_first_opset(grid.packing)]):
        tensor = numpy_helper.from_array(packing.pack(q), "w")
        word = tensor_bits(tensor.data_type)
        assert 8 * len(tensor.raw_data) == word * math.ceil(q.size * WIDTHS[grid.name] / word)
        read = packing.unpack(numpy_helper.to_array(tensor), shape)
        assert read.dtype == np.int8
        np.testing.assert_array_equal(read, q)


@given(st.sampled_from(sorted(PACKINGS)), shapes, st.integers(0, 1 << 30), st.booleans())
@settings(deadline=None, max_examples=60)
def test_nodes_make_the_integers_again(
    packing: str, shape: tuple[int, ...], seed: int, optimised: bool
) -> None:
    grids = [g for g in GRIDS.values() if packing in (g.packing, within_first_opset(g.packing))]
    q = weights(grids[seed % len(grids)], shape, seed)
    backend = backend_of(packing)
    v = backend.constant("w", q)
    # pointwise weights alone are ever transposed
    forms = {name: form for name, form in FORMS.items() if shape[2] == 1 or TRANSPOSED not in name}
    names = [backend.encode(v, encoding, form(q)) for encoding, form in forms.items()]
    assert names == [backend.encode(v, encoding, form(q)) for encoding, form in forms.items()]
    assert backend.encodings["w"] == ("w", f"packed {packing}[{','.join(map(str, shape))}]")
    stored = numpy_helper.to_array(backend.initializers["w"])
    np.testing.assert_array_equal(decode(stored, backend.encodings["w"][1]), q)
    for form, found in zip(forms.values(), made_by_onnx(backend, names, optimised), strict=True):
        assert found.dtype == form(q).dtype
        np.testing.assert_array_equal(found, form(q))


@given(
    st.sampled_from([(-128, 127), (-(2**15), 2**15 - 1), (-(2**15) - 1, 2), (0, 2**23)]),
    st.integers(1, 300),
    st.integers(0, 16),
    st.booleans(),
)
@settings(deadline=None, max_examples=40)
def test_vectors_are_stored_in_the_narrowest_type(
    ends: tuple[int, int], size: int, c: int, strict: bool
) -> None:
    q = np.random.default_rng(size).integers(*ends, size, endpoint=True).astype(np.int32)
    q[:2] = ends[: size if size < 2 else 2]
    backend = backend_of("int4")
    v = backend.constant("b", q)
    names = [
        backend.multiplier(v, c) if strict else backend.scaled(v, c),
        *([backend.vector(v)] if strict else [backend.per_channel(v).name]),
    ]
    width = 1 if q.min() >= -128 and q.max() <= 127 else 2 if abs(q + 0.5).max() < 2**15 else 4
    backend.store_vectors()
    name, encoding = backend.encodings["b"]
    stored = numpy_helper.to_array(backend.initializers[name])
    assert stored.itemsize == (width if (4 - width) * size > 64 else 4)
    np.testing.assert_array_equal(decode(stored, encoding), q)
    real, whole = made_by_onnx(backend, names, True)
    assert (real.dtype, whole.dtype) == (np.float32, np.int32)
    np.testing.assert_array_equal(real.reshape(-1), q / 2.0**c)
    np.testing.assert_array_equal(whole.reshape(-1), q)


def test_vectors_of_one_encoding_are_one_tensor() -> None:
    backend, generator = backend_of("int4"), np.random.default_rng(0)
    vectors = [generator.integers(-300, 300, size).astype(np.int32) for size in (50, 80, 9, 400)]
    names = [backend.vector(backend.constant(f"b{k}", q)) for k, q in enumerate(vectors)]
    names += [backend.scaled(backend.constant(f"m{k}", q), k // 2) for k, q in enumerate(vectors)]
    backend.store_vectors()
    places = {name for name, _ in backend.encodings.values()} - {"b2", "m2"}
    assert len(places) == 3
    assert sum(node.op_type == "Split" for node in backend.nodes) == 3
    for k, q in enumerate(vectors):
        for constant in (f"b{k}", f"m{k}"):
            name, encoding = backend.encodings[constant]
            stored = numpy_helper.to_array(backend.initializers[name])
            np.testing.assert_array_equal(decode(stored, encoding), q)
    found = made_by_onnx(backend, names, True)
    for k, q in enumerate(vectors):
        np.testing.assert_array_equal(found[k], q)
        np.testing.assert_array_equal(found[4 + k][:, 0], q / 2.0 ** (k // 2))


def test_without_packings_vectors_are_int32() -> None:
    backend = OnnxFusedBackend()
    backend.vector(backend.constant("b", np.zeros(500, dtype=np.int32)))
    assert backend.initializers["b"].data_type == TensorProto.INT32
    assert backend.opset == FIRST_OPSET


@pytest.mark.parametrize("packing", sorted(PACKINGS))
def test_what_is_no_constant_is_refused(packing: str) -> None:
    q = np.ones((3, 3, 1), dtype=np.int8)
    good = PACKINGS[packing].pack(q)
    other = good.astype(np.int16 if packing.startswith("int") else np.int8)
    odd = good[:-1], good[None], other, good.astype(np.float32)
    for stored in odd:
        with pytest.raises(ExportError, match=f"packing {packing}: .*no constant of shape"):
            decode(stored, f"packed {packing}[3,3,1]")
    with pytest.raises(ExportError, match="no constant of shape"):
        decode(good, f"packed {packing}[3,30,1]")


@pytest.mark.parametrize(
    ("packing", "shape", "bit"), [("1-bit codes", "3,3,1", 2), ("4-bit logistic codes", "3,3,1", 1 << 15)]
)
def test_bits_beyond_the_last_are_none(packing: str, shape: str, bit: int) -> None:
    level = 1 if packing == "1-bit codes" else -64
    stored = PACKINGS[packing].pack(np.full((3, 3, 1), level, dtype=np.int8))
    stored[-1] |= bit
    with pytest.raises(ExportError, match="bits beyond the last integer are set"):
        decode(stored, f"packed {packing}[{shape}]")


@pytest.mark.parametrize("packing", ["4-bit logistic codes", "2-bit odd codes"])
def test_the_table_of_words_is_made_once(packing: str) -> None:
    grid = next(g for g in GRIDS.values() if g.packing == packing)
    backend = OnnxFusedBackend()
    backend.packings = {f"w{k}": packing for k in range(3)}
    constants = {f"w{k}": weights(grid, (8, k + 1, 1), k) for k in range(3)}
    names = []
    for name, q in constants.items():
        backend.scope(name)
        names.append(backend.encode(backend.constant(name, q), "i8", q))
    assert sum(node.op_type == "Concat" for node in backend.nodes) == 1
    for q, found in zip(constants.values(), made_by_onnx(backend, names, True), strict=True):
        np.testing.assert_array_equal(found, q)


@pytest.mark.parametrize(
    ("stored", "encoding"),
    [
        (np.zeros(3, np.int16), "i32 in int8[0:3]"),
        (np.zeros(3, np.int8), "i32 in int8[0:4]"),
        (np.zeros(3, np.int8), "i32 in int8[2:2]"),
        (np.zeros(3, np.int32), "i32 in int16[0:3]"),
    ],
)
def test_narrow_vectors_are_what_they_say(stored: np.ndarray, encoding: str) -> None:
    with pytest.raises(ExportError, match=f"{re.escape(encoding)}: what is stored is"):
        decode(stored, encoding)


@pytest.mark.parametrize(("packing", "level"), [("int4", 8), ("int2", 2), ("1-bit codes", 0)])
def test_a_level_that_it_cannot_store_is_named(packing: str, level: int) -> None:
    backend = backend_of(packing)
    q = np.full((2, 2, 1), level, dtype=np.int8)
    with pytest.raises(ExportError, match=f"w: the packing '{packing}' does not give its integers again"):
        backend.encode(backend.constant("w", q), "i8", q)


def test_a_packing_has_a_name_of_its_own() -> None:
    packing = PACKINGS["int4"]
    with pytest.raises(ConfigError, match="registered already"):
        register_grid(Grid("odd", (-1, 1), "int4"), packing)
    register_grid(Grid("odd", (-1, 1), "4-bit codes"))
    unregister_grid(grid_of("odd"))
    assert "4-bit codes" in PACKINGS
    later = Packing("later", packing.pack, packing.unpack, packing.emit, 25)
    register_grid(Grid("odd", (-1, 1), "later"), later)
    assert within_first_opset("later") == BYTES
    unregister_grid(grid_of("odd"))
    assert "later" not in PACKINGS
