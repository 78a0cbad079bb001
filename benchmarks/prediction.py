"""How well a report without recordings predicts what real speech shows.

    python benchmarks/prediction.py --checkpoint quartznet15x5.nemo --manifest train-clean-100/manifest.jsonl

Each row is a file made without data in another way.  On the left are the figures of ``zeroq-asr report`` on
held-out made features, and the shares that its confidence comes from: what the file's ranges and the held-out
features miss of made speech.  On the right are those of the recordings under babble: words and frames (%)
that differ from the float network's, and the KL of the frames' distributions.  The last lines are Spearman's
rank correlations between left and right.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from ranges import differences, run, with_babble

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.config.calibration import AUTO
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.speech.audio import load_audio
from zeroq_asr.synthesis.sources import make_features

SETTINGS: dict[str, tuple[str, str]] = {
    # name: (bits, calibration: a source, or a margin of the default's)
    "W8A8": ("8", "auto"),
    "W8A8, from matched features": ("8", "synthetic"),
    "W8A8, from made speech": ("8", "speech"),
    "W8A8, ranges × 1": ("8", "1.0"),
    "W8A8, ranges × 1.5": ("8", "1.5"),
    "W8A8, from noise": ("8", "noise"),
    "W7A8": ("w7a8", "auto"),
    "W6A8": ("w6a8", "auto"),
    "W8A7": ("w8a7", "auto"),
    "W6A6": ("w6a6", "auto"),
    "W4A8": ("w4a8", "auto"),
}
TOLD, SHOWN = ("logit SQNR", "frames", "KL"), ("words", "frames", "KL")


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--loader", help="MODULE:FUNCTION, for a checkpoint that needs one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    arguments = parser.parse_args()

    if arguments.loader:
        sys.path.insert(0, str(Path(arguments.checkpoint).resolve().parent))
    model = zq.load_checkpoint(arguments.checkpoint, loader=arguments.loader)
    utterances = zq.read_manifest(arguments.manifest)
    spec = zq.SynthesisSpec(seed=arguments.seed)
    features = make_features(model, spec)
    frontend = zq.Frontend(model.frontend)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        features.save(folder / "made.npz")
        waveforms = [load_audio(u.audio_path, model.frontend.sample_rate) for u in utterances]
        heard = [frontend.batch([w]) for w in with_babble(waveforms)]
        graph = capture(model.network, model.example_input(), model.name)
        around = Deployment(model.name, model.frontend, model.tokenizer, 60.0, model.subsampling_factor)
        truth = run(export_float(graph, around).SerializeToString(), heard)
        print(
            f"{'':28} {'SQNR':>7} {'frames':>7} {'KL':>8} {'ranges':>7} {'features':>8}   "
            f"{'words':>7} {'frames':>7} {'KL':>8}",
            flush=True,
        )
        for label in arguments.only:
            bits, source = SETTINGS[label]
            margin = float(source) if source[0].isdigit() else None
            where = str(folder / "made.npz") if margin or source == AUTO else source
            path = folder / "x.onnx"
            calibration = zq.CalibrationSpec(where, margin=margin)
            made = zq.quantize(
                model, path, spec=zq.QuantSpec.parse_bits(bits), synthesis=spec, calibration=calibration
            )
            told = zq.report(model, path, spec)
            words, _, frames, kl = differences(model, truth, run(made.exported.to_bytes(), heard))
            row = [told.values[-1].sqnr, 100 * told.frames, told.divergence, words, frames, kl]
            rows.append(row)
            print(
                f"{label:28} {row[0]:7.2f} {row[1]:7.2f} {row[2]:8.4f} "
                f"{told.ranges_miss:7.3f} {told.features_miss:8.3f}   "
                f"{row[3]:7.2f} {row[4]:7.2f} {row[5]:8.4f}   {'blind' if told.blind else ''}",
                flush=True,
            )
    columns = [ranks(list(column)) for column in zip(*rows, strict=True)]
    for k, name in enumerate(TOLD):
        found_ranks = [float(np.corrcoef(columns[k], columns[3 + j])[0, 1]) for j in range(3)]
        print(
            f"rank correlation of {name}: ",
            ", ".join(f"{s} {r:+.2f}" for s, r in zip(SHOWN, found_ranks, strict=True)),
        )


if __name__ == "__main__":
    main()
