"""Folders for sherpa-onnx and onnx-asr: what is in them, what is refused by its name, and what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli.commands import app
from zeroq_asr.config import SynthesisSpec
from zeroq_asr.config.choices import RUNTIMES
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.runtime_features import feature_differences
from zeroq_asr.deployment.runtime_folders import runtime_folder
from zeroq_asr.deployment.runtime_tokens import token_differences, vocabulary
from zeroq_asr.errors import ConfigError, ExportError, VerificationError
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: what both runtimes take
PLAIN = FrontendConfig(window_size=0.025, features=80)


@pytest.fixture(scope="module")
def made(small_model: Any) -> zq.Quantized:
    return zq.quantize(small_model, synthesis=SynthesisSpec(batch=2, frames=64, iterations=2))


@pytest.fixture(scope="module")
def files(made: zq.Quantized, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The network in every dialect, with a frontend that both runtimes have."""
    folder = tmp_path_factory.mktemp("files")
    for dialect in ("fused", "strict", "qdq"):
        data = export(made.program, made.deployment, dialect).to_bytes()
        (folder / f"{dialect}.onnx").write_bytes(data)
    return {dialect: folder / f"{dialect}.onnx" for dialect in ("fused", "strict", "qdq")}


@pytest.mark.parametrize("dialect", ["fused", "strict", "qdq"])
def test_the_model_is_the_file_itself(files: dict[str, Path], dialect: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    made = runtime_folder(files[dialect], "sherpa-onnx")
    made.write(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["model.onnx", "tokens.txt"]
    assert (folder / "model.onnx").read_bytes() == files[dialect].read_bytes()
    lines = (folder / "tokens.txt").read_text().splitlines()
    assert lines[0] == "  0"
    assert lines[1] == "a 1"
    assert lines[-1] == "<blk> 28"
    if dialect != "qdq":
        assert zq.verify(folder / "model.onnx").program_sha256 == made.program_sha256
    # once more over what is there
    made.write(folder)


def test_onnx_asr_reads_a_space_as_a_mark(files: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    runtime_folder(files["fused"], "onnx-asr", own_features=True).write(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.onnx", "vocab.txt"]
    lines = (folder / "vocab.txt").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("▁ 0", "<blk> 28")
    # as onnx-asr reads them
    assert all(len(line.split(" ")) == 2 for line in lines)
    config = json.loads((folder / "config.json").read_text())
    assert config == {"model_type": "nemo-conformer-ctc", "features_size": 16, "subsampling_factor": 2}
    outputs = [value.name for value in onnx.load(folder / "model.onnx").graph.output]
    assert outputs[0] == "logprobs"


def test_what_else_lies_there_is_not_replaced(files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        runtime_folder(files["fused"], "sherpa-onnx").write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["notes.md"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"window_stride": 0.0125}, "window_stride is 0.0125"),
        ({"window": "hamming"}, "window is hamming"),
        ({"preemph": None}, "preemph is None"),
        ({"lowfreq": 20}, "lowfreq is 20"),
        ({"highfreq": 7600}, "highfreq is 7600"),
        ({"log": False}, "log is False"),
        ({"mag_power": 1.0}, "mag_power is 1"),
        ({"mel_norm": None}, "mel_norm is None"),
        ({"normalize": "all_features"}, "normalize is all_features"),
        ({"normalize": {"fixed_mean": [0.0] * 80, "fixed_std": [1.0] * 80}}, "normalize is fixed"),
        ({"kind": "waveform", "features": 1, "normalize": "unit_variance"}, "kind is waveform"),
    ],
)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_features_that_no_runtime_makes_are_named(runtime: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ExportError, match=f"{runtime} makes no such features: {named}"):
        feature_differences("file", runtime, replace(PLAIN, **changes))


@pytest.mark.parametrize("changes", [{"sample_rate": 8000}, {"features": 64}, {"normalize": None}])
def test_sherpa_takes_more_features_than_onnx_asr(changes: dict[str, Any]) -> None:
    (name,) = changes
    with pytest.raises(ExportError, match=f"{name} is"):
        feature_differences("file", "onnx-asr", replace(PLAIN, **changes))
    assert len(feature_differences("file", "sherpa-onnx", replace(PLAIN, **changes))) == 1


def test_what_changes_results_is_told() -> None:
    assert feature_differences("file", "onnx-asr", PLAIN) == []
    assert "half a step later" in feature_differences("file", "sherpa-onnx", PLAIN)[0]
    told = feature_differences(
        "file", "onnx-asr", replace(PLAIN, window_size=0.02, log_zero_guard_value=1e-5)
    )
    assert told == [
        "a window is of 25 ms, the network's of 20",
        "log(x + 2^-24), the network's is add 1e-05",
    ]
    assert "1024" in feature_differences("file", "onnx-asr", replace(PLAIN, n_fft=1024))[0]


@pytest.mark.parametrize(
    ("tokens", "kind", "problem"),
    [
        (("a", "##b"), "wordpiece", "word pieces"),
        (("a b",), "characters", "up to a space"),
        (("",), "characters", "up to a space"),
        (("a\nb",), "sentencepiece", "up to a space"),
        (("a", "<blk>"), "characters", "<blk>"),
        (("▁",), "characters", "a letter"),
    ],
)
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_tokens_that_would_be_others_are_refused(
    runtime: str, tokens: tuple[str, ...], kind: str, problem: str
) -> None:
    with pytest.raises(ExportError, match=problem):
        token_differences("file", runtime, Tokenizer(tokens, kind))


def test_pieces_that_are_printed_otherwise_are_told() -> None:
    pieces = Tokenizer(("<unk>", "▁a", "a▁b", "<0x41>", "'s"), "sentencepiece")
    sherpa, asr = (token_differences("file", runtime, pieces) for runtime in RUNTIMES)
    assert sherpa == [
        "the pieces <unk> are printed as they are written",
        "a ▁ within a piece is printed as it is written",
    ]
    assert asr[0] == sherpa[0]
    assert asr[1:] == [
        "pieces of single bytes (<0x41>) are printed as they are written",
        "a space in front of ' is left out",
    ]
    assert vocabulary("onnx-asr", pieces) == pieces.token_lines()
    with pytest.raises(ExportError, match="codes of bytes"):
        token_differences("file", "sherpa-onnx", Tokenizer(("a", "Ɓ"), "characters"))
    assert token_differences("file", "onnx-asr", Tokenizer(("a", "Ɓ"), "characters")) == []


def test_frames_that_are_left_out_are_told(files: dict[str, Path]) -> None:
    told = runtime_folder(files["fused"], "sherpa-onnx").differences
    assert "reads ⌊n / 2⌋ encoded frames of n: up to 1 at the end are left out" in told
    told = runtime_folder(files["fused"], "onnx-asr", own_features=True).differences
    assert not any("encoded" in one for one in told)


def test_what_is_no_file_of_ours_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sherpa-onnx or onnx-asr"):
        runtime_folder(files["fused"], "vosk")
    with pytest.raises(ConfigError, match="makes its features itself"):
        runtime_folder(files["fused"], "sherpa-onnx", own_features=True)
    other = onnx.load(files["fused"])
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(VerificationError, match="not written by zeroq-asr"):
        runtime_folder(tmp_path / "other.onnx", "sherpa-onnx")


def test_the_command(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["bundle", str(files["fused"]), "--for", "sherpa-onnx", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["files"] == ["model.onnx", "tokens.txt"]
    assert len(found["differences"]) == 3
    assert found["onnxruntime"] == zq.verify(files["fused"]).onnxruntime
    assert "sherpa-onnx differs: frames are centred half a step later" in done.stderr
    refused = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "asr"), "--for", "onnx-asr"])
    assert refused.exit_code != 0
    assert "features is 16" in refused.output
    assert not (tmp_path / "asr").exists()


def test_filters_are_those_of_onnx_asr() -> None:
    from runtimes import required

    required("onnx_asr")
    from importlib.resources import files as resources

    from zeroq_asr.speech.mel import mel_filterbank

    with np.load(str(resources("onnx_asr.preprocessors") / "data" / "fbanks.npz")) as stored:
        for mels in (80, 128):
            ours = mel_filterbank(replace(PLAIN, features=mels))
            np.testing.assert_allclose(stored[f"nemo{mels}"].T, ours, atol=1e-6)
