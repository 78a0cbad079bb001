"""The recogniser that ``transcribe`` and ``evaluate`` run: its argument, and opening it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.progress import Progress

Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="An ONNX file, or a checkpoint, which runs in float.")
]


def open_recognizers(
    model: Path,
    count: int,
    *,
    config: Path | None,
    loader: str | None,
    language: str | None,
    head: str,
    beam: zq.BeamSpec | None,
    checkpoint: Path | None,
    threads: int | None,
    progress: Progress,
) -> list[zq.Recognizer | zq.TokenRecognizer]:
    """Open MODEL ``count`` times, for work side by side, in which the cores are shared out."""
    if threads is None and count > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // count)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)  # of the frontend, and of a checkpoint's network
    found = []
    progress("load", 0, count)
    for number in range(count):
        found.append(
            zq.open_recognizer(
                model,
                config=config,
                loader=loader,
                language=language,
                head=head,
                beam=beam,
                checkpoint=checkpoint,
                threads=threads,
            )
        )
        progress("load", number + 1, count)
    return found
