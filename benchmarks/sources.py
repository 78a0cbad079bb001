"""How near a file comes to its float network by where its ranges come from, on recordings of both conditions.

    python benchmarks/sources.py --checkpoint quartznet15x5.nemo --manifest test-other/manifest.jsonl \
        --calibration-manifest train-clean-100/manifest.jsonl

Rows are sources of ranges; those that are made have a row a seed and one of the seeds' mean.  Columns: the
word error rate (%) where there is text, the words and characters (%) that differ from the float network's own
transcript, and the seconds that quantizing took.  ``--moved`` moves the normalization of the features into
the first convolution, (x + 9) / 3.5 in place of the frontend's: the same statistics are stored, but the
features are not normalized.
"""

from __future__ import annotations

import dataclasses
import time
import warnings

import numpy as np
import torch
from hearing import Hearing, load, parser
from torch import nn

import zeroq_asr as zq

#: name: the fields of what is calibrated on and of what is synthesized
SOURCES: dict[str, tuple[str, dict[str, object]]] = {
    "default": ("auto", {}),
    "made speech": ("speech", {}),
    "matched": ("synthetic", {}),
    "matched from made speech": ("synthetic", {"init": "voice"}),
    "both": ("both", {}),
    "both, matched from made speech": ("both", {"init": "voice"}),
    "noise": ("noise", {}),
}
REAL = 16


def moved(model: zq.AsrModel) -> zq.AsrModel:
    """Move (x + 9) / 3.5 into the first convolution of ``model``, whose frontend then normalizes nothing."""
    first = next(m for m in model.network.modules() if isinstance(m, nn.Conv1d | nn.Conv2d))
    with torch.no_grad():
        if first.bias is None:
            first.bias = nn.Parameter(torch.zeros(first.out_channels))
        first.bias += 9 / 3.5 * first.weight.flatten(1).sum(1)
        first.weight /= 3.5
    return dataclasses.replace(model, frontend=dataclasses.replace(model.frontend, normalize=None))


def main() -> None:
    options = parser(__doc__, embedded=False)
    options.add_argument("--calibration-manifest", help=f"for a row of its first {REAL} recordings")
    options.add_argument("--sources", nargs="+", choices=list(SOURCES), default=list(SOURCES))
    options.add_argument("--bits", default="8")
    options.add_argument("--moved", action="store_true", help="move the normalization into the network")
    arguments = options.parse_args()

    model = load(arguments.checkpoint, arguments.loader)
    model = moved(model) if arguments.moved else model
    spec = zq.QuantSpec.parse_bits(arguments.bits)
    hearing = Hearing(model, arguments.manifest, arguments.limit)

    def row(label: str, rates: list[float], seconds: float = 0.0) -> list[float]:
        return show(label, [*rates, seconds])

    def show(label: str, values: list[float]) -> list[float]:
        print(f"{label:40} " + " ".join(f"{v:7.2f}" for v in values[:3]) + f" {values[3]:6.0f}", flush=True)
        return values

    def made(source: str, fields: dict[str, object], seed: int) -> tuple[list[float], float]:
        start = time.perf_counter()
        limit = REAL if source not in {kind for kind, _ in SOURCES.values()} else None
        result = zq.quantize(
            model,
            spec=spec,
            synthesis=zq.SynthesisSpec(seed=seed, **fields),  # type: ignore[arg-type]  # any field of it
            calibration=zq.CalibrationSpec(source, limit=limit),
        )
        seconds = time.perf_counter() - start
        return hearing.rates(result.exported.to_bytes()), seconds

    print(f"{'':40} {'WER':>7} {'words':>7} {'chars':>7} {'s':>6}", flush=True)
    row("float", hearing.float_rates())
    if arguments.calibration_manifest:
        row(f"{REAL} recordings", *made(arguments.calibration_manifest, {}, 0))
    for name in arguments.sources:
        rows = [row(f"{name}, seed {seed}", *made(*SOURCES[name], seed)) for seed in arguments.seeds]
        show(name, list(np.mean(rows, axis=0)))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
