"""Verification of what ``quantize`` wrote: is it the proven integer program that it says it is?

Two statements are made: *the integer program is proven* (the interval proof holds for every input
up to the stated length), and *the dialect* (strict: no float type between the quantizer and the
logits; fused: floats only inside the listed kernels, under conditions that make them exact).  What the
user kept in float makes a program that is not integer-only: the certificate lists these islands, and all
else is proven.

The program is rebuilt from the file itself (its instructions from the metadata, its constants from
the initializers, where they are stored once), exported again, and the result must equal the file
byte for byte; then the proof runs.  So every bit of the graph is accounted for.  Of a bundle's folder that
holds for every file, and for the list of them, which is made again from what they hold; so are the texts that
another runtime reads beside them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zeroq_asr._version import __version__
from zeroq_asr.checkpoints import is_huggingface
from zeroq_asr.deployment import frontend_graph, runtime_ports
from zeroq_asr.deployment.certificate import Certificate as Certificate
from zeroq_asr.deployment.certificate import of_parts
from zeroq_asr.deployment.export import (
    BUNDLE_FILE,
    TARGET_BOUNDS,
    Deployment,
    Export,
    bundle_files,
    export,
)
from zeroq_asr.deployment.float_tensors import float_tensors, makers, makers_around
from zeroq_asr.deployment.parts import PARTS, check_transducer
from zeroq_asr.deployment.reading import (
    CHECKPOINT_REMEDY,
    REMEDY,
    OnnxSource,
    bytes_of,
    parsed,
    read_bytes,
    read_program,
)
from zeroq_asr.deployment.reading import load_onnx as load_onnx
from zeroq_asr.deployment.runtime_layout import TEXTS, file_of
from zeroq_asr.deployment.runtimes import oldest_runtime, packings_of
from zeroq_asr.errors import ConfigError, ExportError, ProofError, VerificationError, ZeroqError
from zeroq_asr.integer.apart import reads_behind
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_loops import every_node
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import check_boundaries, prove


@dataclass(frozen=True)
class Verified:
    """A file that is what it says: its certificate, and what it was made of."""

    certificate: Certificate
    part: str
    program: Program
    deployment: Deployment
    exported: Export


def verify(source: OnnxSource) -> Certificate:
    """Verify what ``quantize`` or ``write_bundle`` wrote, a file or a folder, and return its certificate.

    The bytes of a file, and what ``quantize`` returned, are verified as the file would be.

    Raises VerificationError, saying what differs, when a file is not exactly the export of the
    program that it holds, a folder not exactly the bundle of the programs in it, a program's proof fails, or
    programs hand each other integers of different grids;
    CheckpointError when something cannot be read.
    """
    where, data = bytes_of(source)
    if data is not None:
        return verified_bytes(where, data).certificate
    path = Path(where)
    if path.is_dir():
        # onnx-asr has a config.json, too
        if is_huggingface(path) and not (path / BUNDLE_FILE).exists():
            problem = "is the folder of a Hugging Face model, an ONNX file was expected"
            raise VerificationError(path, problem, CHECKPOINT_REMEDY)
        return verified_folder(path)[0]
    return verified_file(where).certificate


def verified_file(path: str | os.PathLike[str]) -> Verified:
    """Verify a file, and return what it was made of; raises as ``verify``."""
    # what is verified is what was read: nobody can change the file in between
    return verified_bytes(os.fspath(path), read_bytes(path))


def verified_bytes(where: str, data: bytes) -> Verified:
    """Verify what a file holds, and return what it was made of; raises as ``verify``."""
    model = parsed(data, where)
    try:
        return _verified(model, data, where)
    except VerificationError:
        raise
    except ZeroqError as error:
        raise VerificationError(where, f"the program is not proven: {error}", REMEDY) from None
    # a file may hold anything, so whatever reading it back raises says that it is not one of ours
    except Exception as error:
        problem = f"its program cannot be rebuilt ({type(error).__name__})"
        raise VerificationError(where, problem, REMEDY) from None


def _verified(model: onnx.ModelProto, data: bytes, where: str) -> Verified:
    program, deployment, own = read_program(model, where)
    dialect, target, part = (own[key] for key in ("dialect", "target", "part"))
    if dialect == "qdq":
        raise VerificationError(where, "the qdq spelling is not exact, so it has no certificate")
    # no number of a damaged file is worth a warning
    with np.errstate(all="ignore"):
        proof = prove(program)
        again = export(program, deployment, dialect, target, part)
    _require_equal(model, data, again, where, own.get("version"))
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = str(error).strip().splitlines()[0]
        raise VerificationError(where, f"is not valid ONNX ({reason})", REMEDY) from None
    floats, backend = float_tensors(model), again.backend
    if dialect == "strict" and floats:
        raise VerificationError(where, f"strict, but {floats[0]} is a float tensor", REMEDY)
    kernels = backend.conditions if isinstance(backend, OnnxFusedBackend) else {}
    inside = backend.island_tensors if isinstance(backend, OnnxFusedBackend) else set()
    # a kernel's multipliers, which packed ones are widened to, are constants like any others
    carriers = [name for name in floats if name not in inside | backend.constant_tensors]
    certificate = Certificate(
        file=where,
        name=deployment.name,
        dialect=dialect,
        target=target,
        target_bound=TARGET_BOUNDS[target] if dialect == "fused" else "",
        program_sha256=own["program_sha256"],
        file_sha256=hashlib.sha256(data).hexdigest(),
        max_seconds=deployment.max_seconds,
        proof=proof,
        reads_behind=reads_behind(program),
        nodes=dict(Counter(n.op_type for n in every_node(model.graph))),
        spellings=backend.spellings,
        kernels={kernel: list(conditions) for kernel, conditions in kernels.items()},
        islands=islands(program),
        float_tensors=carriers,
        float_makers=makers(model, carriers),
        frontend=makers_around(model, frontend_graph.PREFIX),
        runtime=deployment.runtime_ports.runtime if deployment.runtime_ports else "",
        ports=makers_around(model, runtime_ports.PREFIX),
        onnxruntime=oldest_runtime(model, program, dialect),
        packings=packings_of(program),
    )
    return Verified(certificate, part, program, deployment, again)


def verified_folder(path: str | os.PathLike[str]) -> tuple[Certificate, dict[str, Verified]]:
    """Verify a bundle's folder; returns its certificate, and part → what its file was made of."""
    folder, where = Path(path), os.fspath(path)
    listed = read_bytes(folder / BUNDLE_FILE)
    files = sorted(file for file in folder.iterdir() if file.name not in (BUNDLE_FILE, *TEXTS))
    each = {file: verified_file(file) for file in files}
    for file, one in each.items():
        if file.name != file_of(one.part, one.deployment.runtime_ports):
            raise VerificationError(file, f"is the part {one.part!r} of a bundle", REMEDY)
    # as what is said goes through them, of files in any order
    place = {part: number for number, part in enumerate(PARTS)}
    found = {one.part: one for one in sorted(each.values(), key=lambda one: place.get(one.part, len(place)))}
    first = next(iter(found.values()), None)
    try:
        bundle = Bundle({name: one.program for name, one in found.items()})
        assert first is not None
        check_boundaries(bundle, {name: one.certificate.proof for name, one in found.items()})
        check_transducer(bundle, first.deployment)
    except ConfigError as error:
        raise VerificationError(where, error.problem, REMEDY) from None
    except (ProofError, ExportError) as error:
        raise VerificationError(where, f"its programs do not fit each other: {error}", REMEDY) from None
    made = bundle_files({name: one.exported for name, one in found.items()}, first.deployment)
    if made[BUNDLE_FILE] != listed:
        raise VerificationError(folder / BUNDLE_FILE, "does not list the files beside it as they are", REMEDY)
    for file, one in each.items():
        same = one.deployment == first.deployment and one.certificate.dialect == first.certificate.dialect
        if not same or one.certificate.target != first.certificate.target:
            raise VerificationError(file, "was not exported with the others", REMEDY)
    _require_texts(folder, made)
    parts = {name: one.certificate for name, one in found.items()}
    return of_parts(where, bundle.digest(), hashlib.sha256(listed).hexdigest(), parts), found


