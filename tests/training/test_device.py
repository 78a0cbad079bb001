"""Where training computes: devices by name, and every tensor of a training on the one that was named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pretended_gpu import GPU, pretended_gpu

import zeroq_asr as zq
from zeroq_asr.errors import ConfigError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.threads import torch_threads
from zeroq_asr.training.device import device_of, full_float32

SMALL: dict[str, Any] = {
    "section_steps": 4,
    "training_batch": 4,
    "training_seconds": 0.64,
    "training_speakers": 2,
    "held_out": 1,
    "distillation_steps": 3,
    "clipping_steps": 2,
}


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """As many GPUs as the test says, as PyTorch would count them."""
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    return count


@pytest.mark.parametrize(
    ("gpus", "name", "wanted"),
    [
        (0, "cpu", "cpu"),
        (0, "auto", "cpu"),
        (2, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
    indirect=["gpus"],
)
def test_devices_have_names(gpus: int, name: str, wanted: str) -> None:
    assert device_of(name) == torch.device(wanted)


@pytest.mark.parametrize(
    ("gpus", "name", "there"),
    [(0, "cuda", "no GPU"), (0, "cuda:0", "no GPU"), (2, "cuda:2", "cuda:0 to cuda:1")],
    indirect=["gpus"],
)
def test_a_device_that_is_not_there_is_named(gpus: int, name: str, there: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no '{name}': PyTorch .* sees {there}"):
        device_of(name)


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_processes_have_the_next_gpu_each(gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for place in ("0", "1", "2"):
        monkeypatch.setenv("LOCAL_RANK", place)
        found.append(str(device_of("cuda")))
    assert found == ["cuda:0", "cuda:1", "cuda:0"]
    assert device_of("cuda:0") == torch.device("cuda:0")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:01", "cuda:-1", "CPU", "", "cuda:1000", 0, None])
def test_what_is_no_device_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="is not one of cpu, cuda, cuda:N, auto"):
        zq.TrainingSpec(device=name)


def test_convolutions_are_told_to_be_whole() -> None:
    before = torch.backends.cudnn.allow_tf32
    with full_float32(GPU):
        assert not torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.parametrize("gpus", [0], indirect=True)
def test_it_is_missed_before_the_network_is_loaded(gpus: int) -> None:
    with pytest.raises(ConfigError, match="there is no 'cuda'"):
        zq.quantize("missing.pt", training=zq.TrainingSpec(device="cuda"))


@pytest.fixture(scope="module", params=["quartznet", "conformer"])
def prepared(request: pytest.FixtureRequest, small_model: Any, conformer_of: Any) -> zq.Prepared:
    model = small_model
    if request.param == "conformer":
        network = conformer_of(self_attention_model="rel_pos")
        tokens = zq.Tokenizer(tuple("abcd"), "characters")
        frontend = zq.FrontendConfig(features=16)
        model = zq.AsrModel(network, frontend, tokens, request.param, subsampling_factor=4)
    return zq.prepare(
        model,
        spec=zq.QuantSpec.parse_bits("w2a4", sensitive_bits=2),
        synthesis=zq.SynthesisSpec(speakers=2, seconds=1.0),
        calibration=zq.CalibrationSpec("speech"),
    )


@pytest.mark.parametrize("gpus", [1], indirect=True)
def test_a_training_keeps_to_its_device(gpus: int, prepared: zq.Prepared) -> None:
    training = zq.TrainingSpec(reconstruction="on", device="auto", **SMALL)
    with torch_threads(1), pretended_gpu() as gpu:
        made = zq.quantize(prepared, training=training)
    # forward and backward
    assert {"aten::convolution", "aten::convolution_backward", "aten::_foreach_addcdiv_"} <= gpu.computed
    account = made.training
    assert account is not None
    assert account.distillation is not None
    assert account.distillation.steps == 3
    assert made.deployment.recipe["training"]["device"] == "auto"
    # what comes back is a program like any other
    assert made.proof.headroom_bits >= 0
    assert made.program.digest() != zq.build(prepared).digest()


def test_integers_on_a_gpu_are_the_programs(prepared: zq.Prepared) -> None:
    program = zq.build(prepared)
    features = np.random.default_rng(2).normal(size=(3, 16, 64)).astype(np.float32)
    lengths = np.array([64, 50, 64])
    wanted = program.run(NumpyBackend(), features, lengths)
    with torch_threads(1), torch.no_grad(), pretended_gpu() as gpu:
        backend = TorchBackend(GPU)
        assert backend.int8
        given = [torch.from_numpy(one).to(GPU) for one in (features, lengths)]
        found = program.run(backend, *given)
        assert all(gpu.holds(one) for one in found)
        arrays = [one.cpu().numpy() for one in found]
    # carriers of float64, and int8 products where sides are multiples of 8, as a GPU takes them
    products = {"aten::_int_mm"} if prepared.model.name == "conformer" else set()
    assert {"aten::convolution"} | products <= gpu.computed
    for a, b in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_mixing_sides_is_noticed() -> None:
    with pretended_gpu():
        there, here = torch.ones(3).to(GPU), torch.ones(3)
        assert (there * 2).device == GPU
        assert (there + torch.ones(())).device == GPU
        with pytest.raises(RuntimeError, match="tensors on cuda:0 and cpu"):
            there + here
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert (there.cpu() + here).tolist() == [2, 2, 2]
