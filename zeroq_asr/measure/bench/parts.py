"""Transducers as what is measured: the whole recogniser on speech, and its parts alone.

The whole one decodes greedily, and how long that takes depends on what is said.  So it hears speech, the
clips that come with the package, as the recogniser's own frontend hears them: noise would say too little or,
to a network that hears words in it, too much.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zeroq_asr.decoding.transducer import MOST_AHEAD
from zeroq_asr.deployment.bundle_recognizer import IntegerTransducer, part_file
from zeroq_asr.deployment.float_files import File, size, source
from zeroq_asr.deployment.metadata import own_metadata
from zeroq_asr.deployment.optimized import ENDING, is_optimized
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.sessions import open_session, read_metadata
from zeroq_asr.deployment.transducer import AnyTransducer
from zeroq_asr.embedded import embedded_files
from zeroq_asr.errors import CheckpointError
from zeroq_asr.files import read_file, temporary_folder
from zeroq_asr.integer.bundle import NETWORK
from zeroq_asr.measure.bench.contenders import Contender, Features, Run
from zeroq_asr.speech.audio import AudioReader
from zeroq_asr.speech.frontend import Frontend, FrontendConfig
from zeroq_asr.speech.manifest import read_manifest

#: what of a transducer is run
RECOGNISER, ENCODER, PREDICTOR, JOINER, JOINER_AHEAD = (
    "recogniser",
    "encoder",
    "predictor",
    "joiner",
    "joiner ahead",
)
#: what is run → in words, with the seconds of audio in place of {}
RUNS = {
    NETWORK: "{:g} s of audio",
    RECOGNISER: "the whole recogniser, {:g} s of speech decoded greedily",
    ENCODER: "encoder, {:g} s of speech",
    PREDICTOR: "predictor, one step",
    JOINER: "joiner, one frame",
    JOINER_AHEAD: f"joiner, {MOST_AHEAD} frames at once",
}
#: what takes no features, and how many utterances or frames it takes at once
STEPS = {PREDICTOR: 1, JOINER: 1, JOINER_AHEAD: MOST_AHEAD}

#: type of an input, as ONNX Runtime calls it → numpy's
_TYPES = {f"tensor({name})": name for name in ("int32", "int64", "int8", "uint8")} | {
    "tensor(float)": "float32"
}


def spoken(frontend: FrontendConfig, seconds: float) -> Features:
    """Return features [1, M, T] of the speech that comes with the package, clip behind clip."""
    count = max(round(seconds * frontend.sample_rate), frontend.min_samples)
    clips: list[np.ndarray] = []
    with AudioReader(frontend.sample_rate) as read:
        for utterance in read_manifest(embedded_files().test):
            clips.append(read(utterance))
            if sum(map(len, clips)) >= count:
                break
    features, length = Frontend(frontend)(np.resize(np.concatenate(clips), count), "speech")
    return np.ascontiguousarray(features[None, :, :length])


def whole(
    label: str,
    dialect: str,
    size: int,
    opened: Callable[[int], AnyTransducer],
    files: Mapping[str, File] | None = None,
) -> Contender:
    """Return a whole recogniser on the CPU, decoding greedily; ``opened`` opens it with so many threads.

    ``files``: those that it is opened of, for what they take to load.
    """

    def start(threads: int, features: Features) -> Run:
        recognizer = opened(threads)
        lengths = np.array([features.shape[2]], dtype=np.int64)

        def run() -> None:
            recognizer.hypotheses(features, lengths)

        return run

    return Contender(label, "onnxruntime", dialect, "cpu", start, size, part=RECOGNISER, files=files or {})


def of_parts(
    label: str, dialect: str, files: Mapping[str, File], opened: Callable[[int], AnyTransducer]
) -> list[Contender]:
    """Return a transducer's files, part → model, as the whole recogniser and as each of its parts alone."""
    named = {name_of(part, files[part]): files[part] for part in PARTS}
    found = [whole(label, dialect, sum(map(size, named.values())), opened, named)]
    for run in (ENCODER, *STEPS):
        data = files[run.partition(" ")[0]]
        start = _alone(label, data, STEPS.get(run))
        found.append(Contender(label, "onnxruntime", dialect, "cpu", start, size(data), data, part=run))
    return found


def name_of(stem: str, file: File) -> str:
    """Return the name of a model's file, by whose ending ONNX Runtime tells its own format."""
    ahead = isinstance(file, bytes) and is_optimized(file)
    return f"{stem}{ENDING if ahead else '.onnx'}"


def _alone(label: str, data: File, count: int | None) -> Callable[[int, Features], Run]:
    """Return what starts one part: ``count`` utterances or frames of zeros; None: features."""

    def start(threads: int, features: Features) -> Run:
        session: Any = open_session(label, source(data), threads, spin=False)
        given = {"audio_signal": features, "length": np.array([features.shape[2]], dtype=np.int64)}
        for value in session.get_inputs():
            if count is not None:
                dims = [one if isinstance(one, int) else count for one in value.shape]
                given[value.name] = np.zeros(dims, dtype=_TYPES[value.type])
        feed = {value.name: given[value.name] for value in session.get_inputs()}
        return lambda: session.run(None, feed)

    return start


def of_bundle(label: str, dialect: str, files: Mapping[str, bytes]) -> list[Contender]:
    """Return an integer bundle's files, part → content, as ``of_parts`` does."""

    def opened(threads: int) -> IntegerTransducer:
        with temporary_folder() as folder:
            for part, data in files.items():
                (folder / name_of(part, data)).write_bytes(data)
            return IntegerTransducer.of_folder(folder, threads, spin=False)

    return of_parts(label, dialect, files, opened)


def of_folder(path: str | os.PathLike[str]) -> tuple[list[Contender], FrontendConfig]:
    """Return the contenders of a bundle's folder, and its frontend.

    Raises CheckpointError where it cannot be read or run, is no transducer's, or takes audio.
    """
    recognizer = IntegerTransducer.of_folder(path, 1)
    files = {part: read_file(part_file(path, part), CheckpointError) for part in PARTS}
    encoder = part_file(path, "encoder")
    own = own_metadata(encoder, read_metadata(encoder, open_session(encoder, files["encoder"], 1)))
    if own.get("with_frontend"):
        problem = "takes audio: bench measures networks, on features, without their frontend"
        raise CheckpointError(path, problem, "write it again: zeroq-asr export --without-frontend")
    name = Path(os.path.abspath(path)).name
    return of_bundle(name, str(own.get("dialect")), files), recognizer.frontend
