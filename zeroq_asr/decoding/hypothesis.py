"""What a decoder finds: tokens, and where each was found."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hypothesis:
    """What was recognised in one utterance: tokens, and the encoded frame at which each was found."""

    tokens: list[int] = field(default_factory=list)
    frames: list[int] = field(default_factory=list)
