"""The file of a sweep: what it may say, and that all else is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from zeroq_asr.config import SweepModel, read_sweep
from zeroq_asr.errors import ConfigError

WHOLE = """
models:
- owner/name
- {path: mine.pt, loader: "mine.reading:load", config: mine.yaml, language: fra}
bits: [8, W4A8, plan.yaml]
seeds: [0, 3]
calibration: [synthetic, speech, real.jsonl, made.npz]
manifests: test.jsonl
set: {iterations: 5, max_seconds: 20, limit: 4, rounding: nearest}
dialect: strict
"""
NEEDED = "models: a.pt\nbits: 8\nmanifests: m\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "s.yaml"
    path.write_text(text)
    return path


def test_everything_is_read(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text('weights:\n- "*": int4\n')
    (tmp_path / "mine.pt").write_bytes(b"")
    spec = read_sweep(written(tmp_path, WHOLE))
    assert spec.models == (
        SweepModel("owner/name"),
        SweepModel(str(tmp_path / "mine.pt"), "mine.reading:load", str(tmp_path / "mine.yaml"), "fra"),
    )
    assert spec.bits == ("8", "w4a8", str(tmp_path / "plan.yaml"))
    assert spec.seeds == (0, 3)
    assert spec.calibration == (
        "synthetic",
        "speech",
        str(tmp_path / "real.jsonl"),
        str(tmp_path / "made.npz"),
    )
    assert spec.manifests == (str(tmp_path / "test.jsonl"),)
    assert spec.dialect == "strict"
    quant, synthesis, calibration, _ = spec.specs("w4a8", "speech", 3)
    assert (quant.weight_bits, quant.activation_bits, quant.max_seconds, quant.rounding) == (
        4,
        8,
        20,
        "nearest",
    )
    assert (synthesis.seed, synthesis.iterations) == (3, 5)
    assert (calibration.source, calibration.limit) == ("speech", 4)


def test_what_may_be_left_out(tmp_path: Path) -> None:
    spec = read_sweep(written(tmp_path, NEEDED))
    assert (spec.seeds, spec.calibration, spec.settings, spec.dialect) == ((0,), ("auto",), (), "fused")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a sweep is a mapping of models, bits"),
        ("- 8", "a sweep is a mapping"),
        ("bits: 8\nmanifests: m\n", "has no models"),
        ("models: a.pt\n", "has no bits and no manifests"),
        (f"{NEEDED}seed: 1\n", "'seed' is not a key of a sweep; did you mean seeds?"),
        (f"{NEEDED}colour: red\n", "'colour' is not a key of a sweep; there are models, bits"),
        (f"{NEEDED}1: red\n", "1 is not a key of a sweep"),
        (f"{NEEDED}bits: 8\n", "the key 'bits' stands twice"),
        (
            "models: {path: a.pt, loadr: x}\nbits: 8\nmanifests: m\n",
            "'loadr' is not a key of a model; did you",
        ),
        ("models: {loader: 'x:y'}\nbits: 8\nmanifests: m\n", "a model has no path"),
        ("models: {path: 3}\nbits: 8\nmanifests: m\n", "path must be a non-empty string, got 3"),
        ("models: [a.pt, a.pt]\nbits: 8\nmanifests: m\n", "models has"),
        ("models: []\nbits: 8\nmanifests: m\n", "models must have 1 to 1000 entries, got 0"),
        ("models: a.pt\nbits: nine\nmanifests: m\n", "bits: cannot read 'nine'"),
        ("models: a.pt\nbits: true\nmanifests: m\n", "bits must be a non-empty string, got True"),
        ("models: a.pt\nbits: [8, '8']\nmanifests: m\n", "bits has '8' twice"),
        ("models: a.pt\nbits: p.yaml\nmanifests: m\n", "p.yaml: there is no such file"),
        (f"{NEEDED}seeds: [0, -1]\n", "a seed must be a whole number"),
        (f"{NEEDED}seeds: [0, x]\n", "a seed must be a whole number"),
        (f"{NEEDED}dialect: french\n", "dialect 'french' is not one of fused, strict, qdq"),
        (f"{NEEDED}set: [1]\n", "set must be a mapping of fields"),
        (
            f"{NEEDED}set: {{iteration: 1}}\n",
            "'iteration' is not a field that set can change; did you mean iterations?",
        ),
        (f"{NEEDED}set: {{seed: 1}}\n", "seed is not set by set; say it by seeds"),
        (f"{NEEDED}set: {{weight_bits: 4}}\n", "say it by bits"),
        (f"{NEEDED}set: {{iterations: many}}\n", "iterations must be a whole number"),
        (f"{NEEDED}set: {{channel: 1}}\n", "channel 1 is of recordings"),
        ("models: [", "is not YAML"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_sweep(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_sweep(tmp_path / "absent.yaml")
