"""Parity cases: for every operator a list of instructions with adversarial operands.

They come with the records of integer operators (``zeroq_asr.operators.cases`` says what a case is), those of
operators that were registered from outside the package too; ``test_parity`` runs each through every
interpreter and wants equal integers.
"""

from __future__ import annotations

import zeroq_asr.operators  # noqa: F401  (registers them)
from zeroq_asr.operators.cases import MAX_FRAMES, Arrays, Case, edge_bytes, edge_words
from zeroq_asr.registry import INTEGER_OPERATORS

__all__ = ["MAX_FRAMES", "Arrays", "Case", "all_cases", "edge_bytes", "edge_words"]


def all_cases() -> list[Case]:
    """Every case of every integer operator that is registered."""
    return [
        case for record in INTEGER_OPERATORS.values() if record.cases is not None for case in record.cases()
    ]
