"""The folder in which a speech runtime takes a CTC network: our file, its tokens, and what else it reads.

sherpa-onnx (offline NeMo CTC models) reads ``model.onnx``, whose metadata says how features are normalized
and subsampled, and ``tokens.txt``.  onnx-asr (``nemo-conformer-ctc``) reads ``model.onnx``, ``vocab.txt`` and
``config.json``.  Both take the inputs in order and ``logprobs`` as the first output, as our files have them,
so ``model.onnx`` is the file itself, byte for byte, and is verified as it is.

Each runtime makes features and joins tokens in its own way.  What it cannot do for a network is refused by
its name; what it does differently is told in words.  The rules are those of the sources of sherpa-onnx 2.0
(``csrc/offline-recognizer-ctc-impl.h``, ``offline-stream.cc``, ``symbol-table.cc``, ``math.cc``, and
kaldi-native-fbank) and of onnx-asr 0.12 (``models/nemo.py``, ``asr.py``, ``preprocessors``).
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.config.choices import ONNX_ASR, RUNTIMES, SHERPA_ONNX
from zeroq_asr.deployment.bundle_recognizer import is_bundle
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.reading import parsed, read_bytes, read_program
from zeroq_asr.deployment.runtime_features import feature_differences
from zeroq_asr.deployment.runtime_tokens import token_differences, vocabulary
from zeroq_asr.deployment.runtimes import oldest_runtime
from zeroq_asr.errors import ConfigError, ExportError
from zeroq_asr.files import atomic_write_folder
from zeroq_asr.integer.apart import reads_behind
from zeroq_asr.integer.backends.base import interpreted
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.program import Program, is_ctc

MODEL = "model.onnx"


@dataclass(frozen=True)
class RuntimeFolder:
    """What a runtime needs of a file, and what it will do otherwise than this package."""

    runtime: str
    name: str
    #: name → content; ``model.onnx`` is the file itself
    files: dict[str, bytes]
    #: what the runtime does otherwise, each a sentence; results may differ by it
    differences: tuple[str, ...]
    #: of the program, which is that of the file
    program_sha256: str
    #: the oldest release of ONNX Runtime that runs the file, which the runtime must have
    onnxruntime: str

    @property
    def model_sha256(self) -> str:
        """SHA-256 of ``model.onnx``."""
        return hashlib.sha256(self.files[MODEL]).hexdigest()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the folder whole or not at all.

        A folder of such files is replaced; ConfigError for one that holds anything else.
        """
        atomic_write_folder(path, self.files, MODEL)


#: why a runtime does not take what is no CTC network
_CTC_ALONE = "{} runs CTC networks of one file"


def runtime_folder(
    path: str | os.PathLike[str], runtime: str, *, own_features: bool = False
) -> RuntimeFolder:
    """Return the folder in which ``runtime`` takes a file of ``quantize``; nothing is written.

    ``runtime``: "sherpa-onnx" or "onnx-asr".  ``own_features``: the caller gives the runtime features that
    are those of the file's frontend, as onnx-asr lets one (``preprocessor_factory``).

    Raises ConfigError for an unknown runtime, CheckpointError or VerificationError for a file that cannot be
    read or is damaged, and ExportError, which names what is missing, where the runtime cannot run it.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(runtime, "is no runtime to write a folder for", f"use {' or '.join(RUNTIMES)}")
    if own_features and runtime != ONNX_ASR:
        raise ConfigError(runtime, "makes its features itself", "leave --own-features out")
    where = os.fspath(path)
    if is_bundle(path):
        raise ExportError(where, _CTC_ALONE.format(runtime), "name the file of a CTC network")
    data = read_bytes(path)
    model = parsed(data, where)
    program, deployment, own = read_program(model, where)
    if not is_ctc(program):
        raise ExportError(where, _CTC_ALONE.format(runtime), "name the file of a CTC network")
    if deployment.with_frontend:
        problem = f"takes audio, and {runtime} gives a file features"
        raise ExportError(where, problem, "write it again: zeroq-asr export --without-frontend")
    told = [] if own_features else feature_differences(where, runtime, deployment.frontend)
    told += token_differences(where, runtime, deployment.tokenizer)
    told += _length_differences(where, runtime, program, deployment)
    if not own_features and (behind := reads_behind(program)):
        told.append(f"frames behind the end reach the result by {behind}, and {runtime} pads otherwise")
    return RuntimeFolder(
        runtime,
        deployment.name,
        {MODEL: data, **_beside(runtime, deployment)},
        tuple(told),
        own["program_sha256"],
        oldest_runtime(model, program, own["dialect"]),
    )


def _beside(runtime: str, deployment: Deployment) -> dict[str, bytes]:
    """The files beside the model."""
    lines = vocabulary(runtime, deployment.tokenizer).encode()
    if runtime == SHERPA_ONNX:
        return {"tokens.txt": lines}
    config = {
        "model_type": "nemo-conformer-ctc",
        "features_size": deployment.frontend.features,
        "subsampling_factor": deployment.subsampling_factor,
    }
    return {"vocab.txt": lines, "config.json": f"{json.dumps(config, indent=1)}\n".encode()}


def _length_differences(where: str, runtime: str, program: Program, deployment: Deployment) -> list[str]:
    """What becomes of the last encoded frames, which the runtime counts by the factor alone."""
    factor = deployment.subsampling_factor
    frames = np.arange(factor, deployment.max_frames + 1)
    given = _encoded(program, frames)
    counted, rule = frames // factor, "⌊n / {}⌋"
    if runtime == ONNX_ASR:
        counted, rule = (frames - 1) // factor + 1, "⌈n / {}⌉"
    rule = rule.format(factor)
    more = np.flatnonzero(counted > given)
    if more.size:
        problem = f"{runtime} reads {rule} encoded frames of n, the network gives {given[more[0]]}"
        raise ExportError(where, f"{problem} of {frames[more[0]]}")
    left = int((given - counted).max())
    return [f"reads {rule} encoded frames of n: up to {left} at the end are left out"] if left else []


def _encoded(program: Program, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many encoded frames a program gives of so many, by those of its instructions that count."""
    assert program.lengths is not None
    made: dict[str, Any] = {program.lengths.value: lengths}
    backend = NumpyBackend()
    for i in program.code:
        if all(name in made for name in i.ins):
            made.update(zip(i.outs, interpreted(backend, i, [made[name] for name in i.ins]), strict=True))
    encoded: npt.NDArray[np.int64] = made[program.output("encoded_lengths").value]
    return encoded
