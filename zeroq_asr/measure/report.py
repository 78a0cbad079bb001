"""How good a quantized file is, for users who have no recording at all.

Everything here is measured on *held-out* made features: made with another seed than those that calibrated.
How far that can be trusted is told by a second source: made speech that neither the ranges nor the held-out
features come from.  What the figures say about real speech, and where they do not, is measured in
``benchmarks/prediction.py`` and told in docs/method.md.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from zeroq_asr.calibration.calibrate import Observations, observe
from zeroq_asr.calibration.equalize import depthwise_places, places
from zeroq_asr.calibration.shortfall import BLIND, Shortfall, median_shortfall
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.capture.transducer import capture_transducer
from zeroq_asr.config import SynthesisSpec
from zeroq_asr.config.choices import CTC, TRANSDUCER
from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.deployment.bundle_recognizer import is_bundle
from zeroq_asr.deployment.metadata import Decoding, Deployment
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.reading import load_onnx, read_program
from zeroq_asr.deployment.verify import verified_folder, verify
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.program import Program, is_ctc
from zeroq_asr.lines import summary
from zeroq_asr.measure.compare import HELD_OUT
from zeroq_asr.measure.qualities import ProgramMeter, ValueQuality
from zeroq_asr.measure.scored import ScoredFrames, ScoredSteps
from zeroq_asr.model import AsrModel, Model, TransducerModel
from zeroq_asr.pipeline.transducer import encoder_of
from zeroq_asr.progress import Progress, silent
from zeroq_asr.synthesis.features import LayerAccount, SyntheticFeatures
from zeroq_asr.synthesis.made_speech import little_speech
from zeroq_asr.synthesis.sources import make_features, source_for
from zeroq_asr.threads import one_thread


@dataclass(frozen=True)
class QualityReport:
    """What held-out made features tell of a file."""

    file: str
    name: str
    #: "ctc" or "transducer"
    head: str
    #: how well the held-out features match the stored statistics, a layer each
    statistics: tuple[LayerAccount, ...]
    #: in the order of the network; of a transducer in that of its parts, whose names they begin with
    values: tuple[ValueQuality, ...]
    #: share of frames (of a transducer: of steps of the float network's path) whose best token is not the
    #: float network's
    frames: float
    #: mean over those of KL(float || quantized), in nats
    divergence: float
    #: what the held-out features are made from: "synthetic" or "speech"
    source: str
    #: half of the values miss at least this share of what made speech reaches: of the file's ranges, and of
    #: what the held-out features reach (``zeroq_asr.calibration.shortfall``)
    ranges_miss: float
    features_miss: float
    #: plans that the file's was chosen from; None where none was searched for
    search: PlanRow | None = None

    def __repr__(self) -> str:
        """Show how near the file is to its checkpoint, on one line."""
        return summary(
            self,
            self.file,
            f"{100 * self.frames:.2f} % of frames differ",
            f"divergence {self.divergence:.3g}",
            f"confidence {'low' if self.blind else 'high'}",
        )

    @property
    def blind(self) -> bool:
        """Whether ranges or held-out features stay so far within made speech that the figures say little."""
        return max(self.ranges_miss, self.features_miss) > BLIND

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        data = dataclasses.asdict(self) | {"confidence": "low" if self.blind else "high"}
        data["divergence_nats"] = data.pop("divergence")
        for value in data["values"]:
            value["sqnr_db"] = value.pop("sqnr")
        return data


@one_thread()
def report(
    model: AsrModel | TransducerModel,
    path: str | os.PathLike[str],
    synthesis: SynthesisSpec | None = None,
    progress: Progress = silent,
    *,
    held_out: SyntheticFeatures | None = None,
) -> QualityReport:
    """Compare the file at ``path`` with the float network that it was made of, value by value.

    Of a transducer ``path`` is the folder of its bundle.  ``held_out``: features to do so on; made as
    ``synthesis`` says with a seed far from its if not given.
    Raises VerificationError for a file that `quantize` did not write or that does not verify, ConfigError for
    one that was made of another network.
    """
    if isinstance(model, TransducerModel):
        listener = encoder_of(model)
        parts, deployment = _transducer(model, path)
    else:
        listener = model
        parts, deployment = _network(model, path)
    first = parts[0]
    synthesis = synthesis or SynthesisSpec.preset("default")
    made = held_out or make_features(
        listener, dataclasses.replace(synthesis, seed=synthesis.seed + HELD_OUT), progress=progress
    )
    scored = ScoredFrames(first) if isinstance(model, AsrModel) else ScoredSteps(model, parts)
    progress("report", 0, len(made.lengths))
    for done, (features, length) in enumerate(zip(made.features, made.lengths, strict=True), start=1):
        scored.add(np.ascontiguousarray(features[None, :, :length]))
        progress("report", done, len(made.lengths))
    # of a transducer the encoder alone hears features
    heard = observe(first.graph, little_speech(listener, made.spec).utterances())
    measured = first.measured()
    short = _against(heard, {name: (meter.low, meter.high) for name, meter in measured.items()})
    held_short = _against(heard, {name: (meter.least, meter.most) for name, meter in measured.items()})
    return QualityReport(
        os.fspath(path),
        deployment.name,
        CTC if isinstance(model, AsrModel) else TRANSDUCER,
        made.account,
        tuple(quality for part in parts for quality in part.qualities()),
        scored.wrong,
        scored.divergence,
        source_for(listener) if held_out is None else "given",
        short,
        held_short,
        None if (row := deployment.recipe.get("search")) is None else PlanRow.from_dict(row),
    )


def _network(model: AsrModel, path: str | os.PathLike[str]) -> tuple[list[ProgramMeter], Deployment]:
    """The program of a CTC network's file beside the float graph, and what surrounds it."""
    if is_bundle(path):
        problem = f"is a transducer's bundle, and {model.name} is a CTC network"
        raise ConfigError(path, problem, "name the right checkpoint, of a hybrid with --head transducer")
    program, deployment, own = read_program(load_onnx(path), os.fspath(path))
    # the program is what is measured here: it must be what the file runs
    if own.get("dialect") != "qdq":
        verify(path)
    if not is_ctc(program):
        raise ConfigError(path, "is no CTC network, whose logits could be compared", "name one that is")
    allowed = deployment.recipe.get("quantization", {}).get("allow_float") is True
    graph = prepared_graph(capture(model.network, model.example_input(), model.name, allow_float=allowed))
    return [_meter(path, model, deployment, graph, program)], deployment


