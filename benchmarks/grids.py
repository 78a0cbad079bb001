"""What grids of few bits keep of a network's weights, in dB, rounded to nearest with the best step a channel.

    python benchmarks/grids.py --checkpoint quartznet15x5.nemo conformer_ctc_small.nemo

Each figure is the mean over the layers that are rounded at few bits, ungrouped convolutions and linear layers
of at least ``SMALLEST`` weights, of 10 log10 Σ w² / Σ (w − ŵ)².
"""

from __future__ import annotations

import argparse

import numpy as np

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.integer.grid import GRIDS
from zeroq_asr.operators.convolution.weights import quantize_weight
from zeroq_asr.registry import traits_of

SMALLEST = 5000
COARSE = ("int4", "full4", "logistic4", "int3", "full3", "int2", "ternary", "midrise2", "logistic2", "binary")
#: so fine that a multiplier's rounding does not count
_UNIT = 1e-7


def kept(rows: np.ndarray, grid: str) -> float:
    """Signal to noise of weights [O, N] on a grid, dB."""
    integers, multipliers = quantize_weight(rows, _UNIT, GRIDS[grid])
    lost = rows - integers * (multipliers * _UNIT)[:, None]
    return float(10 * np.log10((rows**2).sum() / (lost**2).sum()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", nargs="+", required=True)
    arguments = parser.parse_args()

    print(f"{'':24} " + " ".join(f"{grid:>9}" for grid in COARSE))
    for path in arguments.checkpoint:
        model = zq.load_checkpoint(path)
        graph = prepared_graph(capture(model.network, model.example_input(), model.name))
        held = [node.attrs for node in graph.nodes if traits_of(node).holds_weight]
        weights = [
            np.asarray(a["weight"], dtype=np.float64).reshape(len(a["weight"]), -1)
            for a in held
            if a["groups"] == 1 and a["weight"].numel() >= SMALLEST
        ]
        means = [np.mean([kept(rows, grid) for rows in weights]) for grid in COARSE]
        print(f"{model.name:24} " + " ".join(f"{mean:9.2f}" for mean in means), flush=True)


if __name__ == "__main__":
    main()
