"""sweep(): every combination of networks, formats, sources, seeds and recordings, into a folder of results.

Imported by: cli.
Imports: _version, errors, lines, progress, files, threads, config, speech, model, checkpoints, deployment,
pipeline.
Never imports: cli.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeroq_asr.config import SweepSpec
from zeroq_asr.config.checks import choice, whole
from zeroq_asr.config.choices import LOCAL, RAY, RUNNERS
from zeroq_asr.lines import summary
from zeroq_asr.measure.sweep.cells import FLOAT, Cell, Task, cells_of, tasks_of
from zeroq_asr.measure.sweep.folder import ResultFolder
from zeroq_asr.measure.sweep.local import LocalRunner
from zeroq_asr.measure.sweep.on_ray import RayRunner, ray_module
from zeroq_asr.measure.sweep.runners import Computed, Died, Runner
from zeroq_asr.measure.sweep.work import References, Result
from zeroq_asr.progress import Progress, silent

#: times that a cell is begun whose process dies
_ATTEMPTS = 2


@dataclass(frozen=True)
class SweepRow:
    """A cell, and what came of it."""

    cell: Cell
    #: its result; None where there is none, for it failed
    file: Path | None
    #: what was measured (docs/sweeps.md), or {"error": {"kind", "problem"}}
    result: dict[str, Any]

    @property
    def error(self) -> str | None:
        """What went wrong; None where nothing did."""
        found = self.result.get("error")
        return None if found is None else str(found["problem"])

    def to_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        formats, found = self.cell.formats, self.result
        return {
            "model": self.cell.model.path,
            "bits": FLOAT if formats is None else formats.bits,
            "calibration": None if formats is None else formats.source,
            "seed": None if formats is None else formats.seed,
            "manifest": self.cell.manifest,
            "file": None if self.file is None else str(self.file),
            **{name: found.get(name) for name in _MEASURED},
            "seconds": {name: found.get("seconds", {}).get(name) for name in _STAGES},
            "warnings": found.get("warnings", []),
            "error": found.get("error"),
        }


#: of a result, as they stand there
_MEASURED = (
    "words",
    "agreement",
    "utterances",
    "audio_seconds",
    "bytes",
    "float_bytes",
    "program_sha256",
    "integer_only",
)
_STAGES = ("prepare", "quantize", "evaluate")


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    folder: Path
    #: the float networks, then every combination
    rows: tuple[SweepRow, ...]
    #: rows that were computed, and that were there already
    computed: int
    kept: int

    def __repr__(self) -> str:
        """Show the folder and how many cells it has, on one line."""
        return summary(self, self.folder, f"{len(self.rows)} cells", f"{self.failed} failed")

    @property
    def failed(self) -> int:
        """How many cells have an error in place of a result."""
        return sum(row.error is not None for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "folder": str(self.folder),
            "computed": self.computed,
            "kept": self.kept,
            "failed": self.failed,
            "rows": [row.to_dict() for row in self.rows],
        }


def sweep(
    spec: SweepSpec,
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    on: str = LOCAL,
    progress: Progress = silent,
) -> Sweep:
    """Quantize and evaluate every combination that ``spec`` names, keeping each result in a folder, ``out``.

    Results that are there already are not computed again.  A cell that fails is a row with its error; it is
    not kept, so that the next run tries it again.  ``jobs``: processes side by side, which share the cores;
    a cell whose process dies is run once more.  ``on``: "local", or "ray" for tasks of Ray.

    Raises ConfigError for a folder that holds something else, or that another sweep writes to, and where
    there is no Ray; ManifestError for a list of recordings that cannot be read.
    """
    whole("sweep", "jobs", jobs, 1, 256)
    choice("sweep", "on", on, RUNNERS)
    if on == RAY:
        ray_module()
    floats, others = cells_of(spec)
    with ResultFolder(out).opened(spec) as folder:
        results: dict[str, Result] = {}
        for cell in (*floats, *others):
            found = folder.read(cell)
            if found is not None:
                results[cell.name] = found
        kept = len(results)
        if kept < len(floats) + len(others):
            runner: Runner = LocalRunner(jobs) if on == LOCAL else RayRunner(jobs)
            try:
                for stage, cells in ((FLOAT, floats), ("cells", others)):
                    missing = [cell for cell in cells if cell.name not in results]
                    _compute(runner, missing, folder, results, stage, progress)
            finally:
                runner.close()
    rows = []
    for cell in (*floats, *others):
        result = results[cell.name]
        rows.append(SweepRow(cell, None if "error" in result else folder.file(cell.name), result))
    return Sweep(folder.path, tuple(rows), len(rows) - kept, kept)


def _compute(
    runner: Runner,
    cells: Sequence[Cell],
    folder: ResultFolder,
    results: dict[str, Result],
    stage: str,
    progress: Progress,
) -> None:
    """Add the result of each cell to ``results``, and keep in the folder what is no error."""
    if not cells:
        return
    missing = {cell.name: cell for cell in cells}
    begun: Counter[str] = Counter()

    def done(name: str, result: Result) -> None:
        cell = missing.pop(name)
        results[name] = result if "error" in result else folder.write(cell, result)
        progress(stage, len(cells) - len(missing), len(cells), cell.label)

    def submit(task: Task) -> None:
        needed = {cell.reference for cell in task.cells if cell.formats is not None}
        references: References = {name: results[name]["texts"] for name in needed}
        if task.cells:
            runner.submit(task, references)

    progress(stage, 0, len(cells))
    for cell in cells:
        error = results.get(cell.reference, {}).get("error")
        if error is not None:
            done(cell.name, {"error": {**error, "problem": f"the float network failed: {error['problem']}"}})
    for task in tasks_of([*missing.values()], runner.workers):
        submit(task)
    while missing:
        for event in runner.wait():
            if isinstance(event, Computed):
                done(event.name, event.result)
                continue
            submit(Task(event.others))
            for cell in event.suspects:
                begun[cell.name] += 1
                if begun[cell.name] < _ATTEMPTS:
                    submit(Task((cell,)))
                else:
                    problem = f"its process {event.how}, {_ATTEMPTS} times"
                    done(cell.name, {"error": {"kind": Died.__name__, "problem": problem}})
