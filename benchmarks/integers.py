"""Record the integers that every format and dialect gives, and check that a change left them where they were.

    python benchmarks/integers.py record FILE.json [--features FOLDER] [--only GLOB]
    python benchmarks/integers.py check FILE.json [--features FOLDER] [--only GLOB]

Each case is a network in a format: the two embedded models, the tiny Hugging Face models of the tests, and,
in the folder that ZEROQ_TEST_DATA names, the NeMo checkpoints.  Of each, SHA-256 digests of the integer
logits and lengths are kept as numpy, torch, fused, strict and qdq give them, on features of a fixed seed and,
for real networks, on real recordings.

Made features depend on the processor and the version of PyTorch: they are made once and kept in FOLDER, and
their digest is recorded, so that a difference that begins there is told from one that the change made.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zeroq_asr as zq
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.recognizer import open_session
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend

TINY = (
    *("quartznet_tiny", "jasper_tiny", "citrinet_tiny"),
    *("conformer_ctc_tiny", "conformer_ctc_bpe_tiny", "fastconformer_ctc_tiny"),
)
REAL = ("quartznet15x5", "conformer_ctc_small")
#: recordings of test-other that real networks hear, and how much of them numpy does, which is slow
HEARD, HEARD_BY_NUMPY = 3, 1
#: a glob of layers whose results shall have 16 bits, and one of what stays in float, by kind of network
WIDE = {"conv": "*", "attention": "*feed_forward2*", "waveform": "*layers.1.*"}
KEPT = {"conv": "decoder*", "attention": "*feed_forward1*", "waveform": "*layers.1.*"}


def formats(kind: str, real: bool) -> dict[str, zq.QuantSpec]:
    """Name → format."""
    of = zq.QuantSpec.parse_bits
    found = {
        "8": of("8"),
        "w7a8": of("w7a8"),
        "w4a8": of("w4a8"),
        "6": of("6"),
        "layer=16": of("8", f"{WIDE[kind]}=16"),
        "polynomial": of("8", nonlinearity="polynomial"),
        "600 s": of("8", max_seconds=600.0),
        "x86-vnni": of("8", target="x86-vnni"),
    }
    if not real:
        found["smoothed"] = of("8", smoothing=0.5, equalization=0.5)
        found["island"] = of("8", keep_float=(KEPT[kind],))
    return found


def networks() -> Iterator[tuple[str, str, Callable[[], zq.AsrModel]]]:
    """Name, kind and loader of every network at hand."""
    files = zq.embedded_files()
    yield "embedded quartznet", "conv", zq.embedded_model
    yield "embedded conformer", "attention", lambda: zq.load_checkpoint(files.conformer)
    for kind in ("wav2vec2", "hubert", "conformer", "rotary", "parakeet"):
        of = "attention" if kind == "parakeet" else "waveform"
        yield f"transformers {kind}", of, lambda kind=kind: _huggingface(kind)  # type: ignore[misc]  # a lambda's default has no type
    folder = os.environ.get("ZEROQ_TEST_DATA")
    for name in (*TINY, *REAL) if folder else ():
        path = Path(str(folder)) / "models" / f"{name}.nemo"
        of = "attention" if "conformer" in name else "conv"
        yield name, of, lambda path=path: zq.load_checkpoint(path)  # type: ignore[misc]  # a lambda's default has no type


def _huggingface(kind: str) -> zq.AsrModel:
    """The tiny random model of the tests."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from huggingface_models import make_folder

    with tempfile.TemporaryDirectory() as folder:
        return zq.load_checkpoint(make_folder(kind, Path(folder)))


def features_of(model: zq.AsrModel, name: str, folder: Path) -> Path:
    """Features to calibrate on, made once."""
    path = folder / f"{name.replace(' ', '_')}.npz"
    if not path.exists():
        spec = zq.SynthesisSpec.preset("fast", frames=16 if model.frontend.is_waveform else 256)
        try:
            zq.synthesize(model, spec).save(path)
        except zq.SynthesisError:
            zq.gaussian_noise(model, spec).save(path)
    return path


