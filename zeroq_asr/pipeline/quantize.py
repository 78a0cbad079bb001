"""The fast part, once a format: build, train what is coarse, prove, export and write."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from zeroq_asr.calibration.shortfall import Shortfall, summary
from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.deployment.export import Export, export
from zeroq_asr.deployment.frontend_graph import check_frontend
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.deployment.recognizer import OnnxRecognizer
from zeroq_asr.deployment.verify import Certificate, verify
from zeroq_asr.errors import ConfigError
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.integer.bundle import NETWORK
from zeroq_asr.integer.float_parts import Island, islands
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import Proof, prove
from zeroq_asr.lines import against_float
from zeroq_asr.lines import size as sized
from zeroq_asr.lines import summary as summarized
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.model import AsrModel
from zeroq_asr.pipeline.build import build, rebuilt
from zeroq_asr.pipeline.clock import Clock
from zeroq_asr.pipeline.prepare import Prepared, prepare, spec_and_plan
from zeroq_asr.pipeline.scores import warn_of_scores
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.features import SyntheticFeatures
from zeroq_asr.training.device import device_of
from zeroq_asr.training.train import TrainingAccount, reconstructs, train


@dataclass(frozen=True)
class Quantized:
    """What ``quantize`` made, and the account of it."""

    program: Program
    deployment: Deployment
    proof: Proof
    exported: Export
    #: what the ranges came from; None for audio
    features: SyntheticFeatures | None
    #: where it was written; None if it was not
    path: Path | None
    #: bytes of the file
    size: int
    #: bytes of the float network's parameters and buffers
    float_bytes: int
    #: stage → seconds
    seconds: dict[str, float] = field(default_factory=dict)
    #: how far the features that ranges come from fall short of made speech, a value each; nothing where they
    #: are made speech or recordings themselves
    shortfalls: tuple[Shortfall, ...] = ()
    #: median shortfall of matched features for which made speech was taken beside them, where nobody chose
    joined_for: float | None = None
    #: what training weights did; None where none were
    training: TrainingAccount | None = None

    def __repr__(self) -> str:
        """Show where it is, how large and what it holds, on one line."""
        return summarized(
            self,
            self.deployment.name if self.path is None else self.path,
            f"{self.exported.backend.dialect}, {sized(self.size)}",
            against_float(self.size, self.float_bytes),
            "integer-only" if not self.islands else f"{len(self.islands)} float islands",
            f"program {self.exported.program_sha256[:8]}",
        )

    def to_bytes(self) -> bytes:
        """Return the file, as ``quantize`` writes it."""
        return self.exported.to_bytes()

    def save(self, path: str | os.PathLike[str]) -> Quantized:
        """Write the file, whole or not at all, and return the result with its path.

        Raises ConfigError where no file can be written by that name.
        """
        atomic_write_bytes(path, self.to_bytes())
        return replace(self, path=Path(path))

    def verify(self) -> Certificate:
        """Verify the file where it was written, or what would be written; raises as ``zq.verify``."""
        return verify(self if self.path is None else self.path)

    def recognizer(self, threads: int | None = None) -> OnnxRecognizer:
        """Open what would be written in ONNX Runtime, with so many ``threads``; by default all cores."""
        return OnnxRecognizer(self, threads)

    @property
    def islands(self) -> tuple[Island, ...]:
        """What stayed in float; none if the program is integer-only."""
        return islands(self.program)

    def to_dict(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        return {
            "file": None if self.path is None else str(self.path),
            "bytes": self.size,
            "float_bytes": self.float_bytes,
            "name": self.deployment.name,
            "dialect": self.exported.backend.dialect,
            "integer_only": not self.islands,
            "islands": [asdict(island) for island in self.islands],
            "program_sha256": self.program.digest(),
            "shortfall": summary(self.shortfalls),
            "speech_joined_for": self.joined_for,
            "training": None if self.training is None else self.training.to_dict(),
            "proof": self.proof.to_dict(),
            "recipe": self.deployment.recipe,
            "seconds": self.seconds,
        }


def quantize(
    source: str | os.PathLike[str] | AsrModel | Prepared,
    output: str | os.PathLike[str] | None = None,
    *,
    spec: QuantSpec | Plan | None = None,
    search: PlanRow | None = None,
    synthesis: SynthesisSpec | None = None,
    calibration: CalibrationSpec | None = None,
    training: TrainingSpec | None = None,
    run: str | os.PathLike[str] | None = None,
    resume: bool = False,
    dialect: str = "fused",
    with_frontend: bool = False,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
    progress: Progress = silent,
) -> Quantized:
    """Quantize a checkpoint, a loaded model or a prepared one, and write it to ``output`` if given.

    ``config``, ``loader`` and ``language`` are as in ``load_checkpoint``; of what is prepared, ``spec``
    chooses the format, as in ``build``.  ``search``: the row of plans that a plan was chosen from
    (``FoundPlan.row``), which the file keeps.  Weights of few bits are trained as ``training`` says
    (``zeroq_asr.training``), by default those of one bit, section by section.  ``run``: the file that keeps
    how far training is, whatever was there before, removed when it is done; with ``resume`` it goes on from
    there.  ``with_frontend``: the file takes audio, and computes its features itself, in float, in front of
    the program (``zeroq_asr.deployment.frontend_graph``).

    Raises a ZeroqError for anything that is wrong with the input; the output file is whole or not there at
    all, and replaces what was there.  The file is integer-only unless ``spec`` keeps something in float
    (``keep_float``, ``allow_float``), which ``Quantized.islands`` lists and only the dialect ``fused`` can
    hold.
    """
    training = training or TrainingSpec()
    device_of(training.device)  # before the long work begins
    if with_frontend and isinstance(source, AsrModel | Prepared):
        check_frontend((source.model if isinstance(source, Prepared) else source).frontend)
    if isinstance(source, Prepared):
        if any(given is not None for given in (synthesis, calibration, config, loader, language)):
            raise ConfigError(
                "quantize", "the network is prepared already, with its own features", "prepare anew"
            )
        prepared = source
    else:
        prepared = prepare(
            source,
            spec=spec if isinstance(spec, QuantSpec) else None,
            synthesis=synthesis,
            calibration=calibration,
            config=config,
            loader=loader,
            language=language,
            progress=progress,
        )
    chosen, _ = spec_and_plan(prepared, spec)
    seconds = dict(prepared.seconds)
    clock = Clock(seconds, progress)
    if search is not None and not isinstance(spec, Plan):
        raise ConfigError("quantize", "a row of plans is of a plan", "give the plan as spec")
    deployment = replace(prepared.deployment(spec, search), with_frontend=with_frontend)
    with clock("lower"):
        program = build(prepared, spec)
    with clock("train"):
        program, account = _trained(prepared, program, spec, training, progress, run, resume)
    if account is not None:
        deployment = _told(deployment, training, account)
    with clock("prove"):
        proof = prove(program)
    with clock("export"):
        exported = export(program, deployment, dialect, chosen.target)
        data = exported.to_bytes()
        warn_of_scores(deployment.name, {NETWORK: exported}, deployment.max_seconds)
        if output is not None:
            atomic_write_bytes(output, data)
    path = None if output is None else Path(output)
    float_bytes = prepared.model.float_bytes
    return Quantized(
        program,
        deployment,
        proof,
        exported,
        prepared.features,
        path,
        len(data),
        float_bytes,
        seconds,
        prepared.shortfalls,
        prepared.joined_for,
        account,
    )


def _trained(
    prepared: Prepared,
    program: Program,
    spec_or_plan: QuantSpec | Plan | None,
    training: TrainingSpec,
    progress: Progress,
    run: str | os.PathLike[str] | None,
    resume: bool,
) -> tuple[Program, TrainingAccount | None]:
    """Train a program that was built, if its format or ``training`` asks for it."""
    spec, plan = spec_and_plan(prepared, spec_or_plan)
    graph = with_islands(prepared.graph, spec.keep_float)
    whole = plan or Plan.of(spec)
    sectionwise = reconstructs(spec, training, graph, whole.resolve(graph))
    if not sectionwise and not training.distills and not training.clipping_steps:
        if resume:
            raise ConfigError(
                "--resume", "nothing of this format is trained", "say --train TIME, or leave it out"
            )
        return program, None
    return train(
        prepared.model,
        graph,
        program,
        whole,
        partial(rebuilt, prepared, spec),
        prepared.utterances,
        training,
        prepared.synthesis,
        sectionwise=sectionwise,
        recorded=prepared.calibration.kind == "audio",
        run=run,
        resume=resume,
        progress=progress,
    )


def _told(deployment: Deployment, training: TrainingSpec, account: TrainingAccount) -> Deployment:
    """Return the deployment with how its weights were trained in its recipe."""
    told = {**training.to_dict(), "distillation_steps": account.steps}
    return replace(deployment, recipe={**deployment.recipe, "training": told})
