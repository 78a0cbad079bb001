"""An elementwise function of bytes as a polynomial of their magnitude, for targets without tables.

With d = x − z_x, e = clamp(d, −R, R) and u = |e|, a function is a line for d > 0, and beside it what the
symmetry of the rest allows:

    odd    sigmoid − ½, tanh, Φ − ½                              e·g(u)
    even   silu, gelu:  x·σ(x) = max(x, 0) − |x|·σ(−|x|)         slope·max(d, 0) + u·g(u)
    none   elu, selu, with e = clamp(d, −R, 0)                   slope·max(d, 0) + u·g(u)

So it is exact at 0, and constant, or that line, beyond the reach R.  g is a polynomial of degree 4 at most,
by Horner's scheme in u / 2^shift ≤ 1, so that no step is larger than the coefficients together.

I-BERT's i-GELU (Kim et al., arXiv 2101.01321, section 3.4) clips |x| likewise and fits erf by degree 2, once
for all scales.  Here degree and reach are chosen for the scales at hand, by the error in steps of the output,
and u·g(u) does not jump at 0.

Products have at most 24 bits, by the choice of c, so that float32 may carry them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zeroq_asr.integer.backends.base import Backend, V
from zeroq_asr.integer.backends.interval import Interval, IntervalBackend
from zeroq_asr.integer.dyadic import requantize
from zeroq_asr.integer.program import Instruction
from zeroq_asr.integer.types import I32, U8
from zeroq_asr.registry import Attrs, Condition

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.kernels import Kernels
    from zeroq_asr.integer.backends.onnx_graph import Sym

#: function → what is left of it without its value at 0 and its line
SYMMETRIES = {
    "sigmoid": "odd",
    "tanh": "odd",
    "normal_cdf": "odd",
    "silu": "even",
    "gelu": "even",
    "elu": "none",
    "selu": "none",
}
#: largest magnitude of any integer: what a float32 carries
LARGEST = 1 << 24


def polynomial_requant(
    f: Backend[V],
    x: V,
    *,
    zx: int,
    reach: int,
    symmetry: str,
    coefficients: tuple[int, ...],
    shift: int,
    slope: int,
    bias: int,
    c: int,
    zy: int,
    lo: int,
    hi: int,
    type: str,
    function: str,
) -> V:
    """y = clamp(half_even((w·g(u) + slope·max(x − zx, 0) + bias) / 2^c) + zy, lo, hi).

    x uint8 of any shape.  e is x − zx clamped to ±``reach``, or to [−``reach``, 0] where ``symmetry`` is
    none; u = |e|, and w is e where it is odd, else u.  g(u): from the first coefficient, that of the highest
    power, g ← ⌊g·u / 2^shift⌋ + the next one.  ``function`` says what it stands for.
    """
    d = f.sub(f.cast(x, I32), zx)
    below = f.clamp(d, -reach, 0)
    if symmetry == "none":
        e = u = f.mul(below, -1)
    else:
        above = f.clamp(d, 0, reach)
        # bounds cannot know that one of both is 0
        e, u = f.add(above, below), f.clamp(f.sub(above, below), 0, reach)
    w = e if symmetry == "odd" else u
    if len(coefficients) == 1:
        v = f.mul(w, coefficients[0])
    else:
        g = f.mul(u, coefficients[0])
        for coefficient in coefficients[1:-1]:
            g = f.mul(f.add(f.shift_right(g, shift), coefficient), u)
        v = f.mul(f.add(f.shift_right(g, shift), coefficients[-1]), w)
    if slope:
        v = f.add(v, f.mul(f.clamp(d, 0, U8.hi), slope))
    return requantize(f, f.add(v, bias), c=c, zero_point=zy, lo=lo, hi=hi, type=type)


def peak(x: Interval, attrs: Attrs) -> int:
    """Return the largest magnitude of any integer between x and y; ProofError where one leaves its type."""
    proof = IntervalBackend()
    polynomial_requant(proof, x, **attrs)
    return proof.peak


def exact_if(i: Instruction, x: Interval) -> list[Condition]:
    """When float32 carries every integer of the definition."""
    largest = peak(x, i.attrs)
    return [
        Condition("the input is unsigned bytes", x.type is U8),
        Condition("no integer of the definition exceeds 2^24", largest <= LARGEST, f"{largest}"),
    ]


def emit_carried(b: Kernels, i: Instruction, ins: list[Sym]) -> Sym:
    """The polynomial in floats that carry its integers."""
    a = i.attrs

    def node(op: str, *operands: str) -> str:
        return str(b.node(op, list(operands), None))

    def single(value: float) -> str:
        return str(b.float_scalar(value))

    d = b.carry(ins[0])
    if a["zx"]:
        d = node("Sub", d, single(a["zx"]))
    e = node("Clip", d, single(-a["reach"]), single(0 if a["symmetry"] == "none" else a["reach"]))
    u = node("Abs", e)
    w = e if a["symmetry"] == "odd" else u
    first, *others = a["coefficients"]
    g = single(first)
    v = node("Mul", u, single(2.0 ** -a["shift"])) if others else u
    for coefficient in others:
        g = node("Add", node("Floor", node("Mul", v, g)), single(coefficient))
    y = node("Mul", node("Mul", w, single(2.0 ** -a["c"])), g)
    if a["slope"]:
        y = node("Add", y, node("Mul", node("Relu", d), single(a["slope"] / 2.0 ** a["c"])))
    if a["bias"]:
        y = node("Add", y, single(a["bias"] / 2.0 ** a["c"]))
    return replace(b.quantized(y, i), frames_first=ins[0].frames_first)
