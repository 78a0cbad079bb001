"""The folder in which a speech runtime takes a network: our files, its tokens, and what else it reads.

sherpa-onnx (offline NeMo CTC models) reads ``model.onnx``, whose metadata says how features are normalized
and subsampled, and ``tokens.txt``.  onnx-asr (``nemo-conformer-ctc``) reads ``model.onnx``, ``vocab.txt`` and
``config.json``.  Both take the inputs in order and ``logprobs`` as the first output, as our files have them,
so ``model.onnx`` is the file itself, byte for byte, and is verified as it is.

Of a transducer, sherpa-onnx (offline NeMo transducers) runs encoder, decoder and joiner, and onnx-asr
(``nemo-conformer-rnnt``, ``nemo-conformer-tdt``) an encoder and a decoder and joiner in one.  Their ports are
float32, so these files are written anew, of the same integer programs (``deployment.runtime_ports``), and
``bundle.json`` beside them says how they belong together: the folder is verified as any bundle is.

Each runtime makes features and joins tokens in its own way.  What it cannot do for a network is refused by
its name; what it does differently is told in words.  The rules are those of the sources of sherpa-onnx 2.0
(``csrc/offline-recognizer-ctc-impl.h``, ``offline-recognizer-transducer-nemo-impl.h``,
``offline-transducer-nemo-model.cc``, ``offline-transducer-greedy-search-nemo-decoder.cc``,
``offline-stream.cc``, ``symbol-table.cc``, ``text-utils.cc``, ``math.cc``, and kaldi-native-fbank) and of
onnx-asr 0.12 (``models/nemo.py``, ``asr.py``, ``preprocessors``).
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zeroq_asr.config.choices import ONNX_ASR, RUNTIMES, SHERPA_ONNX
from zeroq_asr.deployment.export import bundle_files, export_bundle
from zeroq_asr.deployment.metadata import (
    BUNDLE_FILE,
    Decoding,
    Deployment,
    RuntimePorts,
    require_own_ports,
)
from zeroq_asr.deployment.reading import parsed, read_bytes, read_program
from zeroq_asr.deployment.runtime_features import feature_differences
from zeroq_asr.deployment.runtime_layout import DECODER_JOINT, MODEL, VOCABULARIES, texts
from zeroq_asr.deployment.runtime_ports import lstm_states
from zeroq_asr.deployment.runtime_tokens import token_differences
from zeroq_asr.deployment.runtimes import oldest_runtime
from zeroq_asr.deployment.verify import verified_folder
from zeroq_asr.errors import ConfigError, ExportError
from zeroq_asr.files import atomic_write_folder
from zeroq_asr.integer.apart import reads_behind
from zeroq_asr.integer.backends.base import interpreted
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.joined import joined
from zeroq_asr.integer.program import Program, is_ctc

#: tokens that sherpa-onnx takes of one encoded frame at most, of a transducer without durations and with them
_MOST_SYMBOLS = (10, 5)


@dataclass(frozen=True)
class RuntimeFolder:
    """What a runtime needs of a file, and what it will do otherwise than this package."""

    runtime: str
    name: str
    #: name → content; a CTC network's ``model.onnx`` is the file itself
    files: dict[str, bytes]
    #: what the runtime does otherwise, each a sentence; results may differ by it
    differences: tuple[str, ...]
    #: of the program, which is that of the file; of a transducer that of all its programs
    program_sha256: str
    #: the oldest release of ONNX Runtime that runs the file, which the runtime must have
    onnxruntime: str

    @property
    def index(self) -> str:
        """The file that stands for all: ``model.onnx``, or a transducer's ``bundle.json``."""
        return MODEL if MODEL in self.files else BUNDLE_FILE

    @property
    def model_sha256(self) -> str:
        """SHA-256 of ``model.onnx``; of a transducer that of ``bundle.json``, which has those of all."""
        return hashlib.sha256(self.files[self.index]).hexdigest()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the folder whole or not at all.

        A folder of such files is replaced; ConfigError for one that holds anything else.
        """
        # a transducer's own bundle has no list of tokens, so it is never replaced
        atomic_write_folder(path, self.files, VOCABULARIES[self.runtime])


def runtime_folder(
    path: str | os.PathLike[str], runtime: str, *, own_features: bool = False
) -> RuntimeFolder:
    """Return the folder in which ``runtime`` takes what ``quantize`` wrote; nothing is written.

    A CTC network's file, or a transducer's folder, which is verified first.

    ``runtime``: "sherpa-onnx" or "onnx-asr".  ``own_features``: the caller gives the runtime features that
    are those of the file's frontend, as onnx-asr lets one (``preprocessor_factory``).

    Raises ConfigError for an unknown runtime, CheckpointError or VerificationError for a file that cannot be
    read or is damaged, and ExportError, which names what is missing, where the runtime cannot run it.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(runtime, "is no runtime to write a folder for", f"use {' or '.join(RUNTIMES)}")
    if own_features and runtime != ONNX_ASR:
        raise ConfigError(runtime, "makes its features itself", "leave --own-features out")
    if os.path.isdir(path):
        return _of_transducer(Path(path), runtime, own_features)
    where, data = os.fspath(path), read_bytes(path)
    model = parsed(data, where)
    program, deployment, own = read_program(model, where)
    if not is_ctc(program):
        problem = f"{runtime} runs CTC networks of one file, and transducers"
        raise ExportError(where, problem, "name a CTC network's file, or a transducer's folder")
    _require_features(where, runtime, deployment)
    told = _differences(where, runtime, deployment, own_features)
    told += _length_differences(where, runtime, program, deployment)
    told += _behind(runtime, reads_behind(program), own_features)
    return RuntimeFolder(
        runtime,
        deployment.name,
        {MODEL: data, **texts(runtime, deployment)},
        tuple(told),
        own["program_sha256"],
        oldest_runtime(model, program, own["dialect"]),
    )


