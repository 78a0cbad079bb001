"""An operator, and a grid with its packing, that the package has never heard of go the whole way."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from leaky_relu import LEAKY_RELU
from torch import nn

import zeroq_asr as zq
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.grid import Grid, Packing, register_grid, unregister_grid
from zeroq_asr.registry import register, unregister

MELS, HIDDEN, TOKENS = 16, 24, 28


class Network(nn.Module):
    """Two convolutions around a leaky ReLU; logits of every second frame."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(MELS, HIDDEN, 5, stride=2, padding=2)
        self.activation = nn.LeakyReLU(0.125)
        self.back = nn.Conv1d(HIDDEN, TOKENS + 1, 1)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.activation(self.front(features))
        return self.back(hidden).transpose(1, 2), (lengths - 1) // 2 + 1


@pytest.fixture
def model(small_model: zq.AsrModel) -> zq.AsrModel:
    torch.manual_seed(1)
    network = Network().eval().requires_grad_(False)
    return dataclasses.replace(small_model, network=network, name="outside", architecture="", config={})


@pytest.fixture
def leaky_relu() -> Iterator[None]:
    register(LEAKY_RELU)
    yield
    unregister(LEAKY_RELU)


def inputs() -> tuple[np.ndarray, np.ndarray]:
    features = np.random.default_rng(0).standard_normal((3, MELS, 60)).astype(np.float32)
    return features, np.array([60, 41, 2], dtype=np.int64)


def logits_of(path: Path, features: np.ndarray, lengths: np.ndarray) -> Any:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits", "encoded_lengths"], {"audio_signal": features, "length": lengths})


NOISE = {"calibration": zq.CalibrationSpec("noise")}


def same_everywhere(model: zq.AsrModel, folder: Path, spec: zq.QuantSpec) -> zq.Quantized:
    """Quantize to both exact dialects, verify, and compare every interpreter."""
    features, lengths = inputs()
    for dialect in ("fused", "strict"):
        made = zq.quantize(model, folder / f"{dialect}.onnx", spec=spec, dialect=dialect, **NOISE)
        assert zq.verify(folder / f"{dialect}.onnx").program_sha256 == made.program.digest()
    wanted = made.program.run(NumpyBackend(), features, lengths)
    simulated = made.program.run(TorchBackend(), torch.from_numpy(features), torch.from_numpy(lengths))
    found = [
        [v.numpy() for v in simulated],
        *(logits_of(folder / f"{d}.onnx", *inputs()) for d in ("fused", "strict")),
    ]
    for results in found:
        for a, b in zip(wanted, results, strict=True):
            np.testing.assert_array_equal(a, b)
    real = model.network(torch.from_numpy(features), torch.from_numpy(lengths))[0].numpy()
    scale = made.program.values[made.program.output("logits").value].scale
    valid = np.arange(real.shape[1])[None] < wanted[1][:, None]
    error = np.abs(real - wanted[0] * scale)[valid].max() / np.abs(real[valid]).max()
    assert error < 0.6, "the integers are those of another network"
    return made


def test_without_its_record_it_is_refused(model: zq.AsrModel) -> None:
    with pytest.raises(zq.UnsupportedOperatorError, match="leaky_relu"):
        zq.quantize(model, **NOISE)


@pytest.mark.usefixtures("leaky_relu")
def test_an_operator_goes_all_the_way(model: zq.AsrModel, tmp_path: Path) -> None:
    made = same_everywhere(model, tmp_path, zq.QuantSpec())
    assert [i.op for i in made.program.code].count("leaky_requant") == 1
    assert "leaky ReLU in exact floats" in zq.verify(tmp_path / "fused.onnx").kernels


@pytest.mark.usefixtures("leaky_relu")
def test_an_operator_can_stay_in_float(model: zq.AsrModel, tmp_path: Path) -> None:
    made = zq.quantize(model, tmp_path / "f.onnx", spec=zq.QuantSpec(keep_float=("activation",)), **NOISE)
    assert [island.layers for island in zq.verify(tmp_path / "f.onnx").islands] == [("activation",)]
    features, lengths = inputs()
    wanted = made.program.run(NumpyBackend(), features, lengths)[0]
    found = logits_of(tmp_path / "f.onnx", features, lengths)[0]
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("leaky_relu")
def test_its_parity_cases_are_run_like_ours() -> None:
    from integer.parity import all_cases

    assert "leaky_requant" in {case.op for case in all_cases()}


# -- a grid with a packing -------------------------------------------------------------------------


def _pack(integers: np.ndarray) -> np.ndarray:
    """Base 3, five digits of {−2, 0, 2} a byte."""
    digits = (integers.reshape(-1).astype(np.int64) + 2) // 2
    padded = np.pad(digits, (0, -len(digits) % 5)).reshape(-1, 5)
    return (padded @ 3 ** np.arange(5)).astype(np.uint8)


def _unpack(stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    digits = stored.astype(np.int64)[:, None] // 3 ** np.arange(5) % 3
    return (digits.reshape(-1)[: int(np.prod(shape))] * 2 - 2).astype(np.int8).reshape(shape)


def _emit(b: Any, stored: str, shape: tuple[int, ...]) -> str:
    wide = b.add_node("Cast", [stored], to=6)
    column = b.add_node("Unsqueeze", [wide, b.axes(1)])
    powers = b.store("base3/powers", (3 ** np.arange(5)).astype(np.int32))
    three = b.store("base3/three", np.array(3, np.int32))
    digits = b.add_node("Mod", [b.add_node("Div", [column, powers]), three])
    flat = b.add_node(
        "Slice",
        [b.add_node("Reshape", [digits, b.axes(-1)]), b.axes(0), b.axes(int(np.prod(shape))), b.axes(0)],
    )
    doubled = b.add_node("Mul", [flat, b.store("base3/two", np.array(2, np.int32))])
    levels = b.add_node("Sub", [doubled, b.store("base3/two", np.array(2, np.int32))])
    return b.add_node("Cast", [b.add_node("Reshape", [levels, b.axes(*shape)])], to=3)


EVEN = Grid("even ternary", (-2, 0, 2), "base 3")


@pytest.fixture
def even_ternary() -> Iterator[None]:
    register_grid(EVEN, Packing("base 3", _pack, _unpack, _emit))
    yield
    unregister_grid(EVEN)


@pytest.mark.usefixtures("leaky_relu", "even_ternary")
def test_a_grid_with_its_packing_goes_all_the_way(model: zq.AsrModel, tmp_path: Path) -> None:
    spec = zq.QuantSpec(layer_grids=(("front", "even ternary"),))
    made = same_everywhere(model, tmp_path, spec)
    name = next(name for name in made.program.packings)
    assert made.program.packings == {name: "base 3"}
    assert EVEN.holds(made.program.constants[name])
    stored = {i.name: i for i in made.exported.model.graph.initializer}[name]
    assert len(stored.raw_data) == -(-HIDDEN * MELS * 5 // 5)


@pytest.mark.usefixtures("leaky_relu", "even_ternary")
def test_a_packed_layer_beside_one_in_float(model: zq.AsrModel, tmp_path: Path) -> None:
    spec = zq.QuantSpec(layer_grids=(("front", "even ternary"),), keep_float=("activation",))
    made = zq.quantize(model, tmp_path / "f.onnx", spec=spec, **NOISE)
    assert zq.verify(tmp_path / "f.onnx").islands
    features, lengths = inputs()
    found = logits_of(tmp_path / "f.onnx", features, lengths)[0]
    np.testing.assert_array_equal(found, made.program.run(NumpyBackend(), features, lengths)[0])
