"""The report of a transducer: its parts, the steps that are counted, and what was made of another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_transducers import speech, trained

import zeroq_asr as zq
from zeroq_asr.measure.compare import compare
from zeroq_asr.measure.page import account_of, page
from zeroq_asr.measure.report import report
from zeroq_asr.synthesis.features import SyntheticFeatures

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=2)
LABELS = zq.LabelSpec(label_sequences=4, label_length=5, joint_pairs=64)
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "durations": {"durations": (0, 1, 2)},
    "stateless": {"stateless": True},
}


def bundle(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.int8"
    zq.quantize_transducer(
        trained(**KINDS[kind]), path, spec=zq.QuantSpec(max_seconds=5), synthesis=FAST, labels=LABELS
    )
    return path


@pytest.fixture(scope="module", params=KINDS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, bundle(request.param, tmp_path_factory.mktemp("report"))


def held_out() -> SyntheticFeatures:
    features, _ = speech(2, 12, 5)
    return SyntheticFeatures(features.numpy(), np.full(2, features.shape[2]), FAST)


def test_values_of_every_part_are_measured(made: tuple[str, Path]) -> None:
    kind, path = made
    found = report(trained(**KINDS[kind]), path, FAST, held_out=held_out())
    assert (found.head, found.to_dict()["head"]) == ("transducer", "transducer")
    parts = [value.name.partition(".")[0] for value in found.values]
    assert [*dict.fromkeys(parts)] == ["encoder", "predictor", "joiner"]
    names = {value.name for value in found.values}
    expected = {"predictor.projection", "joiner.output", "encoder.projection"}
    expected |= {"predictor.norm"} if kind == "stateless" else {"predictor.lstm.0", "predictor.lstm.1"}
    assert expected <= names
    for value in found.values:
        assert value.low < value.high
        assert value.sqnr > 10
    assert 0 <= found.frames < 0.2
    assert 0 < found.divergence < 0.1


def test_the_steps_are_those_of_compare() -> None:
    # the same bundle, features and path, so the same figures
    model = trained()
    row = compare(model, synthesis=FAST, labels=LABELS, spec=zq.QuantSpec(max_seconds=5), timed=False).rows[1]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = report(model, bundle("lstm", Path(folder)), FAST)
    assert found.frames == pytest.approx(row.frames)
    assert found.divergence == pytest.approx(row.divergence, rel=1e-3)


def test_a_page_shows_the_parts(made: tuple[str, Path], tmp_path: Path) -> None:
    kind, path = made
    model = trained(**KINDS[kind])
    found = report(model, path, FAST, held_out=held_out())
    account = account_of(path, Path("trained.nemo"), model.float_bytes)
    text = page(found, account)
    assert account.certificate is not None
    for part, one in account.certificate.parts.items():
        assert f"<td>{part}</td><td>{one.program_sha256[:16]}</td>" in text
        assert f"<title>{part}: " in text
    assert account.certificate.program_sha256 in text
    assert "--head transducer" in text
    assert "<dt>steps</dt>" in text
    takes = (
        "does not take it: its predictor reads its last labels"
        if kind == "stateless"
        else "takes it; differs"
    )
    assert f"<dt>sherpa-onnx</dt><dd>{takes}" in text
    assert "<dt>onnx-asr</dt><dd>does not take it: onnx-asr makes no such features" in text


def test_another_network_is_refused(small_model: Any, tmp_path: Path) -> None:
    path = bundle("lstm", tmp_path)
    with pytest.raises(zq.ConfigError, match="its tokens are others, or are decoded otherwise"):
        report(trained(durations=(0, 1, 2)), path, FAST)
    with pytest.raises(zq.ConfigError, match="was made of another network: it has 'embedding'"):
        report(trained(stateless=True), path, FAST)
    with pytest.raises(zq.ConfigError, match=r"is a transducer's bundle, and .* is a CTC network"):
        report(small_model, path, FAST)
    zq.quantize(small_model, tmp_path / "x.onnx", calibration=zq.CalibrationSpec("noise"), synthesis=FAST)
    with pytest.raises(zq.ConfigError, match="is no bundle, and trained is a transducer"):
        report(trained(), tmp_path / "x.onnx", FAST)
    (path / "joiner.onnx").write_bytes((path / "predictor.onnx").read_bytes())
    with pytest.raises(zq.VerificationError):
        report(trained(), path, FAST)
