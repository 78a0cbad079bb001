"""What each switch of data-free calibration does, on speech without text: agreement with the float network.

    python benchmarks/levers.py --checkpoint quartznet15x5.nemo --manifest train-clean-100/manifest.jsonl

Each row changes the default in one thing; that of recordings needs ``--recordings``.  Words, frames and KL
are measured as in ``ranges.py``, on recordings under babble.  SQNR is that of the frames' log-probabilities
over the clean recordings, in dB; of the four figures it is the least noisy.  All are means over the seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ranges import Features, Frames, differences, run, with_babble

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.speech.frontend import Frontend

#: stands for what --recordings names
RECORDINGS = "recordings"
#: what --set would take, a row each
LEVERS: dict[str, dict[str, Any]] = {
    "default": {},
    "objective kl": {"objective": "kl"},
    "objective jeffreys": {"objective": "jeffreys"},
    "objective moments": {"objective": "moments"},
    "start normal": {"init": "normal"},
    "start heavy-tailed": {"init": "student"},
    "start speech-shaped": {"init": "speech"},
    "start made speech": {"init": "voice"},
    "made speech alone": {"source": "speech"},
    "matched features and made speech": {"source": "both"},
    "matched from made speech, and made speech": {"source": "both", "init": "voice"},
    "matched features alone": {"source": "synthetic"},
    "noise": {"source": "noise"},
    "recordings": {"source": RECORDINGS, "limit": 16},
    "standardized per mel": {"standardize": True},
    "slack 0.1": {"slack": 0.1},
    "emphasis 0.1": {"emphasis": 0.1},
    "batch 16": {"batch": 16},
    "60 steps, Adam's own means": {"iterations": 60, "learning_rate": 0.1, "beta1": 0.9, "beta2": 0.999},
    "Adam's own means": {"beta1": 0.9, "beta2": 0.999},
    "20 steps, short means": {"iterations": 20, "learning_rate": 0.3, "beta1": 0.2, "beta2": 0.5},
    "20 steps by signs": {"iterations": 20, "learning_rate": 0.3, "beta1": 0.0, "beta2": 0.0},
    "batch 8, 40 steps": {"batch": 8, "iterations": 40, "learning_rate": 0.1, "beta1": 0.9, "beta2": 0.999},
    "margin 1": {"margin": 1.0},
    "margin 1, widened by the shortfall": {"margin": 1.0, "shortfall": True},
    "floor of 4 deviations": {"floor": 4.0},
    "floor of 6 deviations": {"floor": 6.0},
    "floor of 10 deviations": {"floor": 10.0},
    "percentile 99.999": {"method": "percentile", "percentile": 99.999, "margin": 1.0},
    "least squared error": {"method": "mse", "margin": 1.0},
    "equalization 0.25": {"equalization": 0.25},
    "smoothing 0.5": {"smoothing": 0.5},
    "norms as priors 0.1": {"norm_prior": 0.1},
    "attention locality 0.1": {"locality": 0.1},
    "attention locality 1": {"locality": 1.0},
    "non-blank 1": {"nonblank": 1.0},
    "confidence 1": {"confidence": 1.0},
    "non-blank 1, confidence 1": {"nonblank": 1.0, "confidence": 1.0},
    "locality 0.1, non-blank 1, confidence 1": {"locality": 0.1, "nonblank": 1.0, "confidence": 1.0},
    "no steps": {"iterations": 0},
    "no steps, start speech-shaped": {"iterations": 0, "init": "speech"},
    "rounding by feedback": {"rounding": "feedback"},
    "rounding to nearest": {"rounding": "nearest"},
    "no bias correction": {"bias_correction": False},
    "ranges beyond flat ends": {"flat_ends": False},
    "polynomial nonlinearities": {"nonlinearity": "polynomial"},
}
#: log-probabilities below this say nothing
FLOOR = -25.0


def changed(spec: Any, fields: dict[str, Any]) -> Any:
    known = {field.name for field in dataclasses.fields(spec)}
    return dataclasses.replace(spec, **{k: v for k, v in fields.items() if k in known})


def sqnr(reference: Frames, found: Frames) -> float:
    wanted, got = (np.maximum(np.concatenate(frames).astype(float), FLOOR) for frames in (reference, found))
    signal = ((wanted - wanted.mean(axis=0)) ** 2).sum()
    return float(10 * np.log10(signal / ((wanted - got) ** 2).sum()))


def row(
    model: zq.AsrModel,
    graph: FloatGraph,
    fields: dict[str, Any],
    seed: int,
    inputs: tuple[Features, Features],
    references: tuple[Frames, Frames],
) -> list[float]:
    """Words and frames that differ (%), KL under babble, SQNR on the clean recordings."""
    prepared = zq.prepare(
        model,
        spec=changed(zq.QuantSpec(), fields),
        synthesis=changed(zq.SynthesisSpec(seed=seed), fields),
        calibration=changed(zq.CalibrationSpec(), fields),
        graph=graph,
    )
    made = zq.quantize(prepared)
    clean, noisy = (run(made.exported.to_bytes(), features) for features in inputs)
    words, _, frames, kl = differences(model, references[1], noisy)
    return [words, frames, kl, sqnr(references[0], clean)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--loader", help="MODULE:FUNCTION beside the checkpoint, which it needs")
    parser.add_argument("--recordings", help="a manifest to calibrate on, for the row 'recordings'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--bits", default="8")
    parser.add_argument("--only", nargs="+", default=list(LEVERS), choices=list(LEVERS))
    parser.add_argument("--set", type=json.loads, default={}, help="fields for every row, a JSON object")
    arguments = parser.parse_args()

    bits = zq.QuantSpec.parse_bits(arguments.bits)
    everywhere = {
        "weight_bits": bits.weight_bits,
        "activation_bits": bits.activation_bits,
        **arguments.set,
    }
    if arguments.loader:
        sys.path.insert(0, str(Path(arguments.checkpoint).resolve().parent))
    model = zq.load_checkpoint(arguments.checkpoint, loader=arguments.loader)
    graph = capture(model.network, model.example_input(), model.name)
    deployment = Deployment(model.name, model.frontend, model.tokenizer, 60.0, model.subsampling_factor)
    frontend, rate = Frontend(model.frontend), model.frontend.sample_rate
    waveforms = [load_audio(u.audio_path, rate) for u in zq.read_manifest(arguments.manifest)]
    clean = [frontend.batch([w]) for w in waveforms]
    noisy = [frontend.batch([w]) for w in with_babble(waveforms)]
    exact = export_float(graph, deployment).SerializeToString()
    references = (run(exact, clean), run(exact, noisy))
    print(f"{'':40} {'words':>7} {'frames':>7} {'KL':>8} {'SQNR':>7}", flush=True)
    for name in arguments.only:
        fields = {**everywhere, **LEVERS[name]}
        if fields.get("source") == RECORDINGS:
            if arguments.recordings is None:
                continue
            fields["source"] = arguments.recordings
        found = [row(model, graph, fields, seed, (clean, noisy), references) for seed in arguments.seeds]
        words, frames, kl, ratio = np.mean(found, axis=0)
        print(f"{name:40} {words:7.2f} {frames:7.2f} {kl:8.4f} {ratio:7.2f}", flush=True)


if __name__ == "__main__":
    main()
