"""A transducer's bundle as a recogniser: three integer programs, decoded greedily or by a beam.

Encodings, predictions and scores are integers, which greedy decoding compares as they are: no float is made
between the features and the tokens.  A beam adds log-probabilities, which it makes of the scores at their
scale.  What runs the programs is ONNX Runtime on their files, or any backend
that holds arrays on the programs themselves.

Shapes: B batch, M mels, T feature frames, S encoded frames, J joint width, N utterances of a call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.ports import PortedPredictor, ported_joiner
from zeroq_asr.decoding.transducer import Array, Hypothesis, State, greedy_transducer
from zeroq_asr.deployment.frontend_graph import AUDIO, AUDIO_LENGTH
from zeroq_asr.deployment.metadata import BUNDLE_FILE, METADATA_KEY, Deployment, own_metadata
from zeroq_asr.deployment.parts import PARTS, check_transducer
from zeroq_asr.deployment.sessions import open_session, read_metadata, readable, reason
from zeroq_asr.errors import CheckpointError, ConfigError, ZeroqError
from zeroq_asr.files import open_file
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.proof import check_boundaries
from zeroq_asr.speech.frontend_config import FeatureFunction, FrontendConfig, frontend_of

#: what enters a program, inputs, then states → what leaves, outputs, then states
Run = Callable[[tuple[Array, ...]], tuple[Array, ...]]


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is the folder of a bundle."""
    try:
        return (Path(path) / BUNDLE_FILE).is_file()
    except (OSError, ValueError):
        return False  # whoever reads it next says why


class IntegerTransducer:
    """Encoder, predictor and joiner as integer programs, decoded greedily, or by a beam."""

    def __init__(
        self, bundle: Bundle, deployment: Deployment, runs: Mapping[str, Run], beam: BeamSpec | None = None
    ) -> None:
        """``runs``: part → what runs its program; the programs themselves need no constants.

        ``beam``: how it is decoded; None: greedily.  Raises ExportError or ProofError where the parts are no
        transducer's, or do not fit each other, and ConfigError for a beam that cannot be had.
        """
        if deployment.decoding is None:
            raise ConfigError(deployment.name, "is no transducer's bundle", "verify says what it holds")
        check_transducer(bundle, deployment)
        check_boundaries(bundle)
        self.frontend, self.tokenizer, self.name = deployment.frontend, deployment.tokenizer, deployment.name
        self.max_seconds: float | None = deployment.max_seconds
        self.subsampling_factor: int | None = deployment.subsampling_factor
        self._decoding, self._runs = deployment.decoding, dict(runs)
        self._predictor = bundle.programs["predictor"]
        durations = self._decoding.durations
        self.beam = (
            None
            if beam is None
            else BeamDecoder(beam, self.tokenizer.tokens, durations, texts=self.tokenizer.inner_texts())
        )
        self._scores = _meaning(bundle.programs["joiner"])
        self._silence = _meaning(bundle.programs["encoder"])

    @classmethod
    def of_folder(
        cls,
        path: str | os.PathLike[str],
        threads: int | None = None,
        beam: BeamSpec | None = None,
        frontend: FrontendConfig | FeatureFunction | None = None,
    ) -> IntegerTransducer:
        """Open a bundle's folder with ONNX Runtime; nothing of it is proven (``verify`` does that).

        ``frontend``: as in ``open_recognizer``.

        Raises CheckpointError where it cannot be read or run, or is no transducer's, VerificationError where
        a file's account of itself is damaged, and ConfigError for a beam that cannot be had.
        """
        programs: dict[str, Program] = {}
        deployments: dict[str, Deployment] = {}
        runs: dict[str, Run] = {}
        for part in PARTS:
            file = Path(path) / f"{part}.onnx"
            open_file(file, CheckpointError).close()
            session = open_session(file, readable(file), threads)
            own = own_metadata(file, read_metadata(file, session))
            if own.get("part") != part:
                raise CheckpointError(
                    file, f"is not the {part} of a bundle ({METADATA_KEY})", "quantize it again"
                )
            try:
                # its ports are all that is needed here
                programs[part] = Program.from_json(own["program"], {})
                deployments[part] = Deployment.from_dict(own)
            except ZeroqError as error:
                raise CheckpointError(
                    file, f"its metadata is damaged ({error})", "quantize it again"
                ) from None
            audio = deployments[part].with_frontend and programs[part].features is not None
            runs[part] = _session_run(file, session, programs[part], audio)
        first = deployments[PARTS[0]]
        if any(one != first for one in deployments.values()):
            raise CheckpointError(path, "holds parts of different recognisers", "quantize it again")
        if frontend is not None and first.with_frontend:
            problem = "takes audio and computes its features itself"
            raise CheckpointError(path, problem, "leave frontend out, or export it --without-frontend")
        first = replace(first, frontend=frontend_of(frontend, first.frontend))
        if first.with_frontend:
            factor = first.subsampling_factor * first.frontend.hop_length
            first = replace(first, frontend=first.frontend.handed_on(), subsampling_factor=factor)
        try:
            return cls(Bundle(programs), first, runs, beam)
        except ConfigError:
            raise
        except ZeroqError as error:
            raise CheckpointError(path, f"is no transducer that can be run: {error}", "verify it") from None

    @classmethod
    def of_programs(
        cls, bundle: Bundle, deployment: Deployment, torch: bool = False, beam: BeamSpec | None = None
    ) -> IntegerTransducer:
        """Interpret the programs of a bundle by numpy, which is the reference, or by PyTorch."""
        run = _torch_run if torch else _numpy_run
        runs = {part: run(program) for part, program in bundle.programs.items()}
        return cls(bundle, deployment, runs, beam)

    def hypotheses(
        self, features: npt.NDArray[np.float32], lengths: npt.NDArray[np.int64]
    ) -> list[Hypothesis]:
        """Return what is said in each of features [B, M, T] with lengths [B], with encoded frames."""
        encoded, ends = self._runs["encoder"]((features, lengths))

        def predict(labels: Array, states: State) -> tuple[Array, State]:
            predicted, *after = self._runs["predictor"]((labels, *states))
            return predicted, tuple(after)

        def join(encoding: Array, prediction: Array) -> Array:
            return self._runs["joiner"]((encoding, prediction))[0]

        blank, batch = self.tokenizer.blank_id, len(features)
        predictor = PortedPredictor(predict, int(self._predictor.inputs[0].dims[1]), blank)
        states = predictor.start(self._predictor.initial_states(batch=batch), batch)
        joiner = ported_joiner(join)
        encodings = encoded.transpose(0, 2, 1)
        if self.beam is not None:
            scores = self._scores

            def real(encoding: Array, prediction: Array) -> Array:
                integers = joiner(encoding, prediction)
                return ((integers - scores.zero_point) * np.float32(scores.scale)).astype(np.float32)

            quiet = np.full(encodings.shape[2], self._silence.zero_point, dtype=encodings.dtype)
            return [*self.beam(encodings, ends, predictor, real, states, silence=quiet)]
        return greedy_transducer(
            encodings,
            ends,
            predictor,
            joiner,
            states,
            blank_id=blank,
            durations=self._decoding.durations,
            max_symbols=self._decoding.max_symbols,
        )


