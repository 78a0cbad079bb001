"""A file that ``quantize`` wrote, written again: the same program, with its frontend in it or without.

Or as ONNX Runtime has optimized it here (``deployment.optimized``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zeroq_asr.deployment.export import Export, bundle_files, export, write_bundle
from zeroq_asr.deployment.metadata import Deployment, require_own_ports
from zeroq_asr.deployment.optimized import optimized as optimized_bytes
from zeroq_asr.deployment.optimized import require_ending
from zeroq_asr.deployment.reading import OnnxSource, bytes_of
from zeroq_asr.deployment.verify import Verified, verified_bytes, verified_file, verified_folder
from zeroq_asr.errors import ExportError
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.lines import summary


@dataclass(frozen=True)
class Reexported:
    """What ``reexport`` made; nothing is written before ``write``."""

    #: part → its file; of a CTC network there is one part
    exports: Mapping[str, Export]
    deployment: Deployment
    #: part → SHA-256 of its program, which is what it was
    programs: Mapping[str, str]
    #: what ONNX Runtime made of the one part here; None where files are as they are exported
    optimized: bytes | None = None

    def __repr__(self) -> str:
        """Show what it is of and what it takes, on one line."""
        takes = "audio" if self.deployment.with_frontend else "features"
        if self.optimized is not None:
            return summary(self, self.deployment.name, f"takes {takes}", "optimized for this machine")
        return summary(self, self.deployment.name, f"takes {takes}", f"{len(self.exports)} programs")

    @property
    def size(self) -> int:
        """Bytes of all files."""
        if self.optimized is not None:
            return len(self.optimized)
        if len(self.exports) == 1:
            return len(next(iter(self.exports.values())).to_bytes())
        return sum(map(len, bundle_files(self.exports, self.deployment).values()))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, or a transducer's folder, whole or not at all.

        ConfigError where nothing can be written by that name, which ends in .ort if and only if ONNX Runtime
        optimized it.
        """
        require_ending(path, optimized=self.optimized is not None)
        if self.optimized is not None:
            atomic_write_bytes(path, self.optimized)
            return
        write_bundle(path, self.exports, self.deployment)


def reexport(source: OnnxSource, *, with_frontend: bool | None = None, optimized: bool = False) -> Reexported:
    """Export the program of a file again, or those of a transducer's folder, after verifying them.

    ``with_frontend``: whether the frontend is in the file, which then takes audio in place of features
    (``deployment.frontend_graph``); None: as it is.  Integers are the same either way, and so is the hash of
    the program.

    ``optimized``: write it as ONNX Runtime optimizes it here, in its own format, which loads faster.  Such a
    file is for this release of ONNX Runtime and this kind of processor alone: on others it is refused.  It
    cannot be verified (``deployment.optimized``).

    Raises CheckpointError or VerificationError as ``verify`` does, which knows no qdq files, and ExportError
    for what was written for another runtime, and for a folder that is to be optimized.
    """
    where, data = bytes_of(source)
    found: dict[str, Verified]
    if data is None and Path(where).is_dir():
        if optimized:
            raise ExportError(where, "is a folder; a single file can be optimized", "leave --optimized out")
        found = verified_folder(where)[1]
    else:
        one = verified_file(where) if data is None else verified_bytes(where, data)
        found = {one.part: one}
    first = next(iter(found.values()))
    require_own_ports(where, first.deployment)
    if with_frontend is None:
        with_frontend = first.deployment.with_frontend
    deployment = replace(first.deployment, with_frontend=with_frontend)
    exports = {
        part: export(one.program, deployment, one.certificate.dialect, one.certificate.target, part)
        for part, one in found.items()
    }
    programs = {part: one.program_sha256 for part, one in exports.items()}
    source = first.certificate.file_sha256
    made = optimized_bytes(exports[first.part].model, source) if optimized else None
    return Reexported(exports, deployment, programs, made)