def heard(model: zq.AsrModel, real: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Features [B, M, T] and lengths [B] that the program is run on."""
    if real:
        manifest = (
            Path(os.environ["ZEROQ_TEST_DATA"]) / "speech" / "librispeech-test-other" / "manifest.jsonl"
        )
        frontend = Frontend(model.frontend)
        shortest = sorted(zq.read_manifest(manifest), key=lambda u: u.duration or 0.0)[:HEARD]
        waves = [load_audio(u.audio_path, model.frontend.sample_rate) for u in shortest]
        return [frontend.batch([wave], ["recording"]) for wave in waves]
    frames = 4800 if model.frontend.is_waveform else 160
    rng = np.random.default_rng(0)
    made = rng.standard_normal((3, model.frontend.features, frames)).astype(np.float32)
    lengths = np.array([frames, frames * 3 // 4, frames // 2 + 1], dtype=np.int64)
    return [(made, lengths), (made[:1, :, : frames // 2], lengths[2:] - 1)]


def digests(made: Any, name: str, inputs: list[tuple[np.ndarray, np.ndarray]], real: bool) -> dict[str, str]:
    """Dialect or backend → digest of the logits and lengths."""
    program, deployment = made.program, made.deployment
    target = deployment.recipe["quantization"]["target"]

    def hashed(run: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]], count: int) -> str:
        digest = hashlib.sha256()
        for features, lengths in inputs[:count]:
            logits, encoded = run(features, lengths)
            # what lies beyond a length means nothing, and is compared all the same: nothing may move
            for array in (logits, encoded):
                digest.update(np.ascontiguousarray(np.asarray(array).astype("<i8")).tobytes())
        return digest.hexdigest()[:16]

    found = {}
    with torch.inference_mode():
        backend = TorchBackend()
        found["torch"] = hashed(
            lambda x, n: tuple(
                v.numpy() for v in program.run(backend, torch.from_numpy(x), torch.from_numpy(n))
            ),
            len(inputs),
        )
    found["numpy"] = hashed(
        lambda x, n: program.run(NumpyBackend(), x, n), HEARD_BY_NUMPY if real else len(inputs)
    )
    for dialect in ("fused", "strict", "qdq"):
        try:
            data = export(program, deployment, dialect, target).to_bytes()
        except zq.ExportError as error:
            found[dialect] = f"refused: {error.problem}"
            continue
        session = open_session(name, data, 1)
        found[dialect] = hashed(
            lambda x, n, session=session: session.run(  # type: ignore[misc]  # a lambda's default has no type
                ["logits", "encoded_lengths"], {"audio_signal": x, "length": n}
            ),
            len(inputs),
        )
    return found


def recorded(folder: Path, only: str, file: Path | None = None) -> dict[str, Any]:
    """Case → its digests; written to ``file``, if given, after each network."""
    cases: dict[str, Any] = {}
    for name, kind, load in networks():
        real = name in REAL
        wanted = {f: s for f, s in formats(kind, real).items() if fnmatch.fnmatch(f"{name}, {f}", only)}
        if not wanted:
            continue
        model = load()
        path = features_of(model, name, folder)
        inputs = heard(model, real)
        for label, spec in wanted.items():
            start = time.perf_counter()
            if model.frontend.is_waveform:
                # these tiny networks hardly stride: 8 s are as many frames as others have in minutes
                spec = replace(spec, max_seconds=8.0 if spec.max_seconds > 60 else 4.0)
            case: dict[str, Any] = {"features": hashlib.sha256(path.read_bytes()).hexdigest()[:16]}
            try:
                made = zq.quantize(model, spec=spec, calibration=zq.CalibrationSpec(str(path)))
                case |= digests(made, name, inputs, real)
            except zq.ZeroqError as error:
                case["refused"] = f"{type(error).__name__}: {error.problem}"
            cases[f"{name}, {label}"] = case
            print(f"{name}, {label}: {time.perf_counter() - start:.1f} s", flush=True)
        if file is not None:
            file.write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n")
    return cases


def differences(before: dict[str, Any], after: dict[str, Any], only: str) -> list[str]:
    """What differs, a line each."""
    found = []
    for name, case in before.items():
        if not fnmatch.fnmatch(name, only):
            continue
        if name not in after:
            found.append(f"{name}: missing")
        for key in sorted({*case, *after.get(name, {})} - {"features"}):
            if case.get(key) != after.get(name, {}).get(key):
                begun = "" if case["features"] == after.get(name, {}).get("features") else " (other features)"
                found.append(f"{name}: {key}: {case.get(key)} → {after.get(name, {}).get(key)}{begun}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("file", type=Path)
    parser.add_argument(
        "--features", type=Path, default=Path("build/integers"), help="where made features lie"
    )
    parser.add_argument("--only", default="*", help="a glob of cases, such as 'embedded*' or '*, w4a8'")
    options = parser.parse_args()
    options.features.mkdir(parents=True, exist_ok=True)
    record = options.action == "record"
    found = recorded(options.features, options.only, options.file if record else None)
    if record:
        return
    different = differences(json.loads(options.file.read_text()), found, options.only)
    print("\n".join(different) or f"no integer differs in {len(found)} cases")
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
