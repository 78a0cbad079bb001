"""A Program and all that surrounds it, as one ONNX file.

Inputs ``audio_signal`` float32 [batch, mels, frames] and ``length`` int64 [batch]; outputs
``logprobs`` float32 [batch, encoded, tokens], ``logits`` int32 (the integers), ``encoded_lengths``
int64 [batch].  ``logprobs`` comes first because runtimes for NeMo CTC models take outputs in order.
The metadata carries the keys those runtimes read and, under ``zeroq_asr``, one JSON object from
which the program, the frontend and the tokens are read back.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from zeroq_asr._version import __version__
from zeroq_asr.errors import ExportError
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_qdq import OnnxQdqBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Program, canonical_json
from zeroq_asr.integer.types import I32, IntType
from zeroq_asr.integer.wellformed import check
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

#: key of our own JSON object in the file's metadata
METADATA_KEY = "zeroq_asr"
#: version of that object's layout
FORMAT = 1
DIALECTS = ("fused", "strict", "qdq")
#: BitwiseAnd and Shape slices need opset 18; ONNX Runtime has kernels for Min on bytes since 1.24
OPSET, IR_VERSION = 18, 8

#: what a target promises about the products that the fused kernels form
TARGET_BOUNDS = {
    "x86-any": "signed weights of which two neighbours of one sign add up to at most 2^15 / 255 = 128, so no "
    "int16 pair saturates on any x86, or unsigned ones; depthwise kernels widen both factors first",
    "x86-vnni": "signed weights at full range: exact only where the CPU multiplies u8 x s8 into int32 (VNNI)",
    "arm": "signed weights at full range: exact where the CPU multiplies u8 x s8 into int32 (ARM)",
}


@dataclass(frozen=True)
class Deployment:
    """All of a model that is not its program: what a runtime needs beside the integers."""

    name: str
    frontend: FrontendConfig
    tokenizer: Tokenizer
    max_seconds: float
    subsampling_factor: int
    #: the specifications it was made by, for the record
    recipe: dict[str, Any] = field(default_factory=dict)

    @property
    def max_frames(self) -> int:
        """Frames of the longest audio that is promised."""
        return math.ceil(self.max_seconds * self.frontend.frames_per_second) + 1

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "name": self.name,
            "frontend": self.frontend.to_dict(),
            "tokenizer": self.tokenizer.to_dict(),
            "max_seconds": self.max_seconds,
            "subsampling_factor": self.subsampling_factor,
            "recipe": self.recipe,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Deployment:
        """Rebuild what ``to_dict`` wrote."""
        return cls(
            name=data["name"],
            frontend=FrontendConfig.from_dict(data["frontend"]),
            tokenizer=Tokenizer.from_dict(data["tokenizer"]),
            max_seconds=data["max_seconds"],
            subsampling_factor=data["subsampling_factor"],
            recipe=data["recipe"],
        )


@dataclass(frozen=True)
class Export:
    """A finished model and what its builder found out on the way."""

    model: onnx.ModelProto
    backend: OnnxStrictBackend

    def to_bytes(self) -> bytes:
        """Serialize; equal models give equal bytes."""
        return self.model.SerializeToString(deterministic=True)


def export(program: Program, deployment: Deployment, dialect: str, target: str = "x86-any") -> Export:
    """Spell ``program`` in a dialect.  The interval proof runs on the way: ProofError if it fails.

    ``target`` decides how the fused kernels' weights are stored (see ``TARGET_BOUNDS``); strict and
    qdq do not depend on it.  Raises ExportError for an unknown dialect or target.
    """
    backend = _backend(program, dialect, target)
    logits, encoded = build(backend, program)
    _check_interface(program, deployment, logits.interval.type)
    scale = program.values[program.outputs[0]].scale
    backend.store("logits/scale", np.array(scale, dtype=np.float32))
    nodes = [
        *backend.nodes,
        helper.make_node("Identity", [logits.name], ["logits"], name="logits"),
        helper.make_node("Identity", [encoded.name], ["encoded_lengths"], name="encoded_lengths"),
        helper.make_node("Cast", ["logits"], ["logits/float"], name="logits/float", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["logits/float", "logits/scale"], ["logits/real"], name="logits/real"),
        helper.make_node("LogSoftmax", ["logits/real"], ["logprobs"], name="logprobs", axis=-1),
    ]
    tokens = len(deployment.tokenizer.tokens) + 1
    graph = helper.make_graph(
        nodes,
        "zeroq_asr",
        [
            _tensor("audio_signal", TensorProto.FLOAT, ["batch", program.channels, "frames"]),
            _tensor("length", TensorProto.INT64, ["batch"]),
        ],
        [
            _tensor("logprobs", TensorProto.FLOAT, ["batch", "encoded", tokens]),
            _tensor("logits", TensorProto.INT32, ["batch", "encoded", tokens]),
            _tensor("encoded_lengths", TensorProto.INT64, ["batch"]),
        ],
        list(backend.initializers.values()),
        value_info=backend.value_infos(),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
        ir_version=IR_VERSION,
        producer_name="zeroq-asr",
        producer_version=__version__,
    )
    for key, value in _metadata(program, deployment, backend, dialect, target).items():
        model.metadata_props.add(key=key, value=value)
    return Export(model, backend)


def _check_interface(program: Program, deployment: Deployment, kind: IntType) -> None:
    """The program fits what is around it: mels in, a logit a token out, and the audio that is promised."""
    name, seconds = program.outputs[0], deployment.max_seconds
    made = {i.out: i for i in program.code}
    last = made.get(name)
    if kind is not I32 or last is None or last.op != "transpose" or last.attrs["perm"] != (0, 2, 1):
        raise ExportError(name, f"the logits must be int32 [B, S, V], found {kind.name}")
    tokens = len(deployment.tokenizer.tokens) + 1
    channels = check(program)[last.ins[0]]
    if channels != tokens:
        raise ExportError(name, f"has {channels} channels for {tokens} tokens, the blank among them")
    if deployment.frontend.features != program.channels:
        problem = (
            f"the frontend gives {deployment.frontend.features} mels, the program takes {program.channels}"
        )
        raise ExportError(deployment.name, problem)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
    if not number or not 0 < deployment.max_frames <= program.max_frames:
        raise ExportError(
            deployment.name,
            f"promises {seconds!r} s of audio, the program is proven for {program.max_frames} frames",
        )


def _backend(program: Program, dialect: str, target: str) -> OnnxStrictBackend:
    if target not in TARGET_BOUNDS:
        raise ExportError(target, "unknown target", f"choose one of {', '.join(TARGET_BOUNDS)}")
    if dialect in ("strict", "qdq") and (floats := islands(program)):
        raise ExportError(
            ", ".join(island.name for island in floats),
            f"{dialect} cannot hold what is kept in float",
            "export fused, or quantize without --keep-float and --allow-float",
        )
    if dialect == "strict":
        return OnnxStrictBackend(target)
    if dialect == "qdq":
        return OnnxQdqBackend(program, target)
    if dialect != "fused":
        raise ExportError(dialect, "unknown dialect", f"choose one of {', '.join(DIALECTS)}")
    return OnnxFusedBackend(target)


def _metadata(
    program: Program, deployment: Deployment, backend: OnnxStrictBackend, dialect: str, target: str
) -> dict[str, str]:
    own = {
        "format": FORMAT,
        "version": __version__,
        "dialect": dialect,
        "target": target,
        **deployment.to_dict(),
        "program": program.to_json(),
        "encodings": {k: list(v) for k, v in backend.encodings.items()},
        "program_sha256": program.digest(),
    }
    own["metadata_sha256"] = metadata_digest(own)
    normalize = deployment.frontend.normalize
    only = "not integer-only" if islands(program) else "integer-only"
    kind = "EncDecCTCModel" if deployment.tokenizer.kind == "characters" else "EncDecCTCModelBPE"
    return {
        "comment": f"{only}, {dialect}; made by zeroq-asr without data",
        "model_author": "zeroq-asr",
        "model_type": kind,
        "normalize_type": normalize if isinstance(normalize, str) else "",
        "subsampling_factor": str(deployment.subsampling_factor),
        "version": "1",
        "vocab_size": str(len(deployment.tokenizer.tokens)),
        METADATA_KEY: canonical_json(own).decode(),
    }


def metadata_digest(own: dict[str, Any]) -> str:
    """SHA-256 of our JSON object without this digest itself."""
    rest = {k: v for k, v in own.items() if k != "metadata_sha256"}
    return hashlib.sha256(canonical_json(json.loads(json.dumps(rest)))).hexdigest()


def _tensor(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
