"""The slow part, once a network: load, capture, make features, observe every value on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from zeroq_asr.calibration.calibrate import Calibration, Observations, observe
from zeroq_asr.calibration.equalize import equalize, smooth
from zeroq_asr.calibration.shortfall import BLIND, Shortfall, median_shortfall, shortfalls
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.config import CalibrationSpec, QuantSpec, SynthesisSpec
from zeroq_asr.config.calibration import AUTO, BOTH, MADE, MATCHED, SPEECH
from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.deployment.machine import settled
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.errors import CalibrationError, ConfigError, warn
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.lines import printable, summary
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.lower import check_operators
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.model import AsrModel, TransducerModel, require_inference
from zeroq_asr.pipeline.clock import Clock
from zeroq_asr.progress import Progress, silent
from zeroq_asr.speech.audio import AudioReader, check_segments
from zeroq_asr.speech.frontend import Frontend
from zeroq_asr.speech.manifest import Utterance, read_manifest
from zeroq_asr.synthesis.features import SyntheticFeatures
from zeroq_asr.synthesis.made_speech import joined, little_speech, made_speech, rounding_speech
from zeroq_asr.synthesis.sources import make_features, source_for
from zeroq_asr.threads import one_thread


@dataclass(frozen=True)
class Prepared:
    """A network that was captured and observed: all that programs of several formats are built from."""

    model: AsrModel
    #: the network as ``capture`` gives it
    captured: FloatGraph
    #: that, ready to be calibrated: equalized and smoothed as ``spec`` says
    graph: FloatGraph
    #: what ranges come from; None for audio
    features: SyntheticFeatures | None
    #: gives what was observed again, each utterance [M, T]
    utterances: Callable[[], Iterator[Tensor]]
    observations: Observations
    calibration: CalibrationSpec
    synthesis: SynthesisSpec
    #: the formats that it was prepared for, the first of them that which is built by default
    specs: tuple[QuantSpec, ...]
    #: stage → seconds
    seconds: dict[str, float] = field(default_factory=dict)
    #: how far features that are neither speech nor recordings fall short of made speech, a value each
    shortfalls: tuple[Shortfall, ...] = ()
    #: where the source was left to choose: median shortfall of matched features for which made speech was
    #: taken beside them; None where they were taken alone
    joined_for: float | None = None

    def __repr__(self) -> str:
        """Show the network, what it was observed on and for which formats, on one line."""
        formats = ", ".join(dict.fromkeys(f"w{one.weight_bits}a{one.activation_bits}" for one in self.specs))
        values = f"{len(self.graph.nodes)} operators"
        return summary(
            self, self.model.name, values, f"ranges from {self.calibration.source}", f"for {formats}"
        )

    @property
    def spec(self) -> QuantSpec:
        """The format that is built by default."""
        return self.specs[0]

    def calibrated(self, spec: QuantSpec | None = None) -> Calibration:
        """Choose the ranges of every value for a format.

        Raises ConfigError for a format that another graph would have to be observed for, and CalibrationError
        for one that needs more than was observed: name it when you ``prepare``.
        """
        spec = spec or self.spec
        if preparation(spec) != preparation(self.spec):
            raise ConfigError(
                "build",
                "the format has another equalization, smoothing or allow_float than that it was prepared for",
                "prepare the network for it",
            )
        if _needs_histograms(spec, self.calibration) and not self.observations.has_histograms:
            raise CalibrationError("build", "the format needs histograms, which were not kept", _NAME_IT)
        if spec.feedback and not any(one.feedback for one in self.specs):
            raise CalibrationError("build", "the format needs covariances, which were not kept", _NAME_IT)
        made = self.features
        reached = None if made is None else {layer.name: layer.std_ratio for layer in made.account}
        return self.observations.calibration(self.calibration, _levels(spec), reached)

    def deployment(
        self, spec_or_plan: QuantSpec | Plan | None = None, search: PlanRow | None = None
    ) -> Deployment:
        """Return what surrounds the program of a format in its file; ``search``: the row of a plan."""
        spec, plan = spec_and_plan(self, spec_or_plan)
        recipe = {"quantization": spec.to_dict(), "calibration": self.calibration.to_dict()}
        if plan is not None:
            recipe["plan"] = {"yaml": plan.to_yaml()}
        if search is not None:
            recipe["search"] = search.to_dict()
        if self.calibration.kind in MADE:
            recipe["synthesis"] = self.synthesis.to_dict()
        else:
            # folders of the maker's machine stay out of it
            recipe["calibration"]["source"] = printable(Path(self.calibration.source).name)
        return Deployment(
            name=self.model.name,
            frontend=self.model.frontend,
            tokenizer=self.model.tokenizer,
            max_seconds=spec.max_seconds,
            subsampling_factor=self.model.subsampling_factor,
            recipe=recipe,
        )


_NAME_IT = "name it when preparing: prepare(…, also=(spec,))"


@one_thread()
def prepare(
    source: str | os.PathLike[str] | AsrModel,
    *,
    spec: QuantSpec | None = None,
    also: Sequence[QuantSpec] = (),
    synthesis: SynthesisSpec | None = None,
    calibration: CalibrationSpec | None = None,
    config: str | os.PathLike[str] | None = None,
    loader: str | None = None,
    language: str | None = None,
    graph: FloatGraph | None = None,
    check_ranges: bool = True,
    progress: Progress = silent,
) -> Prepared:
    """Load and capture a network, and observe it once for ``spec`` and every format in ``also``.

    ``graph``: the network as ``capture`` gives it, where it was captured before.  ``config``, ``loader`` and
    ``language`` are as in ``load_checkpoint``.  ``check_ranges``: compare ranges that come from anything made
    but speech with made speech, and warn where they miss much of it.  Matched features that nobody named
    are compared whatever it says, and where they miss much, made speech is taken beside them.

    Raises ConfigError where the formats differ in equalization, smoothing or allow_float, which change what
    is observed, and any ZeroqError for what is wrong with the input.
    """
    specs = tuple(settled(one) for one in (spec or QuantSpec(), *also))
    first, given = specs[0], calibration or CalibrationSpec()
    synthesis = synthesis or SynthesisSpec.preset("default")
    if any(preparation(one) != preparation(first) for one in specs):
        raise ConfigError(
            "prepare", "the formats differ in equalization, smoothing or allow_float", "prepare them apart"
        )
    seconds: dict[str, float] = {}
    clock = Clock(seconds, progress)
    with clock("load"):
        if isinstance(source, TransducerModel):
            raise ConfigError("prepare", "takes a CTC network", "prepare_transducer takes others")
        model = (
            source
            if isinstance(source, AsrModel)
            else load_checkpoint(source, config=config, loader=loader, language=language)
        )
    require_inference(model)
    chosen = given.kind == AUTO
    with clock("source"):
        calibration = replace(given, source=source_for(model, given.source))
        opened = _open_source(model, calibration)
    with clock("capture"):
        if graph is None:
            example = model.example_input()
            graph = capture(model.network, example, model.name, allow_float=first.allow_float)
        captured, graph = graph, prepared_graph(graph)
        # before the long work begins
        for one in specs:
            whole = with_islands(graph, one.keep_float)
            check_operators(whole)
            Plan.of(one).resolve(whole)
    with clock("features"):
        made, utterances, total = _features(model, opened, synthesis, calibration, progress)
        if first.equalization:
            graph = equalize(graph, utterances(), first.equalization)
        if first.smoothing:
            graph = smooth(graph, utterances(), first.smoothing)
    with clock("calibrate"):
        observations = _observed(model, graph, utterances(), specs, calibration, synthesis, total, progress)
    values: tuple[Shortfall, ...] = ()
    joined_for = None
    compared = check_ranges or (chosen and calibration.kind == MATCHED)
    if compared and calibration.kind not in (SPEECH, BOTH, "audio"):
        with clock("check"):
            values = shortfalls(observations, observe(graph, little_speech(model, synthesis).utterances()))
        if chosen and made is not None and median_shortfall(values) > BLIND:
            joined_for, values = median_shortfall(values), ()
            with clock("features"):
                calibration = replace(calibration, source=BOTH)
                made = joined(made, made_speech(model, synthesis, progress))
                utterances, total = _streamed(made, calibration)
            with clock("calibrate"):
                observations = _observed(
                    model, graph, utterances(), specs, calibration, synthesis, total, progress
                )
        elif check_ranges:
            _warn_of_blindness(model, values)
    return Prepared(
        model,
        captured,
        graph,
        made,
        utterances,
        observations,
        calibration,
        synthesis,
        specs,
        seconds,
        values,
        joined_for,
    )


def _observed(
    model: AsrModel,
    graph: FloatGraph,
    utterances: Iterator[Tensor],
    specs: Sequence[QuantSpec],
    calibration: CalibrationSpec,
    synthesis: SynthesisSpec,
    total: int,
    progress: Progress,
) -> Observations:
    """Observe all that any of the formats needs: covariances on made speech, too, but for recordings."""
    covariances = any(one.feedback for one in specs)
    found = observe(
        graph,
        utterances,
        histograms=any(_needs_histograms(one, calibration) for one in specs),
        covariances=covariances,
        bins=calibration.bins,
        total=total,
        progress=progress,
    )
    if covariances and calibration.kind != "audio":
        speech = rounding_speech(model, synthesis)
        found.learn_covariances(observe(graph, speech.utterances(), covariances=True))
    return found


def _warn_of_blindness(model: AsrModel, values: tuple[Shortfall, ...]) -> None:
    """Warn where ranges cannot be trusted, by what they miss of what made speech reaches."""
    median = median_shortfall(values)
    if median > BLIND:
        worst = max(values, key=lambda value: value.share)
        warn(
            model.name,
            f"ranges of half of its values miss {100 * median:.0f} % or more of what speech would reach, "
            f"{worst.name} {100 * worst.share:.0f} %: expect more errors than float makes",
            "say --calibration speech, or give recordings",
        )


def preparation(spec: QuantSpec) -> tuple[float, float, bool]:
    """Return what of a format changes the graph that is observed: formats alike in it share a ``prepare``."""
    return spec.equalization, spec.smoothing, spec.allow_float


def spec_and_plan(prepared: Prepared, spec_or_plan: QuantSpec | Plan | None) -> tuple[QuantSpec, Plan | None]:
    """Return the format to build, and the plan if one was given in its place."""
    if isinstance(spec_or_plan, Plan):
        return prepared.spec, spec_or_plan
    return settled(spec_or_plan or prepared.spec), None


def _levels(spec: QuantSpec) -> int:
    return int(2**spec.activation_bits) - 1


def _needs_histograms(spec: QuantSpec, calibration: CalibrationSpec) -> bool:
    return calibration.resolved(_levels(spec)).method != "minmax"


def _open_source(model: AsrModel, calibration: CalibrationSpec) -> list[Utterance] | SyntheticFeatures | None:
    """Read what is to be calibrated on, so that a mistake shows before the long work begins.

    A list of utterances, saved features, or None for what is still to be made.
    """
    if calibration.kind == "audio":
        utterances = read_manifest(calibration.source, calibration.channel)[: calibration.limit]
        check_segments(utterances)
        return utterances
    if calibration.kind != "features":
        return None
    saved = SyntheticFeatures.load(calibration.source)
    if saved.features.shape[1] != model.frontend.features:
        raise CalibrationError(
            calibration.source,
            f"features have {saved.features.shape[1]} mels, the network takes {model.frontend.features}",
            "synthesize them for this checkpoint",
        )
    return saved


def _features(
    model: AsrModel,
    opened: list[Utterance] | SyntheticFeatures | None,
    synthesis: SynthesisSpec,
    calibration: CalibrationSpec,
    progress: Progress,
) -> tuple[SyntheticFeatures | None, Callable[[], Iterator[Tensor]], int]:
    """What to calibrate on: the saved or made features, what streams them as [M, T], how many there are."""
    if isinstance(opened, list):
        frontend = Frontend(model.frontend)

        def audio() -> Iterator[Tensor]:
            with AudioReader(model.frontend.sample_rate) as read:
                for utterance in opened:
                    features, length = frontend(read(utterance), utterance.name)
                    yield torch.from_numpy(features[:, :length])

        return None, audio, len(opened)
    made = opened if opened is not None else make_features(model, synthesis, calibration.kind, progress)
    return made, *_streamed(made, calibration)


def _streamed(
    made: SyntheticFeatures, calibration: CalibrationSpec
) -> tuple[Callable[[], Iterator[Tensor]], int]:
    """What streams features as [M, T], so many of them as are asked for, and how many there are."""
    count = min(len(made.lengths), calibration.limit or len(made.lengths))
    return lambda: made.utterances(count), count
