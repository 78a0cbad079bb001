"""The cost of weights of which no two neighbours saturate an int16, in bits, against 8 and 7 bits for all.

    python benchmarks/neighbours.py --checkpoint quartznet15x5.nemo conformer_ctc_small.nemo

The error of a layer is that of its rounded weights, relative to the weights themselves, at the steps that are
chosen.  Bits are log2 of the ratio of this error to that of 8-bit weights at full range, means over the
layers that the bound concerns.  ``pairs`` is the share of neighbours of 8-bit weights at full range that
exceed the bound.
"""

from __future__ import annotations

import argparse

import numpy as np

import zeroq_asr as zq
from zeroq_asr.capture.capture import capture
from zeroq_asr.integer.grid import symmetric
from zeroq_asr.integer.pair_saturation import excess, in_order, most
from zeroq_asr.integer.types import U8, weight_limit
from zeroq_asr.operators.convolution.weights import quantize_weight

#: multipliers fine enough not to matter
_STEPS = 4096


def rounded(rows: np.ndarray, bits: int, together: int | None = None) -> tuple[np.ndarray, float]:
    """Integers, and the error that they have, relative to the weights."""
    unit = float(np.abs(rows).max()) / (weight_limit(bits) * _STEPS)
    integers, multiplier = quantize_weight(rows, unit, symmetric(bits), together)
    error = integers * (multiplier * unit)[:, None] - rows
    return integers.astype(np.int64), float(np.linalg.norm(error) / np.linalg.norm(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True, nargs="+")
    bound = most(U8.hi)
    print(f"{'':24} {'layers':>7} {'pairs %':>8} {'bounded':>8} {'7 bits':>8}")
    for path in parser.parse_args().checkpoint:
        model = zq.load_checkpoint(path)
        graph = capture(model.network, model.example_input(), model.name)
        lost, beyond = [], []
        for node in graph.nodes:
            weight = node.attrs.get("weight")
            if node.op not in ("conv1d", "conv2d") or (
                weight.shape[1] == 1 and len(weight) > 1 < node.attrs["groups"]
            ):
                continue
            rows = in_order(weight.double().numpy())
            whole, error = rounded(rows, 8)
            beyond.append((excess(whole, bound) > 0).mean())
            lost.append([np.log2(found / error) for _, found in (rounded(rows, 8, bound), rounded(rows, 7))])
        bits = np.mean(lost, axis=0)
        print(f"{model.name:24} {len(lost):7} {100 * np.mean(beyond):8.2f} {-bits[0]:8.2f} {-bits[1]:8.2f}")


if __name__ == "__main__":
    main()
