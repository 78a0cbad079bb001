"""Ranges of every value of a float graph, and channel means of what is convolved, from a stream of features.

``observe`` runs the graph, which takes long, and ``Observations.calibration`` chooses ranges of what it saw,
which does not: one pass serves any number of formats.

Utterances are run one by one at their exact length, so lengths may differ and no padding is seen.
What is kept of a value is a histogram of fixed size and a sum a channel: memory does not grow with the data.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.calibration.widening import with_floor, with_shortfall
from zeroq_asr.config import CalibrationSpec
from zeroq_asr.errors import CalibrationError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.graph.linear import is_linear
from zeroq_asr.progress import Progress, silent
from zeroq_asr.registry import traits_of
from zeroq_asr.threads import one_thread, side_by_side

#: smallest and largest real value
Range = tuple[float, float]
#: observers that hear utterances in turn, at most so many at a time; one with covariances, which are large
_BESIDE = 4
#: features [M, T] of one utterance, or all that a graph takes for it, inputs, then states
Utterance = Tensor | tuple[Tensor, ...]


class Histogram:
    """A streamed histogram of fixed memory.

    ``bins`` equal cells cover [−limit, limit); when a value falls outside, the limit doubles and
    cells merge in pairs, so counts stay exact at the coarser width.  Exact extremes are kept too.
    """

    def __init__(self, bins: int = 2048, name: str = "histogram", *, extremes_alone: bool = False) -> None:
        self.name = name
        #: count nothing: counting takes longer than the network itself
        self.extremes_alone = extremes_alone
        if bins < 4 or bins % 4:
            raise CalibrationError(name, f"bins must be a multiple of 4, received {bins}")
        self.counts = np.zeros(bins, dtype=np.int64)
        self.limit = 0.0
        self.min = np.inf
        self.max = -np.inf

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def edges(self) -> np.ndarray:
        """Edges of the cells, one more than there are cells."""
        return np.linspace(-self.limit, self.limit, len(self.counts) + 1)

    def add(self, values: Tensor) -> None:
        """Count the values of a float tensor of any shape; CalibrationError if one is not finite."""
        if values.numel() == 0:
            return
        lo, hi = (float(v) for v in torch.aminmax(values))
        if not (np.isfinite(lo) and np.isfinite(hi)):
            raise CalibrationError(self.name, "a value is NaN or infinite")
        self.min, self.max = min(self.min, lo), max(self.max, hi)
        if self.extremes_alone:
            return
        peak = max(-lo, hi)
        if self.limit == 0.0:
            # a power of two, so that doubling stays exact
            self.limit = float(2.0 ** np.ceil(np.log2(peak))) if peak > 0 else 2.0**-20
        while peak >= self.limit:
            self._double()
        bins = len(self.counts)
        # float64: float32 counts stop at 2^24, and it rounds small values into the wrong cell
        counts = torch.histc(values.double(), bins=bins, min=-self.limit, max=self.limit)
        self.counts += counts.numpy().astype(np.int64)

    def merge(self, other: Histogram) -> None:
        """Take in all that another histogram of as many cells has seen."""
        self.min, self.max = min(self.min, other.min), max(self.max, other.max)
        if self.extremes_alone or other.limit == 0.0:
            return
        # both limits are powers of two
        self.limit = self.limit or other.limit
        while self.limit < other.limit:
            self._double()
        while other.limit < self.limit:
            other._double()
        self.counts += other.counts

    def _double(self) -> None:
        bins = len(self.counts)
        pairs = self.counts.reshape(-1, 2).sum(axis=1)
        self.counts = np.zeros(bins, dtype=np.int64)
        self.counts[bins // 4 : bins // 4 + bins // 2] = pairs
        self.limit *= 2.0


def minmax_range(h: Histogram, spec: CalibrationSpec, levels: int) -> Range:
    """Smallest and largest value seen."""
    return h.min, h.max


def percentile_range(h: Histogram, spec: CalibrationSpec, levels: int) -> Range:
    """Leave out (100 − percentile) / 2 percent of the values at either end, to the width of a cell.

    An end at which nothing lies beyond zero (behind a ReLU) keeps all of its share for the other.
    """
    cumulative = np.cumsum(h.counts) / h.total
    share = (100.0 - spec.percentile) / 100.0
    one_sided = h.min >= 0 or h.max <= 0
    tail = share if one_sided else share / 2
    edges = h.edges
    lo = edges[np.searchsorted(cumulative, tail, side="right")] if h.min < 0 else h.min
    last = min(int(np.searchsorted(cumulative, 1 - tail, side="left")), len(h.counts) - 1)
    hi = edges[last + 1] if h.max > 0 else h.max
    return max(float(lo), h.min), min(float(hi), h.max)


def mse_range(h: Histogram, spec: CalibrationSpec, levels: int) -> Range:
    """Clip both ends so that the expected squared error of ``levels`` uniform steps is least.

    Inside the range the error of a value is that of rounding, step²/12; outside it is the squared
    distance to the end.  Each end is searched over fractions of the extreme, in turn, until both
    stay put.
    """
    centres = (h.edges[:-1] + h.edges[1:]) / 2
    weights = h.counts / h.total

    def error(lo: float, hi: float) -> float:
        step = (hi - lo) / levels
        if step <= 0:
            return float("inf")
        outside = np.clip(lo - centres, 0, None) + np.clip(centres - hi, 0, None)
        inside = weights[outside == 0].sum()
        return float((weights * outside**2).sum() + inside * step**2 / 12)

    best = (min(h.min, 0.0), max(h.max, 0.0))
    fractions = np.linspace(0.2, 1.0, 81)
    for _ in range(4):
        lo, hi = best
        hi = min((0.0 if h.max <= 0 else h.max * f for f in fractions), key=lambda v: error(lo, v))
        lo = min((0.0 if h.min >= 0 else h.min * f for f in fractions), key=lambda v: error(v, hi))
        if (lo, hi) == best:
            break
        best = (lo, hi)
    return best


#: range rules by the name that CalibrationSpec.method takes; "auto" stands for one of them
METHODS = {"minmax": minmax_range, "percentile": percentile_range, "mse": mse_range}


class ChannelMean:
    """A streamed mean over batch and time."""

    def __init__(self) -> None:
        self._sum: np.ndarray | float = 0.0
        self._frames = 0

    def add(self, values: Tensor) -> None:
        """Take in a float tensor [B, C, T] or [B, C, T, F]."""
        flat = values.flatten(2)
        self._sum = self._sum + flat.double().sum(dim=(0, 2)).numpy()
        self._frames += flat.shape[0] * flat.shape[2]

    def merge(self, other: ChannelMean) -> None:
        """Take in all that another mean has seen."""
        self._sum = self._sum + other._sum
        self._frames += other._frames

    @property
    def mean(self) -> np.ndarray:
        """Mean of every channel, float64 [C]."""
        return np.asarray(self._sum) / max(self._frames, 1)


#: inputs of a row of weights beyond which no covariance is kept: it has this many squared entries
MAX_INPUTS = 2048


class Covariance:
    """A streamed covariance of the I·K inputs of a convolution's rows."""

    def __init__(self, node: FloatNode) -> None:
        self._attrs = node.attrs
        self._sum: np.ndarray | float = 0.0
        self._products: np.ndarray | float = 0.0
        self._count = 0

    def add(self, values: Tensor) -> None:
        """Take in the convolution's input [B, I, T]; windows that reach into the padding are left out."""
        a = self._attrs
        span = (a["weight"].shape[2] - 1) * a["dilation"] + 1
        if values.shape[2] < span:
            return
        windows = values.double().unfold(2, span, a["stride"])[..., :: a["dilation"]]  # [B, I, T', K]
        rows = windows.permute(0, 2, 1, 3).flatten(2).flatten(0, 1).numpy()
        self._sum = self._sum + rows.sum(axis=0)
        self._products = self._products + rows.T @ rows
        self._count += len(rows)

    def merge(self, other: Covariance) -> None:
        """Take in all that another covariance of the same inputs has seen."""
        self._sum = self._sum + other._sum
        self._products = self._products + other._products
        self._count += other._count

    @property
    def covariance(self) -> np.ndarray | None:
        """Covariance float64 [I·K, I·K]; None where there was no window."""
        if not self._count:
            return None
        mean = np.asarray(self._sum) / self._count
        return np.asarray(self._products / self._count - np.outer(mean, mean))


