"""The work of one task: load, prepare once, then quantize and listen, a result a cell.

It runs in a process of its own, or on another machine, and gives JSON values.  Whatever goes wrong with a
cell is its result: the others go on.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.deployment.recognizer import OnnxRecognizer, Recognizer, TorchRecognizer
from zeroq_asr.errors import ManifestError, ZeroqError, ZeroqWarning
from zeroq_asr.lines import said
from zeroq_asr.measure.evaluate import count_errors
from zeroq_asr.measure.recognize import Listening
from zeroq_asr.measure.sweep.cells import Cell, Formats, Task
from zeroq_asr.model import AsrModel
from zeroq_asr.pipeline import Prepared, Quantized, prepare, quantize
from zeroq_asr.speech.audio import check_segments
from zeroq_asr.speech.manifest import read_manifest
from zeroq_asr.threads import torch_threads

#: transcripts of the float network, by the name of its cell
References = Mapping[str, list[str]]
Result = dict[str, Any]


def computed(task: Task, references: References, threads: int) -> Iterator[tuple[str, Result]]:
    """Yield name and result of each cell of a task, with so many ``threads``.

    A result is what was measured, or {"error": {"kind", "problem"}}.
    """
    with torch_threads(threads):
        work = _Work(task, references, threads)
        for cell in task.cells:
            yield cell.name, _guarded(lambda cell=cell: work.result(cell))  # type: ignore[misc]


def failure(error: BaseException) -> Result:
    """Return an error as the result of a cell."""
    if isinstance(error, ZeroqError):
        return {"error": {"kind": type(error).__name__, "problem": str(error)}}
    return {"error": {"kind": type(error).__name__, "problem": f"{type(error).__name__}: {said(error)}"}}


def _guarded(work: Callable[[], Result]) -> Result:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ZeroqWarning)
        try:
            result = work()
        # whatever it is, it is one cell's; an interruption is no Exception
        except Exception as error:
            return failure(error)
    ours = [str(one.message) for one in told if issubclass(one.category, ZeroqWarning)]
    return {**result, "warnings": list(dict.fromkeys(ours))}


class _Work:
    """What the cells of a task share, made when the first of them needs it."""

    def __init__(self, task: Task, references: References, threads: int) -> None:
        self._task = task
        self._references = references
        self._threads = threads
        self._model: AsrModel | None = None
        self._prepared: Prepared | None = None
        #: seconds of it
        self._preparing = 0.0
        self._failed: Exception | None = None
        self._quantized: tuple[Formats, Quantized, Recognizer, float] | None = None

    def result(self, cell: Cell) -> Result:
        """Return what was measured of a cell."""
        self._prepare(cell)
        assert self._model is not None
        if cell.formats is None:
            found = self._heard(cell, TorchRecognizer(self._model))
            return {**found, "bytes": self._model.float_bytes, "float_bytes": self._model.float_bytes}
        made, recognizer, seconds = self._made(cell.formats)
        found = self._heard(cell, recognizer)
        return {
            **found,
            "bytes": made.size,
            "float_bytes": made.float_bytes,
            "program_sha256": made.program.digest(),
            "integer_only": not made.islands,
            "seconds": {"prepare": self._preparing, "quantize": seconds, **found["seconds"]},
        }

    def _prepare(self, cell: Cell) -> None:
        """Load the network and, but for float, observe it for every format of the task; once."""
        if self._failed is not None:
            raise self._failed
        if self._model is not None:
            return
        start = time.perf_counter()
        try:
            one = cell.model
            model = load_checkpoint(one.path, config=one.config, loader=one.loader, language=one.language)
            formats = cell.formats
            if formats is not None:
                specs = [other.formats.quant for other in self._task.cells if other.formats is not None]
                self._prepared = prepare(
                    model,
                    spec=specs[0],
                    also=specs[1:],
                    synthesis=formats.synthesis,
                    calibration=formats.calibration,
                    # a table of sources is there to show what they do
                    check_ranges=False,
                )
            self._model = model
        except Exception as error:
            self._failed = error
            raise
        self._preparing = time.perf_counter() - start

    def _made(self, formats: Formats) -> tuple[Quantized, Recognizer, float]:
        """Return the network in a format, made once for all recordings, and the seconds that it took."""
        if self._quantized is None or self._quantized[0] != formats:
            assert self._prepared is not None
            self._quantized = None
            start = time.perf_counter()
            made = quantize(
                self._prepared, spec=formats.quant, training=formats.training, dialect=formats.dialect
            )
            seconds = time.perf_counter() - start
            self._quantized = formats, made, OnnxRecognizer(made, self._threads), seconds
        return self._quantized[1:]

    def _heard(self, cell: Cell, recognizer: Recognizer) -> Result:
        utterances = read_manifest(cell.manifest)
        if not utterances:
            raise ManifestError(cell.manifest, "has no recordings")
        check_segments(utterances)
        start = time.perf_counter()
        run = Listening([recognizer], cuts=False)
        texts = [one.text for one in run.hear(utterances, "listen", lambda *_: None)]
        truth = [u.text for u in utterances if u.text is not None]
        known = len(truth) == len(texts)
        float_texts = texts if cell.formats is None else self._references[cell.reference]
        return {
            "words": count_errors(truth, texts)[0].to_dict() if known else None,
            "agreement": count_errors(float_texts, texts)[0].to_dict(),
            "utterances": len(texts),
            "audio_seconds": run.audio_seconds,
            "seconds": {"evaluate": time.perf_counter() - start},
            **({"texts": texts} if cell.formats is None else {}),
        }
