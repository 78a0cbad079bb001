"""Corrections of ranges for the tails that made features lack, from the checkpoint alone.

Statistic matching fixes means and variances; a range needs extremes.  Two rules, each a switch of
``CalibrationSpec`` that leaves a range as it is or makes it wider:

- ``shortfall``: where the features reached only a part of a layer's stored deviation, what that layer
  normalizes, and what is computed from it up to the next normalization, is widened by as much.
- ``floor``: a normalization maps what training saw to mean β and deviation |γ| a channel, so a range
  reaches at least from the smallest β − k|γ| to the largest β + k|γ| (as DFQ does for weights only
  networks: Nagel et al., arXiv 1906.04721, section 4.3).
"""

from __future__ import annotations

from collections.abc import Mapping

from zeroq_asr.graph.float_graph import FloatGraph

Range = tuple[float, float]


def with_floor(ranges: Mapping[str, Range], graph: FloatGraph, k: float) -> dict[str, Range]:
    """Return ``ranges`` with those of normalized values reaching at least to β ± k|γ|."""
    wider = dict(ranges)
    for node in graph.nodes:
        if node.promise is None or node.out not in wider:
            continue
        mean, deviation = node.promise.mean, node.promise.deviation
        low, high = float((mean - k * deviation).min()), float((mean + k * deviation).max())
        clamp_low, clamp_high = node.attrs.get("clamp") or (None, None)
        if clamp_low is not None:
            low, high = max(low, clamp_low), max(high, clamp_low)
        if clamp_high is not None:
            low, high = min(low, clamp_high), min(high, clamp_high)
        known = wider[node.out]
        wider[node.out] = (min(known[0], low), max(known[1], high))
    return wider


def with_shortfall(
    ranges: Mapping[str, Range], graph: FloatGraph, reached: Mapping[str, float]
) -> dict[str, Range]:
    """Return ``ranges`` divided by how much of the stored deviation was ``reached``, where below 1.

    ``reached`` maps a normalization layer to the channel median of the features' deviation over the
    stored one (``LayerAccount.std_ratio``).  A value without a normalization of its own takes the
    smallest share of those it is computed from.
    """
    share = {graph.inputs[0]: 1.0}
    for node in graph.nodes:
        if node.promise is not None and node.promise.layer in reached:
            share[node.out] = min(1.0, max(reached[node.promise.layer], 0.01))
        else:
            share[node.out] = min((share[name] for name in node.ins if name in share), default=1.0)
    return {name: (lo / share.get(name, 1.0), hi / share.get(name, 1.0)) for name, (lo, hi) in ranges.items()}
