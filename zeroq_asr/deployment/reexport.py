"""A file that ``quantize`` wrote, written again: the same program, with its frontend in it or without.

Or as ONNX Runtime has optimized it here (``deployment.optimized``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from zeroq_asr.deployment.export import Export, bundle_files, export, write_bundle
from zeroq_asr.deployment.metadata import BUNDLE_FILE, Deployment, require_own_ports
from zeroq_asr.deployment.optimized import optimized as optimized_bytes
from zeroq_asr.deployment.optimized import require_ending
from zeroq_asr.deployment.reading import OnnxSource, bytes_of
from zeroq_asr.deployment.verify import Verified, verified_bytes, verified_file, verified_folder
from zeroq_asr.files import atomic_write_bytes, atomic_write_folder
from zeroq_asr.lines import summary


@dataclass(frozen=True)
class Reexported:
    """What ``reexport`` made; nothing is written before ``write``."""

    #: part → its file; of a CTC network there is one part
    exports: Mapping[str, Export]
    deployment: Deployment
    #: part → SHA-256 of its program, which is what it was
    programs: Mapping[str, str]
    #: part → what ONNX Runtime made of it here; None where files are as they are exported
    optimized: Mapping[str, bytes] | None = None

    def __repr__(self) -> str:
        """Show what it is of and what it takes, on one line."""
        takes = "audio" if self.deployment.with_frontend else "features"
        what = f"{len(self.exports)} programs" if self.optimized is None else "optimized for this machine"
        return summary(self, self.deployment.name, f"takes {takes}", what)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        if len(self.exports) == 1:
            (part, made), *_ = self.exports.items()
            return len(made.to_bytes() if self.optimized is None else self.optimized[part])
        return sum(map(len, bundle_files(self.exports, self.deployment, self.optimized).values()))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file, or a transducer's folder, whole or not at all.

        ConfigError where nothing can be written by that name; a file's ends in .ort if and only if ONNX
        Runtime optimized it.
        """
        if len(self.exports) == 1:
            require_ending(path, optimized=self.optimized is not None)
        if self.optimized is None:
            write_bundle(path, self.exports, self.deployment)
        elif len(self.exports) == 1:
            (data,) = self.optimized.values()
            atomic_write_bytes(path, data)
        else:
            atomic_write_folder(
                path, bundle_files(self.exports, self.deployment, self.optimized), BUNDLE_FILE
            )


def reexport(source: OnnxSource, *, with_frontend: bool | None = None, optimized: bool = False) -> Reexported:
    """Export the program of a file again, or those of a transducer's folder, after verifying them.

    ``with_frontend``: whether the frontend is in the file, which then takes audio in place of features
    (``deployment.frontend_graph``); None: as it is.  Integers are the same either way, and so is the hash of
    the program.

    ``optimized``: write it as ONNX Runtime optimizes it here, in its own format, which loads faster.  Such a
    file is for this release of ONNX Runtime and this kind of processor alone: on others it is refused.  It
    cannot be verified (``deployment.optimized``).

    Raises CheckpointError or VerificationError as ``verify`` does, which knows no qdq files, and ExportError
    for what was written for another runtime.
    """
    where, data = bytes_of(source)
    found: dict[str, Verified]
    if data is None and Path(where).is_dir():
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
    made = None
    if optimized:
        made = {
            part: optimized_bytes(exports[part].model, one.certificate.file_sha256)
            for part, one in found.items()
        }
    return Reexported(exports, deployment, programs, made)
