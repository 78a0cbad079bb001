"""Whether the warning of ranges that fall short of made speech comes where it should, and nowhere else.

    python benchmarks/blind.py --checkpoint quartznet15x5.nemo conformer_ctc_small.nemo --seeds 0 1 2
    python benchmarks/blind.py --checkpoint hama_conformer_ipa.pt --loader hama_loader:load --seeds 0 1 2

Each row is a network, a seed and a source of ranges: the median shortfall of its values against what
``quantize`` takes as made speech (``zeroq_asr.calibration.shortfall``), and what comes of it: nothing, a
warning, or, where the source was left to choose (``auto``), made speech beside matched features.  Made speech
itself, alone or beside matched features, is not compared with.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

import zeroq_asr as zq
from zeroq_asr.calibration.shortfall import BLIND, median_shortfall
from zeroq_asr.errors import ZeroqWarning
from zeroq_asr.pipeline import prepare

SOURCES = ("auto", "speech", "synthetic", "both", "noise")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", nargs="+", required=True)
    parser.add_argument("--loader", help="MODULE:FUNCTION beside the checkpoint, for every one of them")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=("auto", "noise"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()

    print(f"{'':32} {'seed':>4} {'source':>10} {'shortfall':>9}   beyond {BLIND}: warned", flush=True)
    for given in arguments.checkpoint:
        path = Path(given).resolve()
        if arguments.loader:
            sys.path.insert(0, str(path.parent))
        model = zq.load_checkpoint(path, loader=arguments.loader)
        for seed in arguments.seeds:
            for source in arguments.sources:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always")
                    made = prepare(
                        model,
                        synthesis=zq.SynthesisSpec(seed=seed),
                        calibration=zq.CalibrationSpec(source),
                    )
                warned = any(
                    issubclass(one.category, ZeroqWarning)
                    and "of what speech would reach" in str(one.message)
                    for one in told
                )
                median = made.joined_for if made.shortfalls == () else median_shortfall(made.shortfalls)
                share = f"{'-':>9}" if median is None else f"{median:9.3f}"
                outcome = "joined" if made.joined_for is not None else "warned" if warned else "silent"
                print(f"{path.stem:32} {seed:4} {source:>10} {share}   {outcome}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