@dataclass(frozen=True)
class Calibration:
    """What was observed of a float graph."""

    #: value → its smallest and largest real value, as the method chose them
    ranges: dict[str, Range]
    #: input of a convolution [B, C, T] or [B, C, T, F] → its mean a channel, float64 [C]
    means: dict[str, np.ndarray]
    #: ungrouped convolution → covariance of what a row of its weights [I, K] is multiplied with, float64
    #: [I·K, I·K]; where asked for
    covariances: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Observations:
    """What one pass over features saw of a float graph, whatever format it is for."""

    graph: FloatGraph
    #: value → its extremes, and how often it took which value, where that was counted
    histograms: dict[str, Histogram]
    #: input of a layer that holds a weight → its mean a channel
    means: dict[str, ChannelMean]
    #: ungrouped convolution → covariance of what a row of its weights is multiplied with, where asked for
    covariances: dict[str, Covariance]
    #: number of utterances
    count: int

    def learn_covariances(self, other: Observations) -> None:
        """Take in the covariances that were observed of the same graph on other features."""
        for name, covariance in other.covariances.items():
            self.covariances[name].merge(covariance)

    @property
    def has_histograms(self) -> bool:
        """Whether values were counted, so that ranges can be other than the extremes."""
        return not any(histogram.extremes_alone for histogram in self.histograms.values())

    def calibration(
        self, spec: CalibrationSpec, levels: int = 255, reached: Mapping[str, float] | None = None
    ) -> Calibration:
        """Choose ranges by ``spec.method`` and widen them by ``spec.widening``.

        ``levels``: steps of the activations, 2^bits − 1.  ``reached``: normalization layer → share of its
        stored deviation that the features have, for ``spec.shortfall``.  Raises CalibrationError where the
        method needs histograms of ``spec.bins`` cells that were not kept.
        """
        spec = spec.resolved(levels)
        chosen = {}
        for name, histogram in self.histograms.items():
            kept = 0 if histogram.extremes_alone else len(histogram.counts)
            if spec.method != "minmax" and kept != spec.bins:
                problem = f"method {spec.method} needs histograms of {spec.bins} bins, observed were {kept}"
                raise CalibrationError(name, problem, f"observe with histograms=True, bins={spec.bins}")
            chosen[name] = METHODS[spec.method](histogram, spec, levels)
        ranges = {name: (lo * spec.widening, hi * spec.widening) for name, (lo, hi) in chosen.items()}
        if spec.shortfall and reached:
            ranges = with_shortfall(ranges, self.graph, reached)
        if spec.floor:
            ranges = with_floor(ranges, self.graph, spec.floor)
        covariances = {name: one.covariance for name, one in self.covariances.items()}
        return Calibration(
            ranges,
            {name: mean.mean for name, mean in self.means.items()},
            {name: found for name, found in covariances.items() if found is not None},
        )