def _require_texts(folder: Path, made: Mapping[str, bytes]) -> None:
    """Require the texts that a runtime reads beside a bundle's files, and no others."""
    for name in TEXTS:
        file = folder / name
        if not file.exists() and name not in made:
            continue
        if name not in made or read_bytes(file) != made[name]:
            raise VerificationError(file, "is not what the files beside it make of their tokens", REMEDY)


def _require_equal(model: onnx.ModelProto, data: bytes, again: Export, where: str, version: Any) -> None:
    expected = again.to_bytes()
    if data == expected:
        return
    if model.SerializeToString(deterministic=True) == expected:
        raise VerificationError(where, "the file holds bytes that are no part of its graph", REMEDY)
    difference = _first_difference(model, again.model)
    if version != __version__:
        difference += f" (written by version {version}, checked by {__version__})"
    raise VerificationError(where, f"the graph is not the export of its program: {difference}", REMEDY)


def _first_difference(found: onnx.ModelProto, expected: onnx.ModelProto) -> str:
    for kind in ("node", "initializer", "input", "output"):
        ours, theirs = getattr(found.graph, kind), getattr(expected.graph, kind)
        for a, b in zip(ours, theirs, strict=False):
            if a != b:
                return f"{kind} {a.name or a.op_type!r} differs from what the program exports"
        if len(ours) != len(theirs):
            return f"{len(ours)} {kind}s where the program exports {len(theirs)}"
    keys = {p.key: p.value for p in found.metadata_props}
    for p in expected.metadata_props:
        if keys.pop(p.key, None) != p.value:
            return f"metadata {p.key!r} was changed"
    return f"metadata {sorted(keys)} was added" if keys else "a field outside of graph and metadata differs"
