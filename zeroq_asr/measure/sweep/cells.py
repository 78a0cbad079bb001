"""What there is to compute, and what tells one result from another.

A *cell* is one network quantized in one way and heard on one list of recordings.  Beside the cells of a sweep
stand those of the float network, one for each list, whose transcripts the agreement is measured against.

A cell's name is a hash of its *identity*: all that its result depends on.  Files are in it by what they hold,
recordings by size and time of change, so that another file under the same name is another cell.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from zeroq_asr._version import __version__
from zeroq_asr.config import CalibrationSpec, QuantSpec, SweepModel, SweepSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.deployment.machine import settled
from zeroq_asr.errors import CheckpointError
from zeroq_asr.files import open_file
from zeroq_asr.pipeline import preparation
from zeroq_asr.speech.manifest import read_manifest

#: what the bits of the float network are called
FLOAT = "float"


@dataclass(frozen=True)
class Formats:
    """How a network is quantized."""

    #: bits and source of ranges as the file of the sweep spells them, and the seed
    bits: str
    source: str
    seed: int
    quant: QuantSpec
    synthesis: SynthesisSpec
    calibration: CalibrationSpec
    training: TrainingSpec
    dialect: str


@dataclass(frozen=True)
class Cell:
    """One result that is wanted: a network, a list of recordings and, but for the float network, a format."""

    #: hash of what it is, and file name of its result
    name: str
    identity: dict[str, Any]
    model: SweepModel
    manifest: str
    #: None: the float network
    formats: Formats | None
    #: name of the float network's cell on the same recordings; its own where it is that
    reference: str

    @property
    def label(self) -> str:
        """What a reader calls it."""
        parts = [Path(self.model.path).name, Path(self.manifest).name]
        if self.formats is None:
            return ", ".join([parts[0], FLOAT, parts[1]])
        one = self.formats
        return ", ".join([parts[0], one.bits, one.source, f"seed {one.seed}", parts[1]])


@dataclass(frozen=True)
class Task:
    """Cells that one worker computes, one after the other: they share what is slow."""

    cells: tuple[Cell, ...]

    def without(self, done: Iterable[str]) -> Task:
        """Return the task of those cells that are not among ``done``, by name."""
        names = {*done}
        return replace(self, cells=tuple(cell for cell in self.cells if cell.name not in names))


def cells_of(spec: SweepSpec) -> tuple[list[Cell], list[Cell]]:
    """Return the float network's cells, and all others in the order of the sweep's lists.

    Raises ConfigError, ManifestError and AudioError for files that are not there, so that a mistake shows
    before the long work begins.  A checkpoint that is not there is the matter of its cells.
    """
    print_of = functools.cache(fingerprint)
    heard_of = functools.cache(_heard)
    floats, others = [], []
    for model in spec.models:
        # without None, so that what is not said is not part of any name
        whose = {key: value for key, value in asdict(model).items() if value is not None}
        whose["file"] = print_of(model.path)
        if model.config is not None:
            whose["config_file"] = print_of(model.config)
        for manifest in spec.manifests:
            heard = {"path": manifest, "content": heard_of(manifest)}
            floats.append(_cell({"model": whose, "manifest": heard}, model, manifest, None, ""))
        mine = floats[-len(spec.manifests) :]
        for source in spec.calibration:
            for seed in spec.seeds:
                for bits in spec.bits:
                    quant, synthesis, calibration, training = spec.specs(bits, source, seed)
                    formats = Formats(
                        bits, source, seed, settled(quant), synthesis, calibration, training, spec.dialect
                    )
                    how: dict[str, Any] = {
                        "quantization": formats.quant.to_dict(),
                        "synthesis": synthesis.to_dict(),
                        "calibration": calibration.to_dict(),
                        "training": training.to_dict(),
                        "dialect": spec.dialect,
                    }
                    if calibration.kind == "audio":
                        how["calibration_content"] = heard_of(calibration.source)
                    elif calibration.kind == "features":
                        how["calibration_content"] = print_of(calibration.source)
                    for reference in mine:
                        identity = {**reference.identity, **how}
                        others.append(_cell(identity, model, reference.manifest, formats, reference.name))
    return floats, others


def _cell(
    what: dict[str, Any], model: SweepModel, manifest: str, formats: Formats | None, reference: str
) -> Cell:
    # as it is read again from JSON
    identity = json.loads(json.dumps({**what, "version": __version__}))
    name = name_of(identity)
    return Cell(name, identity, model, manifest, formats, reference or name)


def name_of(identity: dict[str, Any]) -> str:
    """Return the name of the cell of an identity, 32 hexadecimal digits; that of a float network says so."""
    prefix = "" if "quantization" in identity else f"{FLOAT}-"
    return prefix + digest(identity)[:32]


def digest(value: Any) -> str:
    """Return the SHA-256 of JSON values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(path: str) -> str:
    """Return the SHA-256 of a file; of a folder that of its files' names, sizes and times.

    Of what is not there, as a name on a hub, or cannot be read, "".
    """
    if not os.path.exists(path):
        return ""
    if os.path.isdir(path):
        files = sorted(one for one in Path(path).rglob("*") if one.is_file())
        return digest([[str(one.relative_to(path)), *_changed(one)] for one in files])
    found = hashlib.sha256()
    try:
        with open_file(path, CheckpointError) as stream:
            while block := stream.read(1 << 20):
                found.update(block)
    except (CheckpointError, OSError):
        return ""
    return found.hexdigest()


def _heard(manifest: str) -> str:
    """Return the SHA-256 of what a list of recordings says, and of their sizes and times."""
    rows = [
        [str(u.audio_path), u.offset, u.duration, u.text, u.channel, *_changed(u.audio_path)]
        for u in read_manifest(manifest)
    ]
    return digest(rows)


def _changed(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def tasks_of(cells: Sequence[Cell], workers: int) -> list[Task]:
    """Return ``cells`` in tasks: those of one network, source and seed together, to be prepared once.

    Where there are fewer of these than workers, their formats are parted among the workers.
    """
    alike: dict[str, list[Cell]] = {}
    for cell in cells:
        one = cell.formats
        key: list[Any] = [asdict(cell.model)]
        if one is not None:
            kept = preparation(one.quant)
            key += [one.synthesis.to_dict(), one.calibration.to_dict(), kept]
        alike.setdefault(digest(key), []).append(cell)
    parts = -(-workers // max(len(alike), 1))
    tasks = []
    for group in alike.values():
        # a format is quantized once for all recordings
        formats: dict[str, list[Cell]] = {}
        for cell in group:
            formats.setdefault("" if cell.formats is None else cell.formats.bits, []).append(cell)
        whole = [*formats.values()]
        size = -(-len(whole) // min(parts, len(whole)))
        for start in range(0, len(whole), size):
            tasks.append(Task(tuple(cell for one in whole[start : start + size] for cell in one)))
    return tasks
