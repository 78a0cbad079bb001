"""A transducer's bundle as a recogniser: three integer programs, decoded greedily or by a beam.

Encodings, predictions and scores are integers, which greedy decoding compares as they are: no float is made
between the features and the tokens.  A beam adds log-probabilities, which it makes of the scores at their
scale.  What runs the programs is ONNX Runtime on their files, or any backend
that holds arrays on the programs themselves.

Shapes: B batch, M mels, T feature frames, S encoded frames, J joint width, N utterances of a call.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from zeroq_asr.config.decoding import BeamSpec
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.deployment.frontend_graph import AUDIO, AUDIO_LENGTH
from zeroq_asr.deployment.metadata import (
    BUNDLE_FILE,
    METADATA_KEY,
    Deployment,
    RuntimePorts,
    own_metadata,
)
from zeroq_asr.deployment.optimized import ENDING
from zeroq_asr.deployment.parts import PARTS, check_transducer
from zeroq_asr.deployment.ported_transducer import PortedTransducer, Run, decoding_of, session_run
from zeroq_asr.deployment.sessions import open_session, read_metadata, readable
from zeroq_asr.errors import CheckpointError, ConfigError, ZeroqError
from zeroq_asr.files import open_file, read_file
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.proof import check_boundaries
from zeroq_asr.speech.frontend_config import FeatureFunction, FrontendConfig, frontend_of


def is_bundle(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is the folder of a bundle."""
    try:
        return (Path(path) / BUNDLE_FILE).is_file()
    except (OSError, ValueError):
        return False  # whoever reads it next says why


def part_file(folder: str | os.PathLike[str], part: str) -> Path:
    """Return the file of a part in a bundle's folder: PART.onnx, or PART.ort where that alone is there."""
    plain, ahead = (Path(folder) / f"{part}{ending}" for ending in (".onnx", ENDING))
    return ahead if ahead.exists() and not plain.exists() else plain


class IntegerTransducer(PortedTransducer):
    """Encoder, predictor and joiner as integer programs, decoded greedily, or by a beam."""

    def __init__(
        self,
        bundle: Bundle,
        deployment: Deployment,
        runs: Mapping[str, Run],
        beam: BeamSpec | BeamDecoder | None = None,
    ) -> None:
        """``runs``: part → what runs its program; the programs themselves need no constants.

        ``beam``: how it is decoded; None: greedily.  Raises ExportError or ProofError where the parts are no
        transducer's, or do not fit each other, and ConfigError for a beam that cannot be had.
        """
        decoding_of(deployment)
        check_transducer(bundle, deployment)
        check_boundaries(bundle)
        predictor = bundle.programs["predictor"]

        def initial(batch: int) -> Sequence[Array]:
            return predictor.initial_states(batch=batch)

        super().__init__(deployment, runs, int(predictor.inputs[0].dims[1]), initial, beam)
        self._scores = _meaning(bundle.programs["joiner"])
        self.silence = _meaning(bundle.programs["encoder"]).zero_point

    @classmethod
    def of_folder(
        cls,
        path: str | os.PathLike[str],
        threads: int | None = None,
        beam: BeamSpec | BeamDecoder | None = None,
        *,
        spin: bool = True,
        frontend: FrontendConfig | FeatureFunction | None = None,
    ) -> IntegerTransducer:
        """Open a bundle's folder with ONNX Runtime; nothing of it is proven (``verify`` does that).

        ``threads`` and ``spin`` are as of ``open_session``, ``frontend`` as of ``open_recognizer``.

        Raises CheckpointError where it cannot be read or run, or is no transducer's, VerificationError where
        a file's account of itself is damaged, and ConfigError for a beam that cannot be had.
        """
        _require_own_folder(path)
        programs: dict[str, Program] = {}
        deployments: dict[str, Deployment] = {}
        runs: dict[str, Run] = {}
        for part in PARTS:
            file = part_file(path, part)
            open_file(file, CheckpointError).close()
            session = open_session(file, readable(file), threads, spin=spin)
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
        cls,
        bundle: Bundle,
        deployment: Deployment,
        torch: bool = False,
        beam: BeamSpec | BeamDecoder | None = None,
    ) -> IntegerTransducer:
        """Interpret the programs of a bundle by numpy, which is the reference, or by PyTorch."""
        run = _torch_run if torch else _numpy_run
        runs = {part: run(program) for part, program in bundle.programs.items()}
        return cls(bundle, deployment, runs, beam)

    def real(self, scores: Array) -> Array:
        """Return the real scores that integers [N, V + 1 + K] mean, float32."""
        means = self._scores
        return ((scores - means.zero_point) * np.float32(means.scale)).astype(np.float32)


def _require_own_folder(path: str | os.PathLike[str]) -> None:
    """Refuse what lists itself as another runtime's: its files have other names and other ports."""
    try:
        listed = json.loads(read_file(Path(path) / BUNDLE_FILE, CheckpointError))
        ports = RuntimePorts.from_dict(listed["runtime_ports"])
    except (ZeroqError, ValueError, TypeError, KeyError, RecursionError):
        return  # the files themselves say what they are
    problem = f"was written for {ports.runtime}, which alone runs it"
    raise CheckpointError(path, problem, "name the bundle that it was made of")


def _meaning(program: Program) -> ValueInfo:
    """What the integers mean that a program gives first."""
    return program.values[program.outputs[0].value]


def _session_run(path: Path, session: object, program: Program, audio: bool) -> Run:
    """Run a file by its ports; with its frontend in it, on samples [B, 1, N] in place of features."""
    entering = [*(port.name for port in program.inputs), *(state.name for state in program.states)]
    leaving = [*(port.name for port in program.outputs), *(f"next_{state.name}" for state in program.states)]
    if not audio:
        return session_run(path, session, entering, leaving)
    entering[:2] = [AUDIO, AUDIO_LENGTH]
    run = session_run(path, session, entering, leaving)
    return lambda given: run((given[0][:, 0], *given[1:]))


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
