"""What attention of a file takes where it holds the scores of all frames at once."""

from __future__ import annotations

import os
from collections.abc import Mapping

from zeroq_asr.deployment.export import Export
from zeroq_asr.errors import warn
from zeroq_asr.lines import size

#: bytes of one layer's scores above which it is said
_MUCH = 1e9


def warn_of_scores(where: str | os.PathLike[str], exports: Mapping[str, Export], max_seconds: float) -> None:
    """Warn where the longest input that files allow would take a lot of memory for scores at once.

    ``where``: what the warning is about.  Only ``qdq`` files do; others take scores in blocks of rows.
    """
    most = max(one.backend.most_scores for one in exports.values())
    if most > _MUCH:
        dialect = next(iter(exports.values())).backend.dialect
        problem = (
            f"attention in {dialect} holds all scores of a layer at once: {size(most)} at the longest input, "
            f"{max_seconds:g} s"
        )
        warn(where, problem, "say a smaller --max-seconds, or --dialect fused, which takes them in blocks")
