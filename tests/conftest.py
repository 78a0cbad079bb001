"""Fixtures for every test: the real data, and small synthetic checkpoints."""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from small_networks import LETTERS, small_quartznet


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that reads the real data, so that ``-m real`` and ``-m "not real"`` select them."""
    for item in items:
        if "test_data" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with models/ and speech/, or a skip that says what is missing."""
    folder = os.environ.get("ZEROQ_TEST_DATA")
    if folder and Path(folder, "models").is_dir():
        return Path(folder)
    reason = "ZEROQ_TEST_DATA does not name a folder with real models and speech"
    if os.environ.get("ZEROQ_NO_SKIP"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def utterance(test_data: Path) -> Callable[[str], Path]:
    """Find the recording of an utterance by its name."""
    folder = test_data / "speech" / "librispeech-test-other"
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    files = [folder / json.loads(line)["audio_filepath"] for line in lines]
    return {file.stem: file for file in files}.__getitem__


@pytest.fixture
def conv_config() -> dict[str, Any]:
    """The model_config of a small QuartzNet."""
    layer = {"kernel": [5], "repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.0, "separable": True}
    return {
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "features": 16,
            "normalize": "per_feature",
            "window_size": 0.02,
            "n_fft": 512,
            "dither": 1e-5,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConvASREncoder",
            "feat_in": 16,
            "activation": "relu",
            "conv_mask": True,
            "jasper": [
                {**layer, "filters": 8, "stride": [2], "residual": False},
                {**layer, "filters": 12, "repeat": 2, "residual": True},
            ],
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
            "feat_in": 12,
            "num_classes": 28,
            "vocabulary": LETTERS,
        },
    }


@pytest.fixture
def conv_state(conv_config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random weights and statistics for `conv_config`, as NeMo names them."""
    from zeroq_asr.architectures.quartznet import ConvCtc

    torch.manual_seed(0)
    network = ConvCtc(conv_config)
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
    return state


@pytest.fixture
def write_nemo(tmp_path: Path) -> Callable[..., Path]:
    """Write a .nemo archive of a configuration, weights and extra files; return its path."""

    def write(
        config: dict[str, Any] | bytes,
        state: Any,
        files: dict[str, bytes] | None = None,
        *,
        prefix: str = "./",
        zipped: bool = False,
        name: str = "small.nemo",
    ) -> Path:
        weights = io.BytesIO()
        torch.save(state, weights)
        text = config if isinstance(config, bytes) else yaml.safe_dump(copy.deepcopy(config)).encode()
        members = {"model_config.yaml": text, "model_weights.ckpt": weights.getvalue(), **(files or {})}
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as archive:
            for member, data in members.items():
                info = tarfile.TarInfo(prefix + member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        path = tmp_path / name
        path.write_bytes(gzip.compress(raw.getvalue()) if zipped else raw.getvalue())
        return path

    return write


@pytest.fixture
def speech_like() -> np.ndarray:
    """Half a second of noise under a slow envelope, float32 at 16 kHz."""
    noise = np.random.default_rng(0).standard_normal(8000)
    return (noise * np.linspace(0.01, 0.2, 8000)).astype(np.float32)


@pytest.fixture(scope="session")
def small_model() -> Any:
    """The small random recogniser of `small_networks`."""
    return small_quartznet()


@pytest.fixture(scope="session")
def conformer_of() -> Callable[..., Any]:
    """Make a small Conformer of 16 mels and 5 classes with random weights and statistics."""
    from zeroq_asr.architectures.conformer import ConformerCtc

    encoder: dict[str, Any] = {
        "feat_in": 16,
        "n_layers": 2,
        "d_model": 24,
        "n_heads": 4,
        "conv_kernel_size": 7,
        "subsampling": "striding",
        "subsampling_factor": 4,
        "subsampling_conv_channels": 6,
    }

    def make(**changes: Any) -> ConformerCtc:
        torch.manual_seed(0)
        config = {
            "encoder": {**encoder, **changes},
            "decoder": {"feat_in": changes.get("d_model", 24), "num_classes": 4},
        }
        network = ConformerCtc(config).eval().requires_grad_(False)
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith(("running_mean", "pos_bias_u", "pos_bias_v")):
                tensor.normal_()
        return network

    return make


@pytest.fixture(scope="session")
def huggingface_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make the folder of a tiny Hugging Face model of a kind in `HUGGINGFACE`, once each."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    from huggingface_models import make_folder

    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind.replace(", ", "_").replace(" ", "_"))
            made[kind] = make_folder(kind, folder)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def huggingface_graph(huggingface_folder: Callable[[str], Path]) -> Callable[[str], Any]:
    """Load and capture a model of `huggingface_folder`, once each: the model and its float graph."""
    from zeroq_asr.capture.capture import capture
    from zeroq_asr.checkpoints import load_checkpoint

    made: dict[str, Any] = {}

    def make(kind: str) -> Any:
        if kind not in made:
            model = load_checkpoint(huggingface_folder(kind))
            made[kind] = model, capture(model.network, model.example_input(), model.name)
        return made[kind]

    return make
