"""What the search for the steps of weights costs, and what it finds, beside one that tries them all.

    python benchmarks/rounding.py --checkpoint conformer_ctc_small.nemo --grids int8 logistic4 logistic2

For every grid: the share of the processor time of a search over a fine row of steps, each of 29 fractions of
the largest rounded down and up (36 where neighbours are bound, as for ``x86-any``), that
``quantize_weight`` takes; and by how much the cost of its channels differs (the natural logarithm of the
ratio: less than 0 is better), on average and at the ends.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import zeroq_asr as zq
from zeroq_asr.integer.grid import Grid, grid_of
from zeroq_asr.integer.pair_saturation import bounded, most
from zeroq_asr.integer.types import U8
from zeroq_asr.operators.convolution.weights import quantize_weight

#: the largest multiplier of a layer, as a file of 8 bits would have it
MULTIPLIER = 3000


def cost(w: np.ndarray, integers: np.ndarray, step: np.ndarray) -> np.ndarray:
    """tan² of the angle between weights and integers, and the square of what their gain is off 1, [O]."""
    inner, energy = (integers * w).sum(axis=1), (w**2).sum(axis=1)
    squares = (integers.astype(np.float64) ** 2).sum(axis=1)
    safe = np.where(inner > 0, inner, 1.0)
    found = energy * squares / safe**2 - 1.0 + (step * safe / energy - 1.0) ** 2
    return np.where(inner > 0, found, np.inf)


def least(w: np.ndarray, ratio: float, grid: Grid, together: int | None) -> np.ndarray:
    """The least cost of a row of steps, each tried on all channels."""
    fractions = np.linspace(0.3, 1.0, 29) if together is None else np.linspace(0.6, 2.0, 36)
    ideal = np.abs(w).max(axis=1) / (grid.limit * ratio)
    best = np.full(len(w), np.inf)
    for fraction in fractions:
        for m in (np.floor(ideal * fraction), np.ceil(ideal * fraction)):
            integers = grid.nearest(w / (np.maximum(m, 1.0) * ratio)[:, None])
            if together is not None:
                integers = bounded(integers, together)
            inner = np.maximum((integers * w).sum(axis=1), 1e-30)
            gained = np.maximum(np.rint((w**2).sum(axis=1) / (inner * ratio)), 1.0)
            best = np.minimum(best, cost(w, integers, gained * ratio))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--grids", nargs="+", default=["int8", "logistic4", "int4", "logistic2", "ternary"])
    parser.add_argument("--channels", type=int, default=64, help="of every layer at most")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = zq.load_checkpoint(arguments.checkpoint)
    layers = [
        parameter.detach().numpy().reshape(len(parameter), -1)[: arguments.channels].astype(np.float64)
        for parameter in model.network.parameters()
        if parameter.dim() > 1
    ]
    layers = [w[np.abs(w).max(axis=1) > 0] for w in layers if w.shape[1] > 3]
    print(f"{'':20} {'time':>6} {'mean':>8} {'1 %':>8} {'99 %':>8} {'worst':>8}", flush=True)
    for name in arguments.grids:
        grid = grid_of(name)
        for together in (None, most(U8.hi)) if name == "int8" else (None,):
            spent, ratios = [0.0, 0.0], []
            for w in layers:
                ratio = float(np.abs(w).max()) / (grid.limit * MULTIPLIER)
                start = time.process_time()
                wanted = least(w, ratio, grid, together)
                middle = time.process_time()
                integers, m = quantize_weight(w, ratio, grid, together)
                spent[0] += middle - start
                spent[1] += time.process_time() - middle
                found = cost(w, integers, m * ratio)
                if 0 in grid.levels:  # then there may be no integer at all
                    found, wanted = np.minimum(found, 1.0), np.minimum(wanted, 1.0)
                ratios.append(np.log(found / wanted))
            every = np.concatenate(ratios)
            low, high = np.percentile(every, (1, 99))
            label = name if together is None else f"{name}, neighbours"
            figures = f"{spent[1] / spent[0]:6.2f} {every.mean():8.4f}"
            print(f"{label:20} {figures} {low:8.3f} {high:8.3f} {every.max():8.3f}", flush=True)


if __name__ == "__main__":
    main()
