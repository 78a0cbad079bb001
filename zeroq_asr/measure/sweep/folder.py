"""The folder of a sweep's results: a JSON file for each cell, written whole or not at all.

``sweep.json`` says what was asked for last.  A result carries the identity of its cell and a checksum, so
that one that was damaged, or put there under another name, is found out.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zeroq_asr.config import SweepSpec
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.files import atomic_write_bytes, read_file
from zeroq_asr.measure.sweep.cells import Cell, digest, name_of

#: what is asked for, and the file that is locked while a sweep runs
INDEX, LOCK = "sweep.json", ".lock"
#: of a result's file
_VERSION = 1
#: bytes of a result: transcripts of a float network are the largest
_MOST = 1 << 30


class ResultFolder:
    """The results of the cells of sweeps, by the name of the cell."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    @contextmanager
    def opened(self, spec: SweepSpec) -> Iterator[ResultFolder]:
        """Hold the folder, made if need be, until the end of the block.

        Raises ConfigError where it cannot be made, holds something else, or another sweep holds it.
        """
        try:
            self.path.mkdir(exist_ok=True)
            there = [one.name for one in self.path.iterdir()]
        except OSError as error:
            problem = f"cannot be used as a folder ({error.strerror or error})"
            raise ConfigError(self.path, problem, "choose another --output") from None
        if there and INDEX not in there and {*there} != {LOCK}:
            raise ConfigError(
                self.path, "holds something else than results of a sweep", "choose another --output"
            )
        try:
            handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error})"
            raise ConfigError(self.path, problem, "choose another --output") from None
        try:
            try:
                # the system lets go of it however this process ends
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                problem = "is being written by another sweep"
                raise ConfigError(self.path, problem, "wait for it, or choose another --output") from None
            text = json.dumps({"version": _VERSION, **spec.to_dict()}, indent=2)
            atomic_write_bytes(self.path / INDEX, text.encode() + b"\n")
            yield self
        finally:
            os.close(handle)

    def file(self, name: str) -> Path:
        """Return where the result of a cell of that name lies."""
        return self.path / f"{name}.json"

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return the result of a cell; None where there is none, or, with a ZeroqWarning, a damaged one."""
        path = self.file(cell.name)
        if not os.path.lexists(path):
            return None
        try:
            found = json.loads(read_file(path, ConfigError, _MOST))
            claimed = found["sha256"]
            content = {key: found[key] for key in ("version", "identity", "result")}
            sound = claimed == digest(content) and name_of(found["identity"]) == cell.name
        except (ConfigError, ValueError, TypeError, KeyError, RecursionError):
            sound = False
        if not sound or content["version"] != _VERSION:
            warn(path, "is damaged, or no result of this cell: it is computed again")
            return None
        result: dict[str, Any] = content["result"]
        return result

    def write(self, cell: Cell, result: dict[str, Any]) -> dict[str, Any]:
        """Keep the result of a cell; return it as ``read`` will."""
        content = json.loads(json.dumps({"version": _VERSION, "identity": cell.identity, "result": result}))
        text = json.dumps({**content, "sha256": digest(content)}, indent=1)
        atomic_write_bytes(self.file(cell.name), text.encode() + b"\n")
        kept: dict[str, Any] = content["result"]
        return kept
