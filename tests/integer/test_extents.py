"""Types and extents of values: those of the reference for every case, and forms equal where frames are."""

from __future__ import annotations

import numpy as np
import pytest

from zeroq_asr.errors import ProofError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.shapes import ShapeBackend, Shaped
from zeroq_asr.integer.extents import Dim, Extent, at, stepped_dim
from zeroq_asr.integer.frames import stepped
from zeroq_asr.integer.program import Instruction
from zeroq_asr.registry import INTEGER_OPERATORS

from .parity import Case, all_cases

FRAMES = Extent("frames")


def shaped(array: np.ndarray, frames: int) -> Shaped:
    """What a backend is told of an operand: nothing but its type and free extents."""
    if array.ndim == 1:
        return Shaped("int64", (Extent("batch"),), counts=FRAMES)
    free: dict[int, Dim] = {frames: FRAMES, 2 * frames: FRAMES.multiplied(2)}
    batch: Dim = 1 if array.shape[0] == 1 else Extent("batch")
    return Shaped(
        array.dtype.name, (batch, array.shape[1], free.get(array.shape[2], array.shape[2]), *array.shape[3:])
    )


def frames_of(given: dict[str, np.ndarray]) -> int:
    return next((v.shape[2] for v in given.values() if v.ndim > 2), 1)


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.id)
def test_shapes_and_types_are_those_of_the_reference(case: Case) -> None:
    # of several frames, which an extent of one is not taken for
    given = min(case.inputs, key=lambda one: (frames_of(one) < 2, max(v.size for v in one.values())))
    frames = frames_of(given)
    batch = max(v.shape[0] for v in given.values())
    results = INTEGER_OPERATORS[case.op].results
    i = Instruction(case.op, "out", case.order, case.attrs, "", ("b", "c")[: results - 1])
    reference = NumpyBackend().instruction(
        i, [case.constants[name] if name in case.constants else given[name] for name in case.order]
    )
    backend = ShapeBackend({"frames": frames, "batch": batch})
    made = backend.instruction(
        i,
        [
            backend.constant(name, case.constants[name])
            if name in case.constants
            else shaped(given[name], frames)
            for name in case.order
        ],
    )
    sizes = {"frames": frames, "batch": batch}
    for v, array in zip(made, reference, strict=True):
        assert v.type == array.dtype.name
        assert tuple(at(dim, sizes) for dim in v.dims) == array.shape


@pytest.mark.parametrize("seed", range(20))
def test_forms_are_those_of_layers_in_a_row(seed: int) -> None:
    generator = np.random.default_rng(seed)
    dim: Dim | None = FRAMES
    steps = [(int(generator.integers(-6, 7)), int(generator.integers(1, 4))) for _ in range(5)]
    for growth, stride in steps:
        assert dim is not None
        dim = stepped_dim(dim, growth, stride)
    for n in range(200, 400):
        frames = n
        for growth, stride in steps:
            frames = stepped(frames, growth, stride)
        assert dim is not None
        assert at(dim, {"frames": n}) == frames
    assert isinstance(dim, Extent)
    assert dim.at(dim.least) >= 1
    assert dim.least == 1 or dim.at(dim.least - 1) < 1


def test_what_has_no_form_has_none() -> None:
    twice = FRAMES.multiplied(2)
    assert str(twice) == "2·frames"
    assert stepped_dim(twice, 0, 1) == twice
    assert stepped_dim(twice, 0, 2) is None
    assert stepped_dim(twice, 1, 1) is None
    assert str(stepped_dim(FRAMES, 0, 2)) == "⌊(frames+1)/2⌋"


def test_lengths_count_what_a_convolution_leaves() -> None:
    """Of the same stride and padding, and from the length on that leaves a frame."""
    f = ShapeBackend({"frames": 100, "batch": 1})
    lengths = Shaped("int64", (Extent("batch"),), counts=FRAMES)
    halved = f.add(f.quotient(f.clamp(f.add(lengths, -3), 0, 1 << 62), 2), 1)
    left = stepped_dim(FRAMES, -2, 2)
    assert isinstance(left, Extent)
    assert halved.counts == left
    assert halved.since == left.least == 3
    x = Shaped("uint8", (Extent("batch"), 4, left))
    assert f.time_mask(x, halved).dims == (Extent("batch"), 1, left)
    for other in (lengths, f.add(halved, 1), f.mul(halved, 1), f.clamp(halved, 0, 3)):
        with pytest.raises(ProofError, match="needs lengths that count its frames"):
            f.time_mask(x, other)


@pytest.mark.parametrize("primitive", ["cast", "low_byte", "square", "isqrt", "shift_right", "below_peak"])
def test_no_primitive_reads_a_float_as_an_integer(primitive: str) -> None:
    v = Shaped("float32", (Extent("batch"), 4, FRAMES))
    rest = {"cast": (None,), "shift_right": (3,)}.get(primitive, ())
    with pytest.raises(ProofError, match=f"reads float32 where its {primitive} needs"):
        getattr(ShapeBackend(), primitive)(v, *rest)
