"""A transducer, from its parts to a bundle of three proven programs: the stages of a CTC network, and labels.

The encoder is prepared as any network is.  Predictor and joiner are observed along labels
(``zeroq_asr.calibration.labels``).  What the encoder and the predictor give has 16 bits at one scale, so that
the joiner adds two integers as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zeroq_asr.calibration.calibrate import Calibration, Observations
from zeroq_asr.calibration.labels import Decoder, observe_parts
from zeroq_asr.calibration.shortfall import summary as short_of_speech
from zeroq_asr.capture.capture import prepared_graph
from zeroq_asr.capture.transducer import TransducerGraphs, capture_transducer
from zeroq_asr.checkpoints import load_model
from zeroq_asr.config import CalibrationSpec, LabelSpec, QuantSpec, SynthesisSpec
from zeroq_asr.config.choices import TRANSDUCER
from zeroq_asr.decoding.ports import ENCODED, LABELS, PREDICTED
from zeroq_asr.deployment.export import Export, bundle_files, export_bundle, write_bundle
from zeroq_asr.deployment.frontend_graph import check_frontend
from zeroq_asr.deployment.machine import settled
from zeroq_asr.deployment.metadata import Decoding, Deployment
from zeroq_asr.errors import CheckpointError, ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.proof import Proof, prove_bundle
from zeroq_asr.integer.types import signed_range
from zeroq_asr.lines import against_float, summary
from zeroq_asr.lines import size as sized
from zeroq_asr.lowering.formats import WIDE_BITS, WIDE_MARGIN
from zeroq_asr.lowering.lower import lower
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.pipeline.build import build
from zeroq_asr.pipeline.clock import Clock
from zeroq_asr.pipeline.prepare import Prepared, prepare
from zeroq_asr.pipeline.scores import warn_of_scores
from zeroq_asr.progress import Progress, silent
from zeroq_asr.threads import one_thread

Range = tuple[float, float]
#: bits of weights below which words are lost that only training brings back
LEAST_BITS = 4
#: dialects that are exact
FUSED, STRICT = "fused", "strict"


@dataclass(frozen=True)
class PreparedTransducer:
    """A transducer whose parts were captured and observed."""

    model: TransducerModel
    #: as a network of its own
    encoder: Prepared
    decoder: Decoder
    #: of the predictor and of the joiner
    predictor: Observations
    joiner: Observations
    labels: LabelSpec
    #: stage → seconds
    seconds: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Show the model and what it was observed on, on one line."""
        return summary(self, self.model.name, f"ranges from {self.encoder.calibration.source}")

    @property
    def spec(self) -> QuantSpec:
        """The format that it was prepared for."""
        return self.encoder.spec

    def deployment(self) -> Deployment:
        """Return what surrounds the programs in their files."""
        surrounding = self.encoder.deployment()
        recipe = {**surrounding.recipe, "labels": self.labels.to_dict()}
        return replace(deployment_of(self.model, surrounding.max_seconds), recipe=recipe)


