"""What shape the body of a float island gives, by running it: ONNX says it of no shape that a body computes.

A body holds operators alone whose results have extents that do not depend on data
(``onnxruntime_bodies``).  It is run for two dozen numbers of frames from the first that it takes, and for the
longest, or 4096; the number of frames that it leaves must be of the form ⌊(t + a) / s⌋ at all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zeroq_asr.integer.backends.onnxruntime_bodies import evaluate
from zeroq_asr.integer.extents import Dim, Extent, at

if TYPE_CHECKING:
    from zeroq_asr.integer.backends.shapes import Shaped

#: numbers of frames that a body is run for, and the largest by which it may be the first that it takes
_RUNS, _FIRST = 24, 1 << 11
#: frames of the longest run: attention takes memory by their square
_MOST = 1 << 12
#: largest stride of a whole island
_STRIDES = 12
_BATCH = 2
_KEPT = 64
_known: OrderedDict[Any, tuple[tuple[Dim, ...], dict[str, int]]] = OrderedDict()


def result_dims(
    body: str,
    operands: Sequence[Shaped],
    weights: Sequence[np.ndarray],
    sizes: Mapping[str, int],
    least: Mapping[str, int],
) -> tuple[tuple[Dim, ...], dict[str, int]]:
    """Return the extents of a body's result, and free extent → the smallest number that it takes.

    ``sizes`` and ``least``: the largest and, so far, the smallest numbers that free extents stand for.
    Raises ValueError where the body does not run, or its frames have no such form.
    """
    takes = tuple((v.type, v.dims) for v in operands)
    shapes = tuple(array.shape for array in weights)
    key = (body, takes, shapes, tuple(sorted(sizes.items())), tuple(sorted(least.items())))
    if key not in _known:
        _known[key] = _found(body, operands, weights, sizes, least)
        while len(_known) > _KEPT:
            _known.popitem(last=False)
    _known.move_to_end(key)
    return _known[key]


def _found(
    body: str,
    operands: Sequence[Shaped],
    weights: Sequence[np.ndarray],
    sizes: Mapping[str, int],
    least: Mapping[str, int],
) -> tuple[tuple[Dim, ...], dict[str, int]]:
    finest = _finest(operands)

    def run(t: int) -> tuple[int, ...]:
        given = dict.fromkeys(sizes, _BATCH)
        if finest is not None:
            given[finest.of] = t * finest.by - finest.plus
        arrays = []
        for v in operands:
            shape = (_BATCH, *(at(dim, given) for dim in v.dims[1:]))
            frames = t if v.type == "int64" else 0
            arrays.append(np.full(shape, frames, "int64" if v.type == "int64" else "float32"))
        made = evaluate(body, arrays, weights)
        if made.ndim not in (3, 4) or made.shape[0] != _BATCH or made.dtype != np.float32:
            raise ValueError(f"gives {made.dtype} {list(made.shape)} of a batch of {_BATCH}")
        return made.shape

    if finest is None:
        return _as_found(operands, _tried(run, 1)), {}
    longest = finest.at(sizes[finest.of])
    first = finest.at(max(least.get(finest.of, 1), finest.least))
    longest = max(min(longest, _MOST), min(longest, first + _RUNS))
    found: dict[int, tuple[int, ...]] = {}
    while first <= longest and not found:
        try:
            found[first] = run(first)
        except ValueError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            if first == longest or first >= _FIRST:
                raise ValueError(f"cannot be run ({_line(error)})") from None
            first += 1
    for t in {*range(first + 1, min(first + _RUNS, longest + 1)), longest} - found.keys():
        found[t] = _tried(run, t)
    others = {(*shape[:2], *shape[3:]) for shape in found.values()}
    if len(others) != 1:
        raise ValueError(f"gives other channels for other frames: {sorted(others)}")
    frames = _fitted(finest, {t: shape[2] for t, shape in found.items()})
    shape = next(iter(found.values()))
    smallest = first * finest.by - finest.plus
    return (*_as_found(operands, shape)[:2], frames, *shape[3:]), {finest.of: max(1, smallest)}


def _finest(operands: Sequence[Shaped]) -> Extent | None:
    """The extent of frames that determines those of all operands; None where all are fixed."""
    free = [dim for v in operands for dim in v.dims[2:] if isinstance(dim, Extent)]
    if not free:
        return None
    finest = min(free, key=lambda dim: dim.by)
    for dim in free:
        told = dim.by % finest.by == 0 and (dim.plus - finest.plus) % finest.by == 0
        if dim.of != finest.of or not told or dim.times != 1:
            raise ValueError(f"takes frames {finest} and {dim}, of which neither says the other")
    return finest


def _tried(run: Any, t: int) -> tuple[int, ...]:
    try:
        shape: tuple[int, ...] = run(t)
        return shape
    except ValueError:
        raise
    except Exception as error:  # onnxruntime's exceptions share no base of their own
        raise ValueError(f"cannot be run for {t} frames ({_line(error)})") from None


def _as_found(operands: Sequence[Shaped], shape: tuple[int, ...]) -> tuple[Dim, ...]:
    """A shape that was found, whose first extent is that of the operands."""
    return (operands[0].dims[0], *shape[1:])


def _fitted(finest: Extent, found: Mapping[int, int]) -> Dim:
    """The extent that is ``found`` for so many frames of the finest operand."""
    if len(set(found.values())) == 1 and (len(found) > 1 or 1 in found.values()):
        return next(iter(found.values()))
    some = min(found)
    for stride in range(1, _STRIDES + 1):
        for rest in range(stride):
            # ⌊(some + a) / stride⌋ is what was found there
            plus = found[some] * stride + rest - some
            if all((t + plus) // stride == frames for t, frames in found.items()):
                return Extent(finest.of, finest.plus + plus * finest.by, finest.by * stride)
    raise ValueError(f"leaves frames {dict(sorted(found.items()))}, of no stride and padding")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