def given(utterance: Utterance) -> tuple[Tensor, ...]:
    """Return what a graph takes for one utterance: of features [M, T] a batch of one, and its length."""
    if isinstance(utterance, tuple):
        return utterance
    return utterance[None], torch.tensor([utterance.shape[1]])


def observe(
    graph: FloatGraph,
    features: Iterable[Utterance],
    *,
    histograms: bool = False,
    covariances: bool = False,
    bins: int = 2048,
    total: int = 0,
    progress: Progress = silent,
) -> Observations:
    """Run a graph over ``features``, once, and keep the extremes of every value and means of channels.

    ``histograms``: count values in ``bins`` cells, too, which takes longer than the network itself.
    ``covariances``: keep those of what convolutions read, for rounding by feedback.  Raises
    CalibrationError when there is no feature or one is not finite.
    """
    # utterance k goes to observer k mod n, on however many threads: sums are rounded in one order
    observers = [
        _Observer(graph, bins, histograms, covariances) for _ in range(1 if covariances else _BESIDE)
    ]
    stream, count = iter(features), 0
    progress("calibrate", 0, total)
    with one_thread():
        while batch := [*itertools.islice(stream, len(observers))]:
            operands = [given(utterance) for utterance in batch]
            for number, tensors in enumerate(operands, start=count + 1):
                if not all(torch.isfinite(tensor).all() for tensor in tensors):
                    raise CalibrationError(f"utterance {number}", "its features contain NaN or infinity")
            side_by_side(lambda pair: pair[0].hear(pair[1]), [*zip(observers, operands, strict=False)])
            for _ in batch:
                count += 1
                progress("calibrate", count, max(total, count))
    if count == 0:
        raise CalibrationError("calibration", "there are no features to calibrate on")
    first = observers[0]
    for other in observers[1:]:
        first.merge(other)
    return Observations(graph, first.seen, first.means, first.covariances, count)