@dataclass(frozen=True)
class QuantizedTransducer:
    """What ``quantize_transducer`` made, and the account of it."""

    bundle: Bundle
    deployment: Deployment
    #: part → of its program
    proofs: dict[str, Proof]
    exports: dict[str, Export]
    prepared: PreparedTransducer
    #: the folder that it was written to; None if it was not
    path: Path | None
    #: bytes of all its files
    size: int
    #: bytes of the float parts' parameters and buffers
    float_bytes: int
    #: stage → seconds
    seconds: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Show where it is, how large and what it holds, on one line."""
        return summary(
            self,
            self.deployment.name if self.path is None else self.path,
            sized(self.size),
            against_float(self.size, self.float_bytes),
            f"bundle {self.bundle.digest()[:8]}",
        )

    @property
    def nearest(self) -> str:
        """The part whose program comes nearest to the limits of int32."""
        return max(self.proofs, key=lambda part: self.proofs[part].peak)

    def to_dict(self) -> dict[str, Any]:
        """Return the account as JSON values."""
        exported = next(iter(self.exports.values()))
        return {
            "file": None if self.path is None else str(self.path),
            "bytes": self.size,
            "float_bytes": self.float_bytes,
            "name": self.deployment.name,
            "dialect": exported.backend.dialect,
            "integer_only": True,
            "islands": [],
            "program_sha256": self.bundle.digest(),
            "parts": {
                part: {"program_sha256": program.digest(), "proof": self.proofs[part].to_dict()}
                for part, program in self.bundle.programs.items()
            },
            "shortfall": short_of_speech(self.prepared.encoder.shortfalls),
            "speech_joined_for": self.prepared.encoder.joined_for,
            "proof": self.proofs[self.nearest].to_dict(),
            "recipe": self.deployment.recipe,
            "seconds": self.seconds,
        }


def deployment_of(model: TransducerModel, max_seconds: float) -> Deployment:
    """Return what surrounds the parts of a transducer in files of any kind, but for a recipe."""
    network = model.network
    return Deployment(
        model.name,
        model.frontend,
        model.tokenizer,
        max_seconds,
        model.subsampling_factor,
        decoding=Decoding(tuple(network.durations), network.max_symbols),
    )


@one_thread()
def prepare_transducer(
    source: str | os.PathLike[str] | TransducerModel,
    *,
    spec: QuantSpec | None = None,
    synthesis: SynthesisSpec | None = None,
    calibration: CalibrationSpec | None = None,
    labels: LabelSpec | None = None,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
    graphs: TransducerGraphs | None = None,
    check_ranges: bool = True,
    progress: Progress = silent,
) -> PreparedTransducer:
    """Load and capture a transducer, and observe its parts once for ``spec``, of 8 bits.

    ``labels`` says what the predictor and the joiner are observed on; ``graphs`` are those of
    ``capture_transducer``, where it was captured before; all else is as in ``prepare`` and ``load_model``.
    Raises ConfigError for a format with values of other than 8 bits, with weights of fewer than 4, or of
    single layers, and any ZeroqError for what is wrong with the input.
    """
    spec, labels = settled(spec or QuantSpec()), labels or LabelSpec()
    _require_format(spec)
    seconds: dict[str, float] = {}
    clock = Clock(seconds, progress)
    with clock("load"):
        model = source if isinstance(source, TransducerModel) else _loaded(source, config, loader, language)
    with clock("capture"):
        graphs = graphs or capture_transducer(model.network, model.example_input(), model.name)
    encoder = prepare(
        encoder_of(model),
        spec=spec,
        synthesis=synthesis,
        calibration=calibration,
        graph=graphs.encoder,
        check_ranges=check_ranges,
        progress=progress,
    )
    for stage, value in encoder.seconds.items():
        seconds[stage] = seconds.get(stage, 0.0) + value
    network = model.network
    decoder = Decoder(
        encoder.graph,
        prepared_graph(graphs.predictor),
        prepared_graph(graphs.joiner),
        graphs.context,
        model.tokenizer.blank_id,
        network.durations,
        network.max_symbols,
    )
    with clock("labels"):
        predictor, joiner = observe_parts(
            decoder,
            encoder.utterances(),
            labels,
            histograms=encoder.observations.has_histograms,
            bins=encoder.calibration.bins,
        )
    return PreparedTransducer(model, encoder, decoder, predictor, joiner, labels, seconds)


@one_thread()
def build_transducer(prepared: PreparedTransducer, spec: QuantSpec | None = None) -> Bundle:
    """Lower the parts of a prepared transducer to the programs of a bundle, by default as it is prepared for.

    ``spec``: another format, such as of another target.  Raises as ``build`` does, and ConfigError for a
    format as ``prepare_transducer`` does.
    """
    spec, decoder = settled(spec or prepared.spec), prepared.decoder
    _require_format(spec)
    calibrations = {
        part: observed.calibration(prepared.encoder.calibration)
        for part, observed in (("predictor", prepared.predictor), ("joiner", prepared.joiner))
    }
    whole = prepared.encoder.calibrated(spec)
    made = {ENCODED: decoder.encoder.outputs[0], PREDICTED: decoder.predictor.outputs[0]}
    formats = boundary_formats(
        {
            ENCODED: whole.ranges[made[ENCODED]],
            PREDICTED: calibrations["predictor"].ranges[made[PREDICTED]],
        }
    )
    blank = decoder.blank_id
    labels = ValueInfo("int32", 1.0, 0, 0, blank)

    def lowered(
        part: str, graph: FloatGraph, channels: Mapping[str, int], fixed: Mapping[str, ValueInfo]
    ) -> Program:
        found: Calibration = calibrations[part]
        return lower(
            graph,
            found.ranges,
            spec,
            channels=channels,
            max_frames=1,
            means=found.means if spec.bias_correction else None,
            fixed=fixed,
        )

    width = prepared.model.network.joiner.output.in_features
    return Bundle(
        {
            "encoder": build(prepared.encoder, spec, fixed={made[ENCODED]: formats[ENCODED]}),
            "predictor": lowered(
                "predictor",
                decoder.predictor,
                {LABELS: decoder.context},
                {LABELS: labels, made[PREDICTED]: formats[PREDICTED]},
            ),
            "joiner": lowered("joiner", decoder.joiner, {ENCODED: width, PREDICTED: width}, formats),
        }
    )


def boundary_formats(ranges: Mapping[str, Range]) -> dict[str, ValueInfo]:
    """Return the formats of what the joiner adds: 16 bits of one scale, each with the bounds of its range."""
    low, high = signed_range(WIDE_BITS)
    reaches = {name: max(-lo, hi, 0.0) * WIDE_MARGIN for name, (lo, hi) in ranges.items()}
    scale = max(reaches.values()) / high or 1.0
    bounds = {name: min(max(round(reach / scale), 1), high) for name, reach in reaches.items()}
    return {name: ValueInfo("int32", scale, 0, max(-bound, low), bound) for name, bound in bounds.items()}


def quantize_transducer(
    source: str | os.PathLike[str] | TransducerModel | PreparedTransducer,
    output: str | os.PathLike[str] | None = None,
    *,
    spec: QuantSpec | None = None,
    synthesis: SynthesisSpec | None = None,
    calibration: CalibrationSpec | None = None,
    labels: LabelSpec | None = None,
    dialect: str = "fused",
    with_frontend: bool = False,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
    progress: Progress = silent,
) -> QuantizedTransducer:
    """Quantize a transducer to a bundle of three proven programs, and write its folder to ``output``.

    A checkpoint, a loaded model or a prepared one; all other arguments are those of ``prepare_transducer``
    and of ``quantize``.  Raises a ZeroqError for anything that is wrong with the input; the folder is whole
    or not there at all, and replaces a bundle that was there.
    """
    if dialect not in (FUSED, STRICT):
        problem = f"the programs of a transducer hand each other integers, which {dialect} does not keep"
        raise ConfigError("dialect", problem, f"use {FUSED} or {STRICT}")
    if with_frontend and isinstance(source, TransducerModel | PreparedTransducer):
        check_frontend((source.model if isinstance(source, PreparedTransducer) else source).frontend)
    if isinstance(source, PreparedTransducer):
        given = (spec, synthesis, calibration, labels, config, loader, language)
        if any(one is not None for one in given):
            raise ConfigError("quantize_transducer", "the network is prepared already", "prepare anew")
        prepared = source
    else:
        prepared = prepare_transducer(
            source,
            spec=spec,
            synthesis=synthesis,
            calibration=calibration,
            labels=labels,
            config=config,
            loader=loader,
            language=language,
            progress=progress,
        )
    seconds = dict(prepared.seconds)
    clock = Clock(seconds, progress)
    deployment = replace(prepared.deployment(), with_frontend=with_frontend)
    with clock("lower"):
        bundle = build_transducer(prepared)
    with clock("prove"):
        proofs = prove_bundle(bundle)
    with clock("export"):
        exports = export_bundle(bundle, deployment, dialect, prepared.spec.target)
        files = bundle_files(exports, deployment)
        warn_of_scores(deployment.name, exports, deployment.max_seconds)
        if output is not None:
            write_bundle(output, exports, deployment)
    return QuantizedTransducer(
        bundle,
        deployment,
        proofs,
        exports,
        prepared,
        None if output is None else Path(output),
        sum(map(len, files.values())),
        prepared.model.float_bytes,
        seconds,
    )


def _loaded(
    path: str | os.PathLike[str],
    config: str | os.PathLike[str] | None,
    loader: str | None,
    language: str | None,
) -> TransducerModel:
    model = load_model(path, config=config, loader=loader, language=language, head=TRANSDUCER)
    if not isinstance(model, TransducerModel):
        raise CheckpointError(path, "is no transducer", "quantize takes others")
    return model


def encoder_of(model: TransducerModel) -> AsrModel:
    """Return the encoder as a network of its own, which gives encodings in place of logits."""
    return AsrModel(
        network=model.network.encoder,
        frontend=model.frontend,
        tokenizer=model.tokenizer,
        name=model.name,
        subsampling_factor=model.subsampling_factor,
    )


def _require_format(spec: QuantSpec) -> None:
    """Raise ConfigError for a format of single layers or values, or one that only training saves."""
    where = "quantize_transducer"
    if spec.weight_bits < LEAST_BITS or spec.activation_bits != 8:
        bits = f"{spec.weight_bits} and {spec.activation_bits}"
        problem = f"a transducer's weights have {LEAST_BITS} to 8 bits and its values 8, not {bits}"
        raise ConfigError(where, problem, "say --bits 8, or --bits w4a8")
    given = {"layer_bits": spec.layer_bits, "layer_grids": spec.layer_grids, "keep_float": spec.keep_float}
    odd = [name for name, value in given.items() if value]
    odd += ["allow_float"] if spec.allow_float else []
    if odd:
        raise ConfigError(where, f"a transducer takes no {odd[0]}", "leave it out")