def _transducer(
    model: TransducerModel, path: str | os.PathLike[str]
) -> tuple[list[ProgramMeter], Deployment]:
    """The programs of a transducer's bundle beside the float graphs, and what surrounds them."""
    if not is_bundle(path):
        problem = f"is no bundle, and {model.name} is a transducer"
        raise ConfigError(path, problem, "name the folder that quantize wrote")
    _, found = verified_folder(path)
    graphs = capture_transducer(model.network, model.example_input(), model.name)
    deployment = found[PARTS[0]].deployment
    meters = [
        _meter(path, model, deployment, prepared_graph(getattr(graphs, part)), found[part].program, part)
        for part in PARTS
    ]
    network = model.network
    decoding = Decoding(tuple(network.durations), network.max_symbols)
    if (deployment.decoding, deployment.tokenizer.tokens) != (decoding, model.tokenizer.tokens):
        problem = "was made of another network: its tokens are others, or are decoded otherwise"
        raise ConfigError(path, problem, "name the right checkpoint")
    return meters, deployment


def _meter(
    path: str | os.PathLike[str],
    model: Model,
    deployment: Deployment,
    graph: FloatGraph,
    program: Program,
    part: str = "",
) -> ProgramMeter:
    """A program beside its graph; ConfigError where it was made of another network's."""
    produced = {name for node in graph.nodes for name in node.outs} | {*graph.inputs}
    computed = (name for i in program.code for name in i.outs if ":" not in name)
    strangers = sorted(name for name in computed if name not in produced)
    if strangers or deployment.frontend.features != model.frontend.features:
        shown = strangers[0] if strangers else f"{deployment.frontend.features} mels"
        raise ConfigError(path, f"was made of another network: it has {shown!r}", "name the right checkpoint")
    # equalization and smoothing scale these channel by channel, so that the two are not to be compared
    made_with = deployment.recipe.get("quantization", {})
    skipped = set()
    if made_with.get("equalization"):
        skipped |= {place.value for place in depthwise_places(graph)}
    if made_with.get("smoothing"):
        skipped |= {name for place in places(graph) for name in (place.value, place.maker)}
    return ProgramMeter(graph, program, f"{part}." if part else "", skipped)


def _against(speech: Observations, reached: dict[str, tuple[float, float]]) -> float:
    """Median share of what made speech reaches that lies outside of what is ``reached``."""
    found = [
        Shortfall(name, *ends, other.min, other.max)
        for name, ends in reached.items()
        if (other := speech.histograms.get(name.removesuffix(":quantized"))) is not None
    ]
    return median_shortfall(tuple(found))