class _Observer:
    """What is kept of the utterances that one of several hears."""

    def __init__(self, graph: FloatGraph, bins: int, histograms: bool, covariances: bool) -> None:
        self.graph, self.bins, self.histograms = graph, bins, histograms
        self.seen: dict[str, Histogram] = {}
        self.means = {n.ins[0]: ChannelMean() for n in graph.nodes if traits_of(n).holds_weight}
        self.covariances: dict[str, Covariance] = {}
        self.readers: dict[str, list[Covariance]] = {}
        for node in graph.nodes if covariances else ():
            if is_linear(node) and node.attrs["weight"][0].numel() <= MAX_INPUTS:
                self.covariances[node.out] = Covariance(node)
                self.readers.setdefault(node.ins[0], []).append(self.covariances[node.out])

    def hear(self, operands: tuple[Tensor, ...]) -> None:
        """Run the graph on one utterance."""
        self.graph.run(*operands, observe=self._note)

    def _note(self, name: str, value: Tensor) -> None:
        if value.is_floating_point():
            if name not in self.seen:
                self.seen[name] = Histogram(self.bins, name, extremes_alone=not self.histograms)
            self.seen[name].add(value)
            if name in self.means:
                self.means[name].add(value)
            for covariance in self.readers.get(name, ()):
                covariance.add(value)

    def merge(self, other: _Observer) -> None:
        """Take in what another one heard, but for covariances."""
        for name, histogram in other.seen.items():
            self.seen[name].merge(histogram)
        for name, mean in other.means.items():
            self.means[name].merge(mean)


def calibrate(
    graph: FloatGraph,
    features: Iterable[Utterance],
    spec: CalibrationSpec,
    *,
    levels: int = 255,
    reached: Mapping[str, float] | None = None,
    covariances: bool = False,
    total: int = 0,
    progress: Progress = silent,
) -> Calibration:
    """Observe every value over ``features``, each [M, T], and choose ranges at once.

    The arguments are those of ``observe`` and of ``Observations.calibration``.
    """
    method = spec.resolved(levels).method
    observations = observe(
        graph,
        features,
        histograms=method != "minmax",
        covariances=covariances,
        bins=spec.bins,
        total=total,
        progress=progress,
    )
    return observations.calibration(spec, levels, reached)
