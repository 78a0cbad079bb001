"""The integer LSTM cell, and what runs it: one step, or a scan over the frames.

With σ and tanh of what a gate's row of weights gives (Hochreiter and Schmidhuber 1997; Gers et al. 2000):

    i, f, o = σ(W·x + R·h + b)        g = tanh(W·x + R·h + b)
    c' = f·c + i·g                    h' = o·tanh(c')

- *Gates.*  The products of bytes are summed in int32; row r of the weights has the dyadic scale m_r / 2^γ in
  steps of the gates, which are rounded half up to 16 bits and end at ±16, where σ is flat.  tanh(a) is
  2·σ(2a) − 1: rows of g are taken twice, so all gates are read from one table of σ with 14 binary places, and
  g ends at ±8.
- *Cell.*  c has k binary places, in 16 bits.  f·c, with k + 14, and i·g, with 27, are summed exactly, but for
  what lies below 2^-(k + 14), and rounded half up, once.  |c'| is clamped to a bound, the invariant of the
  induction over steps.
- *Hidden state.*  A byte.  A table of tanh has the amplitude A, so that o·A·tanh(c') / 2^s is h' in steps of
  its format, rounded half up.

Rounding half up costs two integer operators less than half to even, for ties that none of these values hits
more often than by chance: once in 2^γ, 2^14 and 2^s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.dyadic import shift_half_up
from zeroq_asr.integer.types import I32, U8

#: binary places of the table of σ; of g = 2σ − 1 there is one less
SIGMOID_PLACES = 14


@dataclass(frozen=True)
class Format:
    """What a cell is told of its integers."""

    #: γ: what gates are shifted by
    c: int
    #: k: binary places of the cell
    places: int
    #: largest magnitude of the cell
    cell: int
    #: s: what o·A·tanh(c') is shifted by
    cut: int
    #: of the hidden state
    zy: int
    lo: int
    hi: int


def gate_index(f: Backend[V], total: V, sigmoid: V, c: int) -> V:
    """Where in the table of σ a gate is: total / 2^c, rounded half up, saturated at the ends of the table.

    ``total`` int32 of any shape.
    """
    half = f.array(sigmoid).size // 2
    return f.add(f.clamp(shift_half_up(f, total, c) if c else total, -half, half - 1), half)


def updated(f: Backend[V], gates: tuple[V, V, V, V], c: V, tanh: V, form: Format) -> tuple[V, V]:
    """Return h' uint8 and c' int32 of i, f, o and σ of twice g (entries of the table of σ), and of c."""
    i, keep, o, g = gates
    half = f.array(tanh).size // 2
    kept = f.mul(keep, c)
    added = f.mul(i, f.sub(g, 1 << (SIGMOID_PLACES - 1)))
    # nested floors: the sum is floored at one place, as if both products were whole
    added = (
        f.shift_right(added, SIGMOID_PLACES - 1 - form.places) if form.places < SIGMOID_PLACES - 1 else added
    )
    c = f.clamp(shift_half_up(f, f.add(kept, added), SIGMOID_PLACES), -form.cell, form.cell)
    squashed = f.lookup(f.add(f.clamp(c, -half, half - 1), half), tanh)
    # o·tanh counts from the lowest byte, so that what is shifted is never negative
    raised = f.add(f.mul(o, squashed), (form.zy << form.cut) + (1 << (form.cut - 1)))
    h = f.cast(f.clamp(f.shift_right(raised, form.cut), form.lo, form.hi), U8)
    return h, c


def split(f: Backend[V], gates: V, units: int) -> tuple[V, V, V, V]:
    """The four gates of [B, 4·H, T]."""
    i, keep, o, g = (f.take_channels(gates, tuple(range(n * units, (n + 1) * units))) for n in range(4))
    return i, keep, o, g


def pointwise(f: Backend[V], x: V, w: V, zero_point: int) -> V:
    """Every frame of x uint8 [B, I, T] times w [O, I, 1]: int32 [B, O, T]."""
    return f.conv(x, w, zero_point=zero_point, strides=(1,), pads=((0, 0),), dilations=(1,), groups=1)


def stepped(
    f: Backend[V], given: V, h: V, c: V, r: V, m: V, sigmoid: V, tanh: V, form: Format
) -> tuple[V, V]:
    """One step: h' and c' of what the input gives the gates, int32 [B, 4·H, 1], of h and of c."""
    total = f.add(given, f.mul(pointwise(f, h, r, form.zy), f.per_channel(m)))
    gates = f.lookup(gate_index(f, total, sigmoid, form.c), sigmoid)
    return updated(f, split(f, gates, f.array(r).shape[1]), c, tanh, form)


def contributed(f: Backend[V], x: V, w: V, bias: V, m: V, zx: int) -> V:
    """What an input x uint8 [B, I, T] gives the gates: int32 [B, 4·H, T] in steps of 2^-γ of theirs."""
    return f.mul(f.add(pointwise(f, x, w, zx), f.per_channel(bias)), f.per_channel(m))


def lstm_step(
    f: Backend[V],
    x: V,
    h: V,
    c0: V,
    w: V,
    r: V,
    bias: V,
    m: V,
    sigmoid: V,
    tanh: V,
    *,
    zx: int,
    c: int,
    places: int,
    cell: int,
    cut: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
) -> tuple[V, V]:
    """One step of an LSTM of H units: h' uint8 [B, H, 1] and c' int32 [B, H, 1], |c'| ≤ ``cell``.

    x uint8 [B, I, 1]; h uint8 [B, H, 1] with zero point zy; c0 int32 [B, H, 1] with ``places`` binary places,
    |c0| ≤ ``cell`` < 2^15; w int8 [4·H, I, 1] and r int8 [4·H, H, 1] with the rows of i, f, o and g (taken
    twice), |w| ≤ 127; bias int32 [4·H]; m int32 [4·H] ≥ 1; sigmoid int32, entries of the table of σ in
    [0, 2^14]; tanh int32, |entries| ≤ 2^15, for c' around the middle.  Both states are rounded half up.
    """
    form = Format(c, places, cell, cut, zy, lo, hi)
    return stepped(f, contributed(f, x, w, bias, m, zx), h, c0, r, m, sigmoid, tanh, form)


def lstm(
    f: Backend[V],
    x: V,
    w: V,
    r: V,
    bias: V,
    m: V,
    sigmoid: V,
    tanh: V,
    *,
    zx: int,
    c: int,
    places: int,
    cell: int,
    cut: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    backwards: bool,
) -> tuple[V, V]:
    """An LSTM over the frames of x uint8 [B, I, T]: every h uint8 and every c int32, [B, H, T] each.

    States are zero at first.  Operands and rounding are those of ``lstm_step``.  ``backwards``: from the last
    frame to the first, padding included.
    """
    form = Format(c, places, cell, cut, zy, lo, hi)

    def step(given: V, h: V, held: V) -> tuple[V, V]:
        return stepped(f, given, h, held, r, m, sigmoid, tanh, form)

    return scanned(f, contributed(f, x, w, bias, m, zx), x, f.array(r).shape[1], step, form, backwards)


def scanned(
    f: Backend[V],
    given: V,
    x: V,
    units: int,
    step: Callable[[V, V, V], tuple[V, V]],
    form: Format,
    backwards: bool,
) -> tuple[V, V]:
    """Every h and every c of ``step`` (what the input gives, h, c), from states of zero on.

    ``x``: whose batch it is.
    """

    def one(carried: list[V], inputs: list[V]) -> tuple[list[V], list[V]]:
        h, c = step(inputs[0], *carried)
        return [h, c], [h, c]

    start = [f.filled(x, units, form.zy, U8), f.filled(x, units, 0, I32)]
    bounds = [(form.lo, form.hi), (-form.cell, form.cell)]
    _, (h, c) = f.scan(one, start, [given], bounds=bounds, backwards=backwards)
    return h, c
