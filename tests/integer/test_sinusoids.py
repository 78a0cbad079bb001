"""Tables of sinusoids: what is stored gives the table again, by numpy and by nodes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from integer.test_packing import made_by_onnx
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import decode
from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend
from zeroq_asr.integer.sinusoids import _sines, sinusoid_entries, sinusoids


def table_of(rows: int, frames: int, scale: float, zero: int) -> np.ndarray:
    """A table uint8 [rows, 2 · frames] as lowering makes one, of float32 angles."""
    distances = np.arange(frames, -frames, -1, dtype=np.float32)
    wave = np.exp(np.arange(0, rows, 2, dtype=np.float32) * np.float32(-np.log(10000.0) / rows))
    angles = (wave[:, None] * distances).astype(np.float32)
    reals = np.stack((np.sin(angles), np.cos(angles)), axis=1).reshape(rows, -1)
    reals[:, 0] = 0
    return np.clip(np.rint(reals / scale) + zero, 0, 255).astype(np.uint8)


TABLES = {
    "whole bytes": (48, 600, 2 / 255, 128),
    "a margin": (32, 701, 0.0086, 127),
    "saturated": (32, 500, 0.0072, 130),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("optimised", [False, True])
@pytest.mark.parametrize("dialect", [OnnxFusedBackend, OnnxStrictBackend])
def test_nodes_and_numpy_make_the_table_again(
    name: str, optimised: bool, dialect: type[OnnxStrictBackend]
) -> None:
    table = table_of(*TABLES[name])
    backend = dialect()
    backend.short = True
    made = backend.encode(backend.constant("t", table), "u8", table)
    stored, encoding = backend.encodings["t"]
    array = numpy_helper.to_array(backend.initializers[stored])
    # the first column, and what float32 rounds otherwise: one entry in a thousand
    assert encoding.startswith("sinusoids[")
    assert array.size <= len(table) + table.size / 1000
    np.testing.assert_array_equal(decode(array, encoding), table)
    (found,) = made_by_onnx(backend, [made], optimised)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, table)


def test_sines_are_exact_to_nine_digits() -> None:
    columns = np.arange(4800)
    distances = 2400 - columns
    angles = 10000.0 ** (-np.arange(0, 64, 2)[:, None] / 64) * distances
    reals = np.stack((np.sin(angles), np.cos(angles)), axis=1).reshape(64, -1)
    # a frequency has 32 bits of a turn: at distance 2400 an angle is known to 2400 · 2^-33 turns
    assert np.abs(_sines(64, 4800, columns) / 2.0**30 - reals).max() < 2400 * 2.0**-33 * 2 * np.pi + 1e-8


def test_what_are_no_sinusoids_are_left() -> None:
    table = table_of(*TABLES["a margin"])
    noise = np.random.default_rng(0).integers(0, 256, table.shape).astype(np.uint8)
    noise[:, 0] = 7
    for other in (noise, table[:, 1:], table[:-1], table.astype(np.int32), table.reshape(-1), table[:, ::-1]):
        assert sinusoids(other) is None
    # nodes would take more than what they save
    assert sinusoids(table_of(4, 30, 2 / 255, 128)) is None
    assert sinusoid_entries(np.zeros(0, dtype=np.int32), "u8") is None


def test_qdq_stores_the_table_itself() -> None:
    assert not OnnxQdqBackend.makes_tables


@pytest.mark.parametrize(
    ("array", "encoding"),
    [
        (np.zeros(2, dtype=np.int32), "sinusoids[4,8,100,128,1]"),
        (np.zeros(1, dtype=np.int64), "sinusoids[4,8,100,128,1]"),
        (np.array([5, 5], dtype=np.int32), "sinusoids[4,8,100,128,2]"),
        (np.array([32 << 8], dtype=np.int32), "sinusoids[4,8,100,128,1]"),
        (np.array([-1], dtype=np.int32), "sinusoids[4,8,100,128,1]"),
        (np.zeros(0, dtype=np.int32), "sinusoids[4,8,100,256,0]"),
        (np.zeros(0, dtype=np.int32), "sinusoids[4,8,100000000,128,0]"),
        (np.zeros(0, dtype=np.int32), "sinusoids[99999,9999999,100,128,0]"),
        (np.zeros(0, dtype=np.int32), "sinusoids[0,8,100,128,0]"),
        (np.zeros(0, dtype=np.int32), "sinusoids[3,8,100,128,0]"),
    ],
)
def test_what_is_no_such_table_is_refused(array: np.ndarray, encoding: str) -> None:
    with pytest.raises(ExportError, match="no such table"):
        decode(array, encoding)
