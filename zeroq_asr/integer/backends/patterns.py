"""The language of ``rearrange``: "b (h e) t -> b h t e" as what every backend does with it.

Left of the arrow stand the axes of the operand, right of it those of the result.  An axis is a letter,
letters in parentheses, which are joined with the last of them fastest, or 1, an axis of one entry.  Both
sides name the same letters, each once.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zeroq_asr.errors import ProofError

#: letters that an axis is joined of; none: an axis of one entry
Axis = tuple[str, ...]

_AXIS = re.compile(r"\(([a-z](?: [a-z])+)\)|([a-z])|1")
_SIDE = re.compile(rf"(?:{_AXIS.pattern})(?: (?:{_AXIS.pattern}))*")


@dataclass(frozen=True)
class Rearrangement:
    """What a pattern says: split the axes into letters, permute the letters, join them into axes.

    It is a reshape to the extents of ``letters``, a transpose by ``permutation``, and a reshape to those of
    ``merged``; axes of one entry come and go with the reshapes.
    """

    pattern: str
    #: axes of the operand
    split: tuple[Axis, ...]
    #: place, among the letters of the operand, of each letter of the result
    permutation: tuple[int, ...]
    #: axes of the result
    merged: tuple[Axis, ...]

    @property
    def letters(self) -> Axis:
        """The letters in the order of the operand."""
        return tuple(letter for axis in self.split for letter in axis)

    @property
    def permuted(self) -> Axis:
        """The letters in the order of the result."""
        return tuple(letter for axis in self.merged for letter in axis)

    @property
    def splits(self) -> bool:
        """Whether it splits an axis of the operand."""
        return any(len(axis) > 1 for axis in self.split)

    @property
    def permutes(self) -> bool:
        """Whether it changes the order of letters."""
        return self.permutation != tuple(range(len(self.permutation)))

    @property
    def merges(self) -> bool:
        """Whether it joins letters into an axis of the result."""
        return any(len(axis) > 1 for axis in self.merged)

    @property
    def inserted(self) -> tuple[int, ...]:
        """Places in the result of its new axes of one entry: those that the operand has come first."""
        ones = [place for place, axis in enumerate(self.merged) if not axis]
        return tuple(ones[sum(not axis for axis in self.split) :])

    @property
    def removed(self) -> tuple[int, ...]:
        """Places in the operand of axes of one entry that the result has not."""
        ones = [place for place, axis in enumerate(self.split) if not axis]
        return tuple(ones[sum(not axis for axis in self.merged) :])

    def extents(self, shape: Sequence[int], sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the extent of every letter, for an operand of ``shape``.

        ``sizes``: of letters, and of joined ones the product under their letters.  Raises ProofError where
        the operand has other axes, or an extent can be told from neither.
        """
        if len(shape) != len(self.split):
            raise self._error(f"an operand of {len(shape)} axes")
        known = {name: size for name, size in sizes.items() if len(name) == 1}
        for axis, extent in zip(self.split, shape, strict=True):
            free = [letter for letter in axis if letter not in known]
            rest = math.prod(known[letter] for letter in axis if letter in known)
            if len(free) > 1 or (free and (rest < 1 or extent % rest)):
                raise self._error(f"no whole extents for {' '.join(axis)} of {extent}")
            if free:
                known[free[0]] = extent // rest
            elif rest != extent:
                raise self._error(f"{extent} entries where {rest} are said to be")
        for name, size in sizes.items():
            if not set(name) <= set(self.letters) or math.prod(known[letter] for letter in name) != size:
                raise self._error(f"an extent of {name} other than {size}")
        return known

    def shapes(
        self, shape: Sequence[int], sizes: Mapping[str, int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the shape before the transpose and that of the result, see ``extents``."""
        known = self.extents(shape, sizes)
        before = tuple(known[letter] for letter in self.letters)
        return before, tuple(math.prod(known[letter] for letter in axis) for axis in self.merged)

    def _error(self, found: str) -> ProofError:
        return ProofError(f"rearrange {self.pattern!r}", f"found {found}")


@functools.lru_cache(maxsize=256)
def parse(pattern: str) -> Rearrangement:
    """Return what a pattern says; ValueError for a text that is none."""
    left, arrow, right = pattern.partition(" -> ")
    if not arrow or not _SIDE.fullmatch(left) or not _SIDE.fullmatch(right):
        raise ValueError(f"{pattern!r} is no pattern like 'b (h e) t -> b h t e'")
    split, merged = _axes(left), _axes(right)
    before, after = ([letter for axis in side for letter in axis] for side in (split, merged))
    if sorted(before) != sorted(after) or len(set(before)) != len(before):
        raise ValueError(f"{pattern!r} has to name the same letters on both sides, each once")
    return Rearrangement(pattern, split, tuple(before.index(letter) for letter in after), merged)


def _axes(side: str) -> tuple[Axis, ...]:
    return tuple(
        tuple((joined or letter).split()) for joined, letter in (m.groups("") for m in _AXIS.finditer(side))
    )
