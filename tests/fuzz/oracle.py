"""Explains what the command accepted: does the result follow the input as it was changed?

An explanation runs in a forked child of its own, since what is accepted may crash whatever runs it.  It
prints a line of JSON: ``problem``, empty where all is well.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzz.harness import isolated
from fuzz.seeds import Seeds

BEHIND = "the frames behind the end of an utterance change its logits"
#: frames of the utterances that accepted programs are run on
LENGTHS = (1, 2, 7, 8, 33, 100)


@dataclass(frozen=True)
class Explain:
    """What must hold of an accepted input."""

    #: a name in ``RULES``
    rule: str
    #: what the rule is about: a file, and what goes with it
    arguments: tuple[Any, ...] = ()
    #: the key in ``Seeds.facts`` of the whole input
    base: str = ""
    #: "differ": the change has a meaning, so the result must; "equal": it has none; "any"
    expected: str = "any"


def explain(claim: Explain, seeds: Seeds, root: Path, stdout: bytes) -> str:
    """Return what is wrong with an accepted input, or nothing."""
    fact = found(claim, root, stdout)
    if fact.get("problem"):
        return str(fact["problem"])
    base = seeds.facts.get(claim.base, {}).get("fact")
    if base is None or claim.expected == "any":
        return ""
    same = base == fact.get("fact")
    if claim.expected == "differ" and same:
        return "accepted, and the result is that of the unchanged input"
    if claim.expected == "equal" and not same:
        return "accepted, and the result differs though nothing of meaning was changed"
    return ""


def found(claim: Explain, root: Path, stdout: bytes = b"") -> dict[str, Any]:
    """Run a rule in a child; returns its JSON."""

    def run() -> None:
        sys.stdout.write("\n@" + json.dumps(RULES[claim.rule](*claim.arguments, stdout=stdout)) + "\n")

    ran = isolated(run, root, seconds=60)
    lines = [line for line in ran.stdout.splitlines() if line.startswith(b"@")]
    if ran.code != 0 or not lines:
        last = (ran.stderr.decode("utf-8", "replace").strip().splitlines() or [""])[-1][:200]
        end = f"signal {ran.signal}" if ran.signal else "a hang" if ran.hung else f"code {ran.code}"
        return {"problem": f"what was accepted cannot be used: {end} {last}"}
    value: dict[str, Any] = json.loads(lines[-1][1:])
    return value


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()


# -- checkpoints -----------------------------------------------------------------------------------------


def checkpoint(path: str, config: str | None = None, *, stdout: bytes = b"") -> dict[str, Any]:
    """What a checkpoint computes of a fixed sound, twice, and of fixed features in a batch."""
    import zeroq_asr as zq
    from fuzz.seeds import sound

    model = zq.load_checkpoint(path, config=config)
    try:
        made, length = zq.Frontend(model.frontend)(sound(0.4)[:, 0].copy())
        features, lengths = torch.from_numpy(made)[None], torch.tensor([length])
    except zq.ZeroqError:  # of windows that are longer than the sound
        features, lengths = model.example_input()
    with torch.inference_mode():
        runs = []
        for _ in range(2):
            logits, encoded = model.network(features.clone(), lengths.clone())
            runs.append((logits.numpy().tobytes(), encoded.numpy().tolist()))
            junk = [torch.full((4096,), float(i)) for i in range(64)]
            del junk
    if runs[0] != runs[1]:
        return {"problem": "accepted, and two runs on the same sound differ"}
    if not bool(torch.isfinite(features).all()):
        return {"problem": "accepted, and its features of a sound are not finite"}
    around = [model.frontend.to_dict(), model.tokenizer.to_dict(), model.subsampling_factor]
    return {"fact": _digest(around, runs[0][0], runs[0][1])}


# -- our ONNX files ---------------------------------------------------------------------------------------


def program(path: str, *, stdout: bytes = b"") -> dict[str, Any]:
    """Whether a file that was verified computes what its program says, and says of itself what is true."""
    files = sorted(Path(path).glob("*.onnx")) if Path(path).is_dir() else [Path(path)]
    problems = [problem for file in files if (problem := _program_problem(file))]
    return {"problem": problems[0] if problems else "", "fact": _digest(*(f.read_bytes() for f in files))}


def _program_problem(path: Path) -> str:
    import onnx
    import onnxruntime

    from zeroq_asr.deployment.verify import read_program
    from zeroq_asr.integer.apart import reads_behind
    from zeroq_asr.integer.backends.numpy import NumpyBackend
    from zeroq_asr.integer.program import is_ctc
    from zeroq_asr.integer.proof import prove

    own, deployment, _ = read_program(onnx.load(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if not is_ctc(own):
        return ""
    generator = np.random.default_rng(0)
    wanted = ["logits", "encoded_lengths"]
    # what is behind the end of an utterance must then not change it
    apart = not reads_behind(own)
    longest, least = deployment.max_frames, prove(own).least_frames
    waveform = deployment.frontend.is_waveform
    lengths = (
        [n for n in LENGTHS if least <= n <= longest]
        if not waveform
        else [n for n in (400, 1000, 1601) if n >= least]
    )
    for frames in lengths:
        features = (generator.standard_normal((2, own.channels, frames)) * 3).astype(np.float32)
        for count in {frames, max(1, frames // 2 + 1)}:
            valid = np.array([frames, count], np.int64)
            expected, until = own.run(NumpyBackend(), features, valid)
            logits, encoded = session.run(wanted, {"audio_signal": features, "length": valid})
            if not np.array_equal(encoded, until):
                return f"encoded_lengths {encoded.tolist()} of ONNX Runtime, {until.tolist()} of its program"
            if not np.array_equal(logits, expected):
                return f"ONNX Runtime computes other logits than its program of {valid.tolist()} frames"
            if (until < 0).any() or (until > expected.shape[1]).any():
                return f"encoded_lengths {until.tolist()} of {expected.shape[1]} encoded frames"
        alone, ends = own.run(NumpyBackend(), features[:1], np.array([frames], np.int64))
        if int(ends[0]) != alone.shape[1]:
            return f"encoded_lengths {ends.tolist()} of one utterance of {alone.shape[1]} encoded frames"
        factor = deployment.subsampling_factor
        if not waveform and abs(frames / factor - alone.shape[1]) > 2 + 0.05 * alone.shape[1]:
            return f"subsampling_factor {factor}, {frames} frames give {alone.shape[1]}"
        if frames > least and apart:
            padded, _ = own.run(NumpyBackend(), features, np.array([frames, frames - 1], np.int64))
            lone, ends = own.run(NumpyBackend(), features[1:, :, :-1], np.array([frames - 1], np.int64))
            if not np.array_equal(padded[1, : ends[0]], lone[0, : ends[0]]):
                return BEHIND
    return ""


# -- what was printed -------------------------------------------------------------------------------------

#: figures that differ from run to run
_TIMES = ("seconds", "network_seconds", "real_time_factor")


def printed(*, stdout: bytes = b"") -> dict[str, Any]:
    """The result that a command printed as JSON, without times, and the lines that it wrote."""

    def strip(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: strip(item) for key, item in value.items() if key not in _TIMES}
        return [strip(item) for item in value] if isinstance(value, list) else value

    written = Path("out.jsonl")
    return {"fact": _digest(strip(json.loads(stdout)), written.read_bytes() if written.exists() else b"")}


def transcripts(*, stdout: bytes = b"") -> dict[str, Any]:
    """The texts of ``transcribe --json``."""
    return {"fact": _digest([pair["text"] for pair in json.loads(stdout)["transcripts"]])}


RULES: dict[str, Callable[..., dict[str, Any]]] = {
    "checkpoint": checkpoint,
    "program": program,
    "printed": printed,
    "transcripts": transcripts,
}
