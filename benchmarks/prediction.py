"""How well a report without recordings predicts what real speech shows.

    python benchmarks/prediction.py --checkpoint quartznet15x5.nemo --manifest train-clean-100/manifest.jsonl

Each row is a file made without data in another way.  On the left are the figures of ``zeroq-asr report`` on
held-out made features.  On the right are those of the recordings under babble: words and frames (%) that
differ from the float network's, and the KL of the frames' distributions.  The last lines are Spearman's rank
correlations between left and right.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from ranges import differences, run, with_babble

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.speech.audio import load_audio

SETTINGS: dict[str, tuple[str, str]] = {
    # name: (bits, calibration: "made", "noise" or a margin of made features)
    "W8A8": ("8", "made"),
    "W8A8, ranges × 1": ("8", "1.0"),
    "W8A8, ranges × 1.5": ("8", "1.5"),
    "W8A8, from noise": ("8", "noise"),
    "W7A8": ("w7a8", "made"),
    "W6A8": ("w6a8", "made"),
    "W8A7": ("w8a7", "made"),
    "W6A6": ("w6a6", "made"),
    "W4A8": ("w4a8", "made"),
}
TOLD, SHOWN = ("logit SQNR", "frames", "KL"), ("words", "frames", "KL")


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    model = zq.load_checkpoint(arguments.checkpoint)
    utterances = zq.read_manifest(arguments.manifest)
    spec = zq.SynthesisSpec(seed=arguments.seed)
    features = zq.synthesize(model, spec)
    held_out = zq.synthesize(model, zq.SynthesisSpec(seed=arguments.seed + 1_000_003))
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
            f"{'':20} {'SQNR':>7} {'frames':>7} {'KL':>8}   {'words':>7} {'frames':>7} {'KL':>8}", flush=True
        )
        for label, (bits, source) in SETTINGS.items():
            margin = float(source) if source[0].isdigit() else None
            where = "noise" if source == "noise" else str(folder / "made.npz")
            path = folder / "x.onnx"
            calibration = zq.CalibrationSpec(where, margin=margin)
            made = zq.quantize(
                model, path, spec=zq.QuantSpec.parse_bits(bits), synthesis=spec, calibration=calibration
            )
            told = zq.report(model, path, held_out=held_out)
            words, _, frames, kl = differences(model, truth, run(made.exported.to_bytes(), heard))
            row = [told.values[-1].sqnr, 100 * told.frames, told.divergence, words, frames, kl]
            rows.append(row)
            print(
                f"{label:20} {row[0]:7.2f} {row[1]:7.2f} {row[2]:8.4f}  "
                f" {row[3]:7.2f} {row[4]:7.2f} {row[5]:8.4f}",
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