def _require_features(where: str, runtime: str, deployment: Deployment) -> None:
    """Raise ExportError for files that take audio."""
    if deployment.with_frontend:
        problem = f"takes audio, and {runtime} gives a file features"
        raise ExportError(where, problem, "write it again: zeroq-asr export --without-frontend")


def _differences(where: str, runtime: str, deployment: Deployment, own_features: bool) -> list[str]:
    """What becomes of features and of tokens."""
    told = [] if own_features else feature_differences(where, runtime, deployment.frontend)
    transducer = deployment.decoding is not None
    return told + token_differences(where, runtime, deployment.tokenizer, transducer=transducer)


def _behind(runtime: str, instruction: str, own_features: bool) -> list[str]:
    """What padding changes, where an instruction may read frames behind an utterance's end."""
    if own_features or not instruction:
        return []
    return [f"frames behind the end reach the result by {instruction}, and {runtime} pads otherwise"]


def _of_transducer(folder: Path, runtime: str, own_features: bool) -> RuntimeFolder:
    """Return the folder of a transducer's bundle, which is verified first."""
    certificate, found = verified_folder(folder)
    bundle = Bundle({part: one.program for part, one in found.items()})
    deployment = next(iter(found.values())).deployment
    require_own_ports(folder, deployment)
    decoding = deployment.decoding
    if decoding is None:
        raise ExportError(folder, f"{runtime} runs no such bundle", "name that of a transducer")
    _require_features(str(folder), runtime, deployment)
    told = _differences(str(folder), runtime, deployment, own_features)
    told += _decoding_differences(folder, runtime, decoding)
    predictor = bundle.programs["predictor"]
    if not predictor.states:
        problem = f"its predictor reads its last labels alone, and {runtime} keeps the states of an LSTM"
        raise ExportError(folder, problem, "decode it by `transcribe`")
    hidden, _ = lstm_states(predictor)
    ports = RuntimePorts(runtime, len(hidden), int(hidden[0].dims[1]))
    deployment = replace(deployment, runtime_ports=ports)
    if runtime == ONNX_ASR:
        both = joined(bundle, "predictor", "joiner")
        bundle = Bundle({"encoder": bundle.programs["encoder"], DECODER_JOINT: both})
    exports = export_bundle(bundle, deployment, certificate.dialect, certificate.target)
    behind = reads_behind(bundle.programs["encoder"])
    return RuntimeFolder(
        runtime,
        deployment.name,
        bundle_files(exports, deployment),
        (*told, *_behind(runtime, behind, own_features)),
        bundle.digest(),
        certificate.onnxruntime,
    )


def _decoding_differences(folder: Path, runtime: str, decoding: Decoding) -> list[str]:
    """What the runtime decodes otherwise; ExportError for durations that it does not know."""
    durations = decoding.durations
    if durations != (*range(len(durations)),):
        problem = f"{runtime} goes on by the number of the best duration, and they are {list(durations)}"
        raise ExportError(folder, problem, "decode it by `transcribe`")
    most = _MOST_SYMBOLS[bool(durations)]
    if runtime != SHERPA_ONNX or decoding.max_symbols == most:
        return []
    return [f"takes at most {most} tokens of one encoded frame, the network's are {decoding.max_symbols}"]


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
