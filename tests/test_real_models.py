"""The whole job on real checkpoints and real speech: the figures this project promises.

Needs ZEROQ_TEST_DATA; see CONTRIBUTING.md.  One run of the command line makes the file that every
test of QuartzNet15x5 here looks at.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

import zeroq_asr as zq
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.verify import load_onnx, read_program
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program
from zeroq_asr.measure.bootstrap import paired_bootstrap
from zeroq_asr.measure.evaluate import ErrorCounts, count_errors
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend

#: utterances whose logits are compared integer by integer
UTTERANCES = 20
TINY = (
    *("quartznet_tiny", "jasper_tiny", "citrinet_tiny"),
    *("conformer_ctc_tiny", "conformer_ctc_bpe_tiny", "fastconformer_ctc_tiny"),
)


@dataclass(frozen=True)
class Run:
    """One run of ``zeroq-asr quantize``."""

    path: Path
    seconds: float
    gigabytes: float
    report: dict[str, Any]


@pytest.fixture(scope="session")
def quartznet(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """QuartzNet15x5, quantized by the command with its defaults, in a process of its own."""
    folder = tmp_path_factory.mktemp("quartznet")
    checkpoint = test_data / "models" / "quartznet15x5.nemo"
    command = [sys.executable, "-m", "zeroq_asr", "quantize", str(checkpoint), "--bits", "8", "--json"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return Run(folder / "quartznet15x5.int8.onnx", seconds, peak, json.loads(done.stdout))


@pytest.fixture(scope="session")
def program(quartznet: Run) -> Program:
    return read_program(load_onnx(quartznet.path))[0]


@pytest.fixture(scope="session")
def strict_file(quartznet: Run) -> Path:
    program, deployment, _ = read_program(load_onnx(quartznet.path))
    path = quartznet.path.with_suffix(".strict.onnx")
    path.write_bytes(export(program, deployment, "strict").to_bytes())
    return path


@pytest.fixture(scope="session")
def speech(test_data: Path) -> list[np.ndarray]:
    manifest = test_data / "speech" / "librispeech-test-other" / "manifest.jsonl"
    return [load_audio(u.audio_path, 16000) for u in zq.read_manifest(manifest)[:UTTERANCES]]


def _session(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _logits(session: ort.InferenceSession, features: np.ndarray, lengths: np.ndarray) -> Any:
    return session.run(["logits", "encoded_lengths"], {"audio_signal": features, "length": lengths})


def test_quantize_fits_time_memory_and_size(quartznet: Run, strict_file: Path) -> None:
    fused, strict = (path.stat().st_size for path in (quartznet.path, strict_file))
    print(
        f"\nquantize: {quartznet.seconds:.0f} s, {quartznet.gigabytes:.2f} GB, {quartznet.report['seconds']}"
    )
    print(f"fused {fused / 1e6:.2f} MB, strict {strict / 1e6:.2f} MB")
    assert quartznet.seconds <= 8 * 60
    assert quartznet.gigabytes <= 4.0
    assert fused <= 19.9e6
    assert strict <= 20.5e6


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_certificate(quartznet: Run, strict_file: Path, dialect: str) -> None:
    certificate = zq.verify(quartznet.path if dialect == "fused" else strict_file)
    assert certificate.dialect == dialect
    assert certificate.program_sha256 == quartznet.report["program_sha256"]
    assert certificate.float_tensors == []
    if dialect == "fused":  # everything but the 16-bit logits runs on a fast kernel
        assert certificate.spellings["conv_requant"] == {"QLinearConv": 170, "primitives": 1}
        assert certificate.spellings["add_requant"] == {"QLinearAdd": 15}


def test_word_error_rate_stays_with_float(quartznet: Run, test_data: Path) -> None:
    utterances = zq.read_manifest(test_data / "speech" / "librispeech-test-other" / "manifest.jsonl")
    model = zq.load_checkpoint(test_data / "models" / "quartznet15x5.nemo")
    reference = zq.evaluate(zq.TorchRecognizer(model), utterances)
    integer = zq.evaluate(zq.OnnxRecognizer(quartznet.path), utterances)
    assert reference.words.rate is not None
    assert integer.words.rate is not None
    print(f"\nWER float {100 * reference.words.rate:.2f} %, data-free W8A8 {100 * integer.words.rate:.2f} %")
    assert 0.10 < reference.words.rate < 0.12
    # What synthesis ends with, and a word or two, depend on the processor's rounding, and 50 utterances are
    # few: so the bar of a point is held against the interval of the difference, and the two transcripts
    # against each other.  Noise instead of made features is 10 % from the float transcripts.
    references = [said.reference for said in reference.transcripts]
    errors = [
        [counts.substitutions + counts.deletions + counts.insertions for counts in one]
        for one in (_words(integer, references), _words(reference, references))
    ]
    lengths = [len(text.split()) for text in references]
    gap = paired_bootstrap(*errors, lengths)
    assert gap is not None
    assert gap.low <= 0.01
    heard = [[said.hypothesis for said in one.transcripts] for one in (reference, integer)]
    assert count_errors(*heard)[0].rate <= 0.05


def _words(evaluation: zq.Evaluation, references: list[str]) -> list[ErrorCounts]:
    pairs = zip(references, evaluation.transcripts, strict=True)
    return [count_errors([text], [said.hypothesis])[0] for text, said in pairs]


def test_logits_are_equal_everywhere(
    quartznet: Run, strict_file: Path, program: Program, speech: list[np.ndarray], test_data: Path
) -> None:
    """numpy, torch, strict and fused, 1 and 2 threads, in a batch of unequal lengths and alone."""
    frontend = Frontend(zq.load_checkpoint(test_data / "models" / "quartznet15x5.nemo").frontend)
    sessions = {
        (path.name, threads): _session(path, threads)
        for path in (quartznet.path, strict_file)
        for threads in (1, 2)
    }
    alone: list[np.ndarray] = []
    compared = 0
    for waveform in speech:
        features, lengths = frontend.batch([waveform])
        expected, encoded = program.run(NumpyBackend(), features, lengths)
        with torch.inference_mode():
            simulated, _ = program.run(TorchBackend(), torch.from_numpy(features), torch.from_numpy(lengths))
        assert np.array_equal(simulated.numpy(), expected)
        for name, session in sessions.items():
            logits, found = _logits(session, features, lengths)
            assert np.array_equal(found, encoded), name
            differing = int((logits != expected).sum())
            assert differing == 0, f"{differing} integers differ in {name}"
            compared += logits.size
        alone.append(expected[0, : encoded[0]])
    for start in range(0, len(speech), 5):
        features, lengths = frontend.batch(speech[start : start + 5])
        assert len(set(lengths.tolist())) > 1
        for name, session in sessions.items():
            logits, encoded = _logits(session, features, lengths)
            for i, expected in enumerate(alone[start : start + 5]):
                assert np.array_equal(logits[i, : encoded[i]], expected), name
                compared += expected.size
    print(f"\n{compared} integers compared on {len(speech)} utterances, 0 differ")


@pytest.fixture(
    params=[
        *((name, "table") for name in (*TINY, "conformer_ctc_small")),
        ("conformer_ctc_tiny", "polynomial"),
    ],
    ids="-".join,
)
def tiny(request: pytest.FixtureRequest, test_data: Path) -> tuple[zq.AsrModel, zq.Quantized]:
    name, nonlinearity = request.param
    model = zq.load_checkpoint(test_data / "models" / f"{name}.nemo")
    spec = zq.SynthesisSpec(batch=2, frames=64, iterations=5)
    return model, zq.quantize(model, spec=zq.QuantSpec(nonlinearity=nonlinearity), synthesis=spec)


def test_logits_of_every_family_are_equal_everywhere(
    tiny: tuple[zq.AsrModel, zq.Quantized], speech: list[np.ndarray], tmp_path: Path
) -> None:
    model, quantized = tiny
    features, lengths = Frontend(model.frontend).batch([w[:64000] for w in speech[:5]] + [speech[5][:20000]])
    expected, encoded = quantized.program.run(NumpyBackend(), features, lengths)
    with torch.inference_mode():
        simulated, _ = quantized.program.run(
            TorchBackend(), torch.from_numpy(features), torch.from_numpy(lengths)
        )
    assert np.array_equal(simulated.numpy(), expected)
    for dialect in ("fused", "strict"):
        path = tmp_path / f"{dialect}.onnx"
        path.write_bytes(export(quantized.program, quantized.deployment, dialect).to_bytes())
        for threads in (1, 2):
            session = _session(path, threads)
            assert np.array_equal(_logits(session, features, lengths)[0], expected)
            for i, length in enumerate(lengths):
                logits, _ = _logits(session, features[i : i + 1, :, :length], lengths[i : i + 1])
                assert np.array_equal(logits[0], expected[i, : encoded[i]])


def test_captured_graphs_keep_the_reference_outputs(
    tiny: tuple[zq.AsrModel, zq.Quantized], test_data: Path
) -> None:
    """Folding norms and dropping masks changes no log-probability by more than 1e-3."""
    from zeroq_asr.capture.capture import capture

    model, _ = tiny
    graph = capture(model.network, model.example_input(), model.name)
    reference = np.load(test_data / "models" / f"{model.name}.npz")
    for i in range(2):
        length = int(reference[f"features_len{i}"][0])
        features = torch.from_numpy(reference[f"features{i}"])[None]
        logits, encoded = graph.run(features, torch.tensor([length]))
        found = torch.log_softmax(logits, -1)[0, : encoded[0]].numpy()
        assert np.abs(found - reference[f"log_probs{i}"][: encoded[0]]).max() < 1e-3
