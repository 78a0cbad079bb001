"""What a shift for every group of a row's weights would keep of them, in dB, against one step a channel.

    python benchmarks/groups.py --checkpoint quartznet15x5.nemo conformer_ctc_small.nemo

A weight is level·2^s·step with a level of 4 bits, one s for a group of inputs, and one step a channel:
level·2^s is an int8, so that kernels need nothing further, and a file the bits of s.  Columns: the evenly
spaced and the logistic grid, one step a channel; the first, −7 … 7, with s of 0 to 3 for groups of 8, 16 and
32; the second, which leaves room for no more (if 64 becomes 63), with s of 0 or 1; and what no integer
program here can hold, a step of its own, of 16 bits, for every group of 32.  Layers and the measure are those
of ``benchmarks/grids.py``, rounding is to nearest, with the step that loses least in square; of a layer at
most ``--rows`` rows are looked at.  The first row is of weights drawn from a logistic density, the second of
such whose inputs differ in scale by a factor of up to 8.  Below are bits a weight.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from grids import SMALLEST

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.integer.grid import GRIDS, Grid
from zeroq_asr.registry import traits_of

#: fractions of the step without clipping that are tried
_SHRINK = np.linspace(0.3, 1.0, 57)
_INT4, _LOGISTIC4 = GRIDS["int4"], GRIDS["logistic4"]


def nearest(rows: np.ndarray, step: np.ndarray, grid: Grid) -> np.ndarray:
    """Return rows [..., N] at steps [...], rounded to the nearest level."""
    return grid.nearest(rows / step[..., None]) * step[..., None]


def one_step(rows: np.ndarray, grid: Grid) -> np.ndarray:
    """Return rows [..., N] rounded, each with the step that loses least in square."""
    whole = np.abs(rows).max(axis=-1) / grid.limit + 1e-30
    best, least = np.zeros_like(rows), np.full(rows.shape[:-1], np.inf)
    for fraction in _SHRINK:
        found = nearest(rows, whole * fraction, grid)
        lost = ((rows - found) ** 2).sum(axis=-1)
        better = lost < least
        best[better], least[better] = found[better], lost[better]
    return best


def shifted(rows: np.ndarray, size: int, grid: Grid, shifts: int) -> np.ndarray:
    """Return rows [O, N] rounded, with one of ``shifts`` for every ``size`` weights and one step a row."""
    count = -(-rows.shape[1] // size)
    padded = np.pad(rows, ((0, 0), (0, count * size - rows.shape[1]))).reshape(len(rows), count, size)
    whole = np.abs(rows).max(axis=1) / (grid.limit << (shifts - 1)) + 1e-30
    best, least = np.zeros_like(padded), np.full(len(rows), np.inf)
    # from steps at which the widest group is clipped with the largest shift to those that leave it no shift
    for fraction in np.geomspace(0.3, 2.0 ** (shifts - 1), 60):
        found, lost = np.zeros_like(padded), np.full((len(rows), count), np.inf)
        for shift in range(shifts):
            step = np.broadcast_to((whole * fraction * 2**shift)[:, None], (len(rows), count))
            tried = nearest(padded, step, grid)
            squares = ((padded - tried) ** 2).sum(axis=-1)
            better = squares < lost
            found[better], lost[better] = tried[better], squares[better]
        total = lost.sum(axis=1)
        better = total < least
        best[better], least[better] = found[better], total[better]
    return best.reshape(len(rows), -1)[:, : rows.shape[1]]


def of_groups(rows: np.ndarray, size: int, grid: Grid) -> np.ndarray:
    """Return rows [O, N] rounded, with a step of its own for every ``size`` weights."""
    count = -(-rows.shape[1] // size)
    padded = np.pad(rows, ((0, 0), (0, count * size - rows.shape[1]))).reshape(len(rows), count, size)
    return one_step(padded, grid).reshape(len(rows), -1)[:, : rows.shape[1]]


WAYS: dict[str, tuple[float, Callable[[np.ndarray], np.ndarray]]] = {
    "int4": (4.0, partial(one_step, grid=_INT4)),
    "logistic4": (4.0, partial(one_step, grid=_LOGISTIC4)),
    "int4, 8": (4 + 2 / 8, partial(shifted, size=8, grid=_INT4, shifts=4)),
    "int4, 16": (4 + 2 / 16, partial(shifted, size=16, grid=_INT4, shifts=4)),
    "int4, 32": (4 + 2 / 32, partial(shifted, size=32, grid=_INT4, shifts=4)),
    "logistic, 8": (4 + 1 / 8, partial(shifted, size=8, grid=_LOGISTIC4, shifts=2)),
    "logistic, 16": (4 + 1 / 16, partial(shifted, size=16, grid=_LOGISTIC4, shifts=2)),
    "step of 32": (4 + 16 / 32, partial(of_groups, size=32, grid=_INT4)),
}


def kept(rows: np.ndarray, rounded: np.ndarray) -> float:
    """Signal to noise, dB."""
    return float(10 * np.log10((rows**2).sum() / ((rows - rounded) ** 2).sum()))


def weights_of(path: str, most: int) -> tuple[str, list[np.ndarray]]:
    """Return a network's name and ``most`` rows of the weights [O, N] of its layers of few bits."""
    model = zq.load_checkpoint(path)
    graph = prepared_graph(capture(model.network, model.example_input(), model.name))
    held = [node.attrs for node in graph.nodes if traits_of(node).holds_weight]
    return model.name, [
        np.asarray(a["weight"], dtype=np.float64).reshape(len(a["weight"]), -1)[
            :: -(-len(a["weight"]) // most)
        ]
        for a in held
        if a["groups"] == 1 and a["weight"].numel() >= SMALLEST
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--checkpoint", nargs="*", default=[str(zq.embedded_files().model)])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    drawn = rng.logistic(size=(64, 256))
    uneven = rng.logistic(size=(64, 256)) * 2.0 ** rng.uniform(0, 3, size=256)
    rows = [("drawn", [drawn]), ("drawn, inputs of other scales", [uneven])]
    rows += [weights_of(path, arguments.rows) for path in arguments.checkpoint]
    print(f"{'':32} " + " ".join(f"{way:>12}" for way in WAYS), flush=True)
    for name, weights in rows:
        means = [np.mean([kept(one, round_(one)) for one in weights]) for _, round_ in WAYS.values()]
        print(f"{name:32} " + " ".join(f"{mean:12.2f}" for mean in means), flush=True)
    print(f"{'bits a weight':32} " + " ".join(f"{bits:12.4g}" for bits, _ in WAYS.values()))


if __name__ == "__main__":
    main()
