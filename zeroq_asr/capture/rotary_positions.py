"""Rotary positions, recognised by what they compute (Su et al., arXiv 2104.09864, section 3.2).

Halves or pairs of channels are sliced, negated, joined, stacked and multiplied by cosines and sines of the
frame's number, in as many spellings as there are libraries.  All of them are linear in the channels of one
activation, frame by frame.  So such operators are collected unread, and when anything else reads the outcome,
unit vectors are sent through what was collected.  Every channel c then turns out to be

    y[c] = a[c]·x[first[c]] + b[c]·x[second[c]],    a and b functions of the frame's number,

which is a move of channels where a is constant and b zero, else a ``rotate`` node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zeroq_asr.capture.aten import canonical
from zeroq_asr.capture.dispatch import handles, supported
from zeroq_asr.capture.tracer import FramewiseLinear, Heads, LogProbs, OfFrames, Real, Size, TimeIndex, Tracer
from zeroq_asr.errors import UnsupportedOperatorError

#: frames that are tried, and how far rounding may take what is equal
_TRIED, _CLOSE = 6, 1e-4
#: operators, by their canonical names, of nothing but the activation
_SUMS, _JOINS = ("add", "sub"), ("cat", "stack", "neg")
#: those that keep it as it is
_KEEPS = ("identity", "cast")
#: those whose result has the shape that the trace says
_SHAPES = ("reshape", "expand", "unflatten")
_MOVES = (
    *("slice", "narrow", "select", "chunk", "split", "split_with_sizes", "unbind", "getitem", "index_select"),
    *("flatten", "transpose", "permute", "movedim", "swapaxes", "unsqueeze", "squeeze", "flip", "roll"),
    *("view_as_complex", "view_as_real"),
)
#: what is asked of a tensor, not computed from it
_ASKS = ("size", "assertion")


# -- frame numbers and tables ----------------------------------------------------------------------------


def of_time_index(t: Tracer, node: Any) -> Any:
    """What ``node`` computes from frame numbers and constants, where it takes their values to know."""
    before = {n: t.env[n] for n in node.all_input_nodes if isinstance(t.env.get(n), TimeIndex)}
    for n in before:
        shape = t.extents(n)
        if shape.count(None) != 1 or not {*shape} <= {1, None}:
            return NotImplemented
    t.env.update((n, _numbers(t.extents(n), n.meta["val"].dtype)) for n in before)
    try:
        return t.of_frames(node) if before and t.is_of_frames(node) else NotImplemented
    finally:
        t.env.update(before)


def _numbers(extents: tuple[Any, ...], dtype: torch.dtype) -> OfFrames:
    shape = [-1 if size is None else 1 for size in extents]
    return OfFrames(lambda frames: torch.arange(frames).to(dtype).reshape(shape))


@handles("slice", OfFrames)
def _slice_table(
    t: Tracer, x: OfFrames, dim: int = 0, start: object = None, end: object = None, step: object = 1
) -> Any:
    """All there is."""
    return x if t.unchanged and step == 1 else NotImplemented


@handles("slice", Tensor)
def _slice_longest(
    t: Tracer, x: Tensor, dim: int = 0, start: object = None, end: object = None, step: object = 1
) -> Any:
    """Of a table made for the longest utterance its first frames."""
    begins = start in (None, 0) and step == 1 and isinstance(end, Size) and t.shape.count(None) == 1
    if not begins or t.shape[dim] is not None:
        return NotImplemented
    return OfFrames(lambda frames: x.narrow(dim, 0, frames))


# -- collecting ------------------------------------------------------------------------------------------


def collect(t: Tracer, node: Any, *, begun: bool = False) -> Any:
    """What ``node`` makes, if it is linear in an activation, frame by frame; else NotImplemented.

    ``begun``: only if an operand has been collected already.
    """
    operator = getattr(node.target, "overloadpacket", node.target)
    name = canonical(getattr(operator, "__name__", str(operator)))
    operands = {n: t.env.get(n) for n in node.all_input_nodes}
    linear = {n: v for n, v in operands.items() if isinstance(v, (Real, Heads, FramewiseLinear))}
    if any(isinstance(v, LogProbs) for v in linear.values()):
        return NotImplemented
    collected = any(isinstance(v, FramewiseLinear) for v in linear.values())
    if len({_source(v) for v in linear.values()}) != 1 or (begun and not collected):
        return NotImplemented
    constants = [v for n, v in operands.items() if n not in linear]
    known = all(isinstance(v, (OfFrames, Tensor, int, float)) for v in constants)
    factors = [isinstance(a, torch.fx.Node) and a in linear for a in node.args[:3]] or [False]
    if name in _KEEPS:
        return operands[node.args[0]] if factors[0] else NotImplemented
    fits = {
        **dict.fromkeys(_SUMS, factors == [True, True]),
        **dict.fromkeys(_JOINS, not constants),
        **dict.fromkeys(_MOVES, len(linear) == 1 and known),
        **dict.fromkeys(_SHAPES, factors[0]),
        "mul": known and sum(factors) == 1,
        "addcmul": known and factors[0] and sum(factors) == 2,
        "div": known and factors == [True, False] and not node.kwargs,
    }
    return _collected(t, node, linear, name in _SHAPES) if fits.get(name) else NotImplemented


def _collected(t: Tracer, node: Any, linear: dict[Any, Any], shaped: bool) -> Any:
    operands, extents = {n: t.env[n] for n in node.all_input_nodes}, t.shape
    runs = {n: _runs(v) for n, v in linear.items()}

    def run(x: Tensor) -> Any:
        frames = x.shape[2]
        known = {n: v.compute(frames) if isinstance(v, OfFrames) else v for n, v in operands.items()}
        known.update((n, made(x)) for n, made in runs.items())
        if shaped:
            shape = _shape(extents, len(x), frames)
            source = known[node.args[0]]
            return source.expand(shape) if "expand" in str(node.target) else source.reshape(shape)
        if node.target is torch.ops.aten.view_as_complex.default:
            known = {n: v.contiguous() for n, v in known.items()}
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        return node.target(*args, **kwargs)

    first, value = next(iter(linear.items()))
    channels = _channels(t, first, value)
    if not isinstance(channels, int):
        return NotImplemented
    made = FramewiseLinear(_source(value), channels, run, extents, t.where)
    try:
        tried = run(_some(channels))
    except (RuntimeError, TypeError, ValueError, IndexError):  # it takes another shape than the trace says
        return NotImplemented
    fits = not isinstance(tried, Tensor) or list(tried.shape) == _shape(extents, 2, _TRIED)
    return made if fits else NotImplemented


def _shape(extents: tuple[int | str | None, ...], batch: int, frames: int) -> list[int]:
    return [size if isinstance(size, int) else frames if size is None else batch for size in extents]


def _some(channels: int) -> Tensor:
    """Activations like any other."""
    return torch.randn(2, channels, _TRIED, generator=torch.Generator().manual_seed(0))


def _source(value: Real | Heads | FramewiseLinear) -> str:
    return value.source if isinstance(value, FramewiseLinear) else value.name


def _channels(t: Tracer, node: Any, value: Real | Heads | FramewiseLinear) -> Any:
    if isinstance(value, FramewiseLinear):
        return value.channels
    if isinstance(value, Heads):
        return value.heads * value.size
    extents = t.extents(node)
    return extents[2 if value.frames_first else 1] if len(extents) == 3 else None


def _runs(value: Real | Heads | FramewiseLinear) -> Callable[[Tensor], Any]:
    """From the source [B, C, T] to the tensor that was traced."""
    if isinstance(value, FramewiseLinear):
        return value.run
    if isinstance(value, Real):
        turned = value.frames_first
        return lambda x: x.transpose(1, 2) if turned else x
    heads, size, order = value.heads, value.size, ["bhet".index(axis) for axis in value.layout]
    return lambda x: x.reshape(len(x), heads, size, -1).permute(order)


# -- reading ---------------------------------------------------------------------------------------------


def settle(t: Tracer, node: Any) -> None:
    """Emit what the operands of ``node`` were collected to be, for it reads them as they are."""
    operator = getattr(node.target, "overloadpacket", node.target)
    if canonical(getattr(operator, "__name__", "")) in _ASKS:
        return
    for n in node.all_input_nodes:
        if isinstance(t.env.get(n), FramewiseLinear):
            t.env[n] = _settled(t, t.env[n])


def _settled(t: Tracer, value: FramewiseLinear) -> Real | Heads:
    """The activation that ``value`` is; raises UnsupportedOperatorError if it is none of those known."""
    found = _two_terms(value)
    kind = _kind(value)
    if found is None or kind is None:
        raise UnsupportedOperatorError(
            value.where,
            "rearranges or scales channels in a way that is neither a move of them nor rotary positions (a "
            "channel may be a sum of two, each times a function of the frame's number)",
            supported(),
        )
    reader, t.where = t.where, value.where
    try:
        return kind(_emitted(t, value, found))
    finally:
        t.where = reader


def _emitted(t: Tracer, value: FramewiseLinear, found: _TwoTerms) -> str:
    name, first = value.source, found.first
    if first != tuple(range(value.channels)):
        name = t.emit("take_channels", (name,), index=first).name
    a, b = found(_TRIED)
    steady = not b.any() and torch.allclose(a, a[:, :1], atol=_CLOSE)
    scale = a[:, 0] if steady else torch.maximum(a.abs().max(), b.abs().max()).reshape(1)
    if not torch.allclose(scale, torch.ones(()), rtol=0, atol=1e-6):
        shift = torch.zeros((), dtype=torch.float64)
        name = t.emit("affine", (name,), scale=scale.double(), shift=shift).name
    if not steady:
        place = {channel: position for position, channel in enumerate(first)}
        pair = tuple(place[channel] for channel in found.second)
        found = replace(found, scale=float(scale))
        name = t.emit("rotate", (name,), coefficients=found, pair=pair).name
    return name


def _kind(value: FramewiseLinear) -> Callable[[str], Real | Heads] | None:
    """How the traced tensor holds the channels of an activation; None if it is not known."""
    extents = value.extents
    if extents.count("batch") != 1 or extents.count(None) != 1:
        return None
    if len(extents) == 3 and extents[0] == "batch":
        frames_first = extents[1] is None
        return lambda name: Real(name, frames_first)
    if len(extents) == 4:
        rest = iter("he")
        layout = "".join(next(rest) if isinstance(e, int) else "b" if e == "batch" else "t" for e in extents)
        heads, size = (e for e in extents if isinstance(e, int))
        return lambda name: Heads(name, heads, layout, size)
    return None


@dataclass(frozen=True, eq=False)
class _TwoTerms:
    """y[c] = a[c]·x[first[c]] + b[c]·x[second[c]] for [C, T] that ``run`` makes of x [B, C', T]."""

    run: Callable[[Tensor], Tensor]
    first: tuple[int, ...]
    second: tuple[int, ...]
    #: a number for every channel of x, other ones where a sum has both
    colours: tuple[int, ...]
    scale: float = 1.0

    def __call__(self, frames: int) -> tuple[Tensor, Tensor]:
        """Return a and b over ``scale``, [C, T] each, of the frames 0 to T − 1."""
        colours = torch.tensor(self.colours)
        probes = torch.stack([(colours == colour).float() for colour in range(max(self.colours) + 1)])
        seen = self.run(probes[:, :, None].expand(-1, -1, frames)) / self.scale
        rows, (first, second) = torch.arange(len(self.first)), map(torch.tensor, (self.first, self.second))
        b = seen[colours[second], rows] * (first != second)[:, None]
        return seen[colours[first], rows], b


def _two_terms(value: FramewiseLinear) -> _TwoTerms | None:
    """What ``value`` is, if it is that, and nothing else for random activations."""
    extents = value.extents
    if extents.count("batch") != 1 or extents.count(None) != 1:
        return None
    batch, frames = extents.index("batch"), extents.index(None)
    order = [batch, *(axis for axis in range(len(extents)) if axis not in (batch, frames)), frames]

    def run(x: Tensor) -> Tensor:
        """[B, C', T] → [B, C, T]."""
        made: Tensor = value.run(x).permute(order)
        return made.reshape(len(x), -1, x.shape[2])

    units = torch.eye(value.channels)[:, :, None].expand(-1, -1, _TRIED)
    seen = run(units).permute(1, 0, 2)
    # what has no part in a sum is exactly zero
    terms = [row.nonzero().flatten().tolist() for row in seen.abs().amax(dim=2) > 0]
    if not all(1 <= len(term) <= 2 for term in terms):
        return None
    # at the first frame nothing is turned: what is larger there is the channel itself
    for row, term in zip(seen[:, :, 0].abs(), terms, strict=True):
        term.sort(key=lambda channel: -float(row[channel]))
    first, second = tuple(term[0] for term in terms), tuple(term[-1] for term in terms)
    if not {*second} <= {*first}:
        return None
    found = _TwoTerms(run, first, second, _coloured(value.channels, terms))
    x, (a, b) = _some(value.channels), found(_TRIED)
    expected = run(x)
    again = a * x[:, list(first)] + b * x[:, list(second)]
    return found if torch.allclose(expected, again, atol=_CLOSE * float(expected.abs().max())) else None


def _coloured(channels: int, terms: list[list[int]]) -> tuple[int, ...]:
    """Small numbers for the channels such that no two of one term are equal."""
    beside: list[set[int]] = [set() for _ in range(channels)]
    for term in terms:
        for channel in term:
            beside[channel].update(other for other in term if other != channel)
    colours: list[int] = []
    for channel in range(channels):
        taken = {colours[other] for other in beside[channel] if other < channel}
        colours.append(next(colour for colour in range(channels) if colour not in taken))
    return tuple(colours)
