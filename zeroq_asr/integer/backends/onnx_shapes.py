"""Symbolic shapes of a graph's tensors, node by node.

ONNX gives up on the extent of a convolved or reshaped axis.  ONNX Runtime then finds no two tensors of one
size, searches all of them at every node, and takes minutes to load a file of ten thousand; told the shapes it
needs a second, and reuses memory.  Extents are whole numbers or names: axes of one name are equally long.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Dim = int | str
Dims = tuple[Dim, ...]

#: operators whose result ONNX cannot follow through unknown extents
OPAQUE = (
    *("Conv", "ConvInteger", "QLinearConv", "QLinearAdd", "QLinearMul", "MatMulIntegerToFloat"),
    *("Reshape", "Slice", "Pad"),
)
#: operators whose result has the type of their first operand, as far as types are needed
KEEPS_TYPE = (*OPAQUE, "Transpose", "Add", "Sub", "Mul", "Div", "Min", "Max", "Floor", "Round", "Clip")
_CONVS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
_REDUCTIONS = ("ReduceSum", "ReduceMax", "ReduceSumSquare")
#: operators of which only the listed operand has a say
_FIRST = {
    "QuantizeLinear": 1,
    "DequantizeLinear": 1,
    "Cast": 1,
    "Clip": 1,
    "Identity": 1,
    "LayerNormalization": 1,
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Erf", "Elu", "Selu", "Softplus", "Mish", "Sin", "IsNaN"), 1),
}
#: operators of several operands that are broadcast against one another
BROADCAST = (
    *("Add", "Sub", "Mul", "Div", "Min", "Max", "Where", "Less", "Greater", "Equal", "And", "Or"),
    "BitwiseAnd",
)
_ELEMENTWISE = (
    *BROADCAST,
    *("Abs", "Neg", "Relu", "Floor", "Ceil", "Round", "Sqrt", "Reciprocal", "Exp", "QLinearSigmoid"),
)
_QLINEAR = {"QLinearAdd": (0, 3), "QLinearMul": (0, 3)}


def infer(
    op: str,
    operands: Sequence[Dims | None],
    constants: Sequence[tuple[int, ...] | None],
    attrs: Mapping[str, Any],
) -> Dims | None:
    """Return the shape of a node's result, None where it is not known.

    ``operands``: shapes; ``constants``: the entries of those that are short vectors of the file.
    """
    first = operands[0] if operands else None
    if op in _QLINEAR:
        return broadcast([operands[place] for place in _QLINEAR[op]])
    if op in _ELEMENTWISE:
        return broadcast(operands)
    if op == "GatherElements":
        return operands[1]
    if op in ("MatMulInteger", "MatMulIntegerToFloat", "MatMul"):
        return _product(first, operands[1])
    if first is None:
        return None
    if op == "Gather":
        axis, index = attrs.get("axis", 0), operands[1]
        return None if index is None else (*first[:axis], *index, *first[axis + 1 :])
    if op in _FIRST:
        return first
    if op in _CONVS:
        return _convolved(first, operands[_CONVS[op]], attrs)
    if op == "Transpose":
        return tuple(first[axis] for axis in attrs.get("perm", reversed(range(len(first)))))
    axes = constants[1] if len(constants) > 1 else None
    if axes is None:
        return None
    if op in _REDUCTIONS:
        gone = {axis % len(first) for axis in axes}
        if not attrs.get("keepdims", 1):
            return tuple(dim for axis, dim in enumerate(first) if axis not in gone)
        return tuple(1 if axis in gone else dim for axis, dim in enumerate(first))
    if op == "Squeeze":
        gone = {axis % len(first) for axis in axes}
        return tuple(dim for axis, dim in enumerate(first) if axis not in gone)
    if op == "Unsqueeze":
        out = list(first)
        for axis in sorted(axis % (len(first) + len(axes)) for axis in axes):
            out.insert(axis, 1)
        return tuple(out)
    return _reshaped(first, axes) if op == "Reshape" else None


def broadcast(operands: Sequence[Dims | None]) -> Dims | None:
    """Shape of an elementwise result; None where two names meet."""
    if any(dims is None for dims in operands):
        return None
    rank = max(len(dims) for dims in operands if dims is not None)
    out: list[Dim] = []
    for axis in range(rank):
        found = {dims[axis - rank] for dims in operands if dims is not None and len(dims) >= rank - axis} - {
            1
        }
        if len(found) > 1:
            return None
        out.append(found.pop() if found else 1)
    return tuple(out)


def _product(a: Dims | None, b: Dims | None) -> Dims | None:
    if a is None or b is None or min(len(a), len(b)) < 2:
        return None
    outer = broadcast([a[:-2], b[:-2]])
    return None if outer is None else (*outer, a[-2], b[-1])


def _convolved(x: Dims, w: Dims | None, attrs: Mapping[str, Any]) -> Dims | None:
    if w is None or not {"pads", "dilations", "strides"} <= attrs.keys():
        return None
    axes = len(x) - 2
    last = attrs.get("channels_last", 0)
    out: list[Dim] = [x[0]] if last else [x[0], w[0]]
    for axis in range(axes):
        grows = attrs["pads"][axis] + attrs["pads"][axis + axes]
        grows -= attrs["dilations"][axis] * (int(w[axis + 2]) - 1)
        out.append(_stepped(x[axis + (1 if last else 2)], grows, attrs["strides"][axis]))
    return (*out, w[0]) if last else tuple(out)


def _stepped(dim: Dim, grows: int, stride: int) -> Dim:
    """(dim + grows − 1) div stride + 1."""
    if isinstance(dim, int):
        return (dim + grows - 1) // stride + 1
    if stride == 1:
        return dim if grows == 0 else f"({dim}{grows:+})"
    return f"(({dim}{grows - 1:+})/{stride}+1)"


def _reshaped(first: Dims, shape: tuple[int, ...]) -> Dims | None:
    """Zeros copy an extent; −1 is what is left over, where it is one axis or the product of all."""
    if shape == (-1,):
        return ("*".join(str(dim) for dim in first),)
    if any(extent == 0 for extent in shape[len(first) :]):
        return None
    out: list[Dim] = [first[place] if extent == 0 else extent for place, extent in enumerate(shape)]
    if -1 not in shape:
        return tuple(out)
    known, rest = [dim for dim in out if dim != -1], list(first)
    for dim in [dim for dim in known if isinstance(dim, str)]:
        if dim in rest:
            rest.remove(dim)
    names = [dim for dim in rest if isinstance(dim, str)]
    sizes = [_total(dims) for dims in (rest, known)]
    if len(names) != 1 or sizes[0] != sizes[1]:
        return None
    out[out.index(-1)] = names[0]
    return tuple(out)


def _total(dims: Sequence[Dim]) -> int:
    total = 1
    for dim in dims:
        total *= dim if isinstance(dim, int) else 1
    return total
