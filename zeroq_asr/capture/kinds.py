"""The kinds of traced values: what the walk over an exported network knows of each.

``Real`` is an activation of the float graph, ``Lengths`` an affine function of the sequence lengths,
``TimeIndex`` 0, 1, 2 … over frames, ``Mask`` frame < length, ``TimeSum`` a masked sum over frames, ``Size``
a symbolic extent; a torch tensor is a constant, and there are plain Python values.  For attention and 2-D
convolutions ``Image``, ``Heads``, ``OfFrames``, ``Scores`` and ``Weights``; for recurrences ``TimeMajor``
and ``Zeros``; on their way to a length ``Unrounded``, to a normalization over time ``Centred`` and
``Spread``, to rotary positions ``FramewiseLinear``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Real:
    """An activation.  ``frames_first``: the traced tensor is [B, T, C] while the graph keeps [B, C, T]."""

    name: str
    frames_first: bool = False


@dataclass(frozen=True)
class TimeMajor:
    """An activation [B, C, T] of the graph, traced as [T, B, C]."""

    name: str


@dataclass(frozen=True)
class Zeros:
    """Zeros [N, B, C]: the state that a recurrence begins in."""


@dataclass(frozen=True)
class Lengths:
    """(base + before) div divisor + after, where base names a lengths value of the graph."""

    base: str
    before: int = 0
    divisor: int = 1
    after: int = 0


@dataclass(frozen=True)
class Unrounded:
    """A length that was divided and not rounded yet: its floor is ``lengths``."""

    lengths: Lengths


@dataclass(frozen=True)
class TimeIndex:
    """Frame numbers."""


@dataclass(frozen=True)
class BatchIndex:
    """Numbers of utterances."""


@dataclass(frozen=True)
class Mask:
    """Frame < length, or its negation."""

    lengths: Lengths
    negated: bool = False


@dataclass(frozen=True)
class TimeSum:
    """Sum over the valid frames of ``source``."""

    source: Real
    lengths: Lengths


@dataclass(frozen=True)
class Centred:
    """``source`` less its mean over the valid frames; ``masked``: and zero beyond them."""

    source: Real
    #: name of a lengths value
    lengths: str
    masked: bool = False


@dataclass(frozen=True)
class Spread:
    """A variance over the valid frames on its way."""

    of: Centred
    #: squares, kept (and masked), total, variance, deviation (its root) or inverse (of the root)
    step: str = "squares"
    epsilon: float = 0.0


@dataclass(frozen=True)
class Size:
    """A symbolic extent, ``batch``: of the batch."""

    batch: bool = False


@dataclass(frozen=True)
class Image:
    """An activation [B, C, T, F] of the graph.  ``frames_first``: the traced tensor is [B, T, C, F]."""

    name: str
    frames_first: bool = False


@dataclass(frozen=True)
class Heads:
    """An activation [B, H·E, T] of the graph, traced with its channels split into heads.

    ``layout``: the traced axes, of "b", "t", "h" and "e".
    """

    name: str
    heads: int
    layout: str = "bthe"
    #: E, channels of a head
    size: int = 0


@dataclass(frozen=True, eq=False)
class OfFrames:
    """A tensor that depends on nothing but the number of frames; a batch axis, if any, has size 1."""

    compute: Callable[[int], Tensor]
    #: where it is rows of another times a matrix, merely moved since: those rows [R, D] and the matrix [C, D]
    factors: tuple[OfFrames, Tensor] | None = None

    def __call__(self, frames: int) -> Tensor:
        """Compute it for ``frames`` frames."""
        return self.compute(frames)


@dataclass(frozen=True)
class Scores:
    """Scores of attention [B, H, T, T] on their way to a softmax.

    ``query`` and ``key`` [B, H·E, T] give the score of contents, ``position_query`` and ``positions`` that of
    distances, which is [B, H, T, 2T − 1] until all ``SHIFT_STEPS`` of the relative shift are done.
    """

    heads: int
    query: str = ""
    key: str = ""
    position_query: str = ""
    positions: OfFrames | None = None
    steps: int = 0
    scale: float = 1.0
    lengths: Lengths | None = None

    @property
    def whole(self) -> bool:
        """Whether these are scores of pairs of frames."""
        return self.positions is None or self.steps == SHIFT_STEPS


#: pad, view, slice, view, slice: what lines up scores of distances with pairs of frames
SHIFT_STEPS = 5


@dataclass(frozen=True)
class Weights:
    """The softmax of scores."""

    scores: Scores


@dataclass(frozen=True, eq=False)
class FramewiseLinear:
    """What is linear in the channels of an activation, with coefficients by the frame's number."""

    #: name of the activation, and its channels
    source: str
    channels: int
    #: from an activation [B, C, T] to the traced tensor, or to several of them
    run: Callable[[Tensor], Any]
    #: of the traced tensor: "batch", None where they depend on the frames
    extents: tuple[int | str | None, ...]
    #: the layer
    where: str


@dataclass(frozen=True)
class LogProbs(Real):
    """Logits whose log-softmax was taken; good for nothing but to leave the network."""
