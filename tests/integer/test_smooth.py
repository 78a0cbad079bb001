"""Smooth tables: what is stored gives the table again, by numpy and by nodes, and nothing else is taken."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from integer.test_packing import made_by_onnx
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import decode
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.smooth import smooth, smooth_entries
from zeroq_asr.operators.lstm.lowered import sigmoid_table, tanh_table

SPREADS = ((-2, 1, "2-bit codes"), (-8, 7, "4-bit codes"), (-128, 127, "bytes"))


def bent(low: int, high: int, size: int, seed: int) -> np.ndarray:
    """A table int32 [size] whose second differences reach from ``low`` to ``high``."""
    bends = np.random.default_rng(seed).integers(low, high, size, endpoint=True)
    bends[2:4] = low, high
    return (np.cumsum(np.cumsum(bends)) - 12345).astype(np.int32)


@given(st.sampled_from(SPREADS), st.integers(1024, 2500), st.integers(0, 1 << 20), st.booleans())
@settings(deadline=None, max_examples=25)
def test_nodes_and_numpy_make_the_table_again(
    spread: tuple[int, int, str], size: int, seed: int, optimised: bool
) -> None:
    low, high, packing = spread
    table = bent(low, high, size, seed)
    backend = OnnxFusedBackend()
    backend.short = True
    name = backend.vector(backend.constant("t", table))
    stored, encoding = backend.encodings["t"]
    assert encoding.startswith(f"smooth {packing}[")
    array = numpy_helper.to_array(backend.initializers[stored])
    assert array.nbytes < table.nbytes / 3
    np.testing.assert_array_equal(decode(array, encoding), table)
    (found,) = made_by_onnx(backend, [name], optimised)
    np.testing.assert_array_equal(found, table)


@pytest.mark.parametrize(
    ("table", "packing", "size"),
    [
        (sigmoid_table(), "2-bit codes", 16384),
        (tanh_table(10, 1 / 128)[0], "2-bit codes", 4096),
        (tanh_table(8, 1 / 255)[0], "4-bit codes", 2048),
    ],
)
def test_tables_of_an_lstm_are_smooth(table: np.ndarray, packing: str, size: int) -> None:
    found = smooth(table)
    assert found is not None
    stored, encoding = found
    assert encoding.startswith(f"smooth {packing}[")
    assert stored.nbytes == size
    np.testing.assert_array_equal(smooth_entries(stored, encoding), table)


def test_what_is_not_smooth_or_short_is_left() -> None:
    rough = np.random.default_rng(0).integers(0, 1000, 4096).astype(np.int32)
    assert smooth(rough) is None
    assert smooth(np.arange(1023, dtype=np.int32)) is None
    assert smooth(np.full(2048, 1 << 30, dtype=np.int32)) is None
    assert smooth_entries(np.zeros(4, dtype=np.int8), "i32") is None


@pytest.mark.parametrize(
    ("array", "encoding"),
    [
        (np.zeros(5, dtype=np.int8), "smooth bytes[0,0,4]"),
        (np.zeros(4, dtype=np.int32), "smooth bytes[0,0,4]"),
        (np.zeros(0, dtype=np.int8), "smooth bytes[0,0,0]"),
        (np.zeros(4, dtype=np.int8), "smooth bytes[0,2000000000,4]"),
        (np.zeros(4, dtype=np.int8), "smooth 2-bit codes[0,0,4]"),
    ],
)
def test_what_is_no_such_table_is_refused(array: np.ndarray, encoding: str) -> None:
    with pytest.raises(ExportError, match="no such table"):
        decode(array, encoding)


def test_numerators_are_one_table() -> None:
    numerators = np.rint(32767 * np.exp(-np.arange(1500) / 170)).astype(np.int32)
    high, low = (numerators >> 7).astype(np.uint8), (numerators & 127).astype(np.uint8)
    backend = OnnxFusedBackend()
    backend.short = True
    index = backend.store("index", np.arange(1500, dtype=np.int32))
    name = backend.codes(index, backend.constant("high", high), backend.constant("low", low))
    for constant, wanted, suffix in (("low", low, ", low part"), ("high", high, ", high part")):
        stored, encoding = backend.encodings[constant]
        assert encoding.endswith(suffix)
        array = numpy_helper.to_array(backend.initializers[stored])
        assert array.nbytes <= 1500
        found = decode(array, encoding)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, wanted)
    (found,) = made_by_onnx(backend, [name], True)
    np.testing.assert_array_equal(found, (high.astype(np.int32) << 8) + low)


def test_two_tensors_of_one_name_are_refused() -> None:
    backend = OnnxStrictBackend()
    for _ in range(2):
        assert backend.store("a", np.arange(3)) == "a"
    for other in (np.arange(1, 4), np.arange(3).astype(np.int32), np.arange(3)[None]):
        with pytest.raises(ExportError, match="two tensors of one name"):
            backend.store("a", other)


@pytest.mark.parametrize("short", [False, True])
def test_tables_of_equal_high_bytes_keep_their_own_low_ones(short: bool) -> None:
    numerators = np.rint(32767 * np.exp(-np.arange(1500) / 170)).astype(np.int32)
    high, low = (numerators >> 7).astype(np.uint8), (numerators & 127).astype(np.uint8)
    other = low.copy()
    other[700:] ^= 1
    backend = OnnxFusedBackend()
    backend.short = short
    index = backend.store("index", np.arange(1500, dtype=np.int32))
    symbols = {
        name: backend.constant(name, table)
        for name, table in (("high", high), ("low", low), ("other", other))
    }
    names = [backend.codes(index, symbols["high"], symbols[name]) for name in ("low", "other", "low")]
    for found, wanted in zip(made_by_onnx(backend, names, True), (low, other, low), strict=True):
        np.testing.assert_array_equal(found, (high.astype(np.int32) << 8) + wanted)
    for name, wanted in (("high", high), ("low", low), ("other", other)):
        stored, encoding = backend.encodings[name]
        found = decode(numpy_helper.to_array(backend.initializers[stored]), encoding)
        np.testing.assert_array_equal(found, wanted)


def test_numerators_are_two_tables_of_bytes_where_each_is_looked_up() -> None:
    numerators = np.rint(32767 * np.exp(-np.arange(1500) / 170)).astype(np.int32)
    tables = {"high": (numerators >> 7).astype(np.uint8), "low": (numerators & 127).astype(np.uint8)}
    backend = OnnxStrictBackend()
    symbols = {name: backend.constant(name, table) for name, table in tables.items()}
    # a file that need not be short stores bytes
    backend.numerators(symbols["high"], symbols["low"])
    assert not backend.initializers
    backend.short = True
    backend.numerators(symbols["high"], symbols["low"])
    assert backend.encodings["high"][0] == backend.encodings["low"][0]
    names = [backend.encode(symbols[name], "u8", table) for name, table in tables.items()]
    found = made_by_onnx(backend, names, True)
    for (name, table), made in zip(tables.items(), found, strict=True):
        stored, encoding = backend.encodings[name]
        array = numpy_helper.to_array(backend.initializers[stored])
        assert array.nbytes <= 1500
        np.testing.assert_array_equal(decode(array, encoding), table)
        np.testing.assert_array_equal(made, table)
        assert made.dtype == np.uint8
    # what is not smooth stays as it is
    rough = np.random.default_rng(0).integers(0, 128, 1500).astype(np.uint8)
    pair = backend.constant("rough high", rough), backend.constant("rough low", rough[::-1].copy())
    backend.numerators(*pair)
    assert backend.encode(pair[0], "u8", rough) == "rough high"