def _meaning(program: Program) -> ValueInfo:
    """What the integers mean that a program gives first."""
    return program.values[program.outputs[0].value]


def _session_run(path: Path, session: object, program: Program, audio: bool) -> Run:
    """Run a file by its ports; with its frontend in it, on samples [B, 1, N] in place of features."""
    entering = [*(port.name for port in program.inputs), *(state.name for state in program.states)]
    leaving = [*(port.name for port in program.outputs), *(f"next_{state.name}" for state in program.states)]

    if audio:
        entering[:2] = [AUDIO, AUDIO_LENGTH]

    def run(given: tuple[Array, ...]) -> tuple[Array, ...]:
        if audio:
            given = (given[0][:, 0], *given[1:])
        try:
            return tuple(session.run(leaving, dict(zip(entering, given, strict=True))))  # type: ignore[attr-defined]
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            shapes = [list(array.shape) for array in given]
            raise CheckpointError(path, f"fails on operands {shapes} ({reason(error)})") from None

    return run


def _numpy_run(program: Program) -> Run:
    from zeroq_asr.integer.backends.numpy import NumpyBackend

    backend = NumpyBackend()
    return lambda given: program.run(backend, *given)


def _torch_run(program: Program) -> Run:
    import torch

    from zeroq_asr.integer.backends.torch import TorchBackend

    backend = TorchBackend()

    @torch.inference_mode()
    def run(given: tuple[Array, ...]) -> tuple[Array, ...]:
        made = program.run(backend, *(torch.from_numpy(np.ascontiguousarray(one)) for one in given))
        return tuple(one.numpy() for one in made)

    return run
