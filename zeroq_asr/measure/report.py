"""How good a quantized file is, for users who have no recording at all.

Everything here is measured on *held-out* made features: made with another seed than those that calibrated.
How far that can be trusted is told by a second source: made speech that neither the ranges nor the held-out
features come from.  What the figures say about real speech, and where they do not, is measured in
``benchmarks/prediction.py`` and told in docs/method.md.
"""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Any

import torch

from zeroq_asr.calibration.calibrate import Observations, observe
from zeroq_asr.calibration.equalize import depthwise_places, places
from zeroq_asr.calibration.shortfall import BLIND, Shortfall, median_shortfall
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.config import SynthesisSpec
from zeroq_asr.config.plan_row import PlanRow
from zeroq_asr.deployment.reading import load_onnx, read_program
from zeroq_asr.deployment.verify import verify
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Instruction, Program, ValueInfo, is_ctc
from zeroq_asr.lines import summary
from zeroq_asr.measure.compare import HELD_OUT
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import Progress, silent
from zeroq_asr.registry import operator_of
from zeroq_asr.synthesis.features import LayerAccount, SyntheticFeatures
from zeroq_asr.synthesis.made_speech import little_speech
from zeroq_asr.synthesis.sources import make_features, source_for
from zeroq_asr.threads import one_thread


@dataclass(frozen=True)
class ValueQuality:
    """One value of the network: its float numbers against what its integers mean."""

    name: str
    #: smallest and largest real value that its integers can mean
    low: float
    high: float
    #: how far the float values reach, as a share of the range; above 1 some are clipped
    reach: float
    #: share of float values outside of the range; of what one elementwise function alone reads, of those that
    #: it does not give alike within half a step: a range may end where the function is flat
    clipped: float
    #: signal to quantization noise in dB, the noise of all that came before included; behind that function
    sqnr: float


@dataclass(frozen=True)
class QualityReport:
    """What held-out made features tell of a file."""

    file: str
    name: str
    #: how well the held-out features match the stored statistics, a layer each
    statistics: tuple[LayerAccount, ...]
    #: in the order of the network
    values: tuple[ValueQuality, ...]
    #: share of frames whose best token is not the float network's
    frames: float
    #: mean over frames of KL(float || quantized), in nats
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
    model: AsrModel,
    path: str | os.PathLike[str],
    synthesis: SynthesisSpec | None = None,
    progress: Progress = silent,
    *,
    held_out: SyntheticFeatures | None = None,
) -> QualityReport:
    """Compare the file at ``path`` with the float network that it was made of, value by value.

    ``held_out``: features to do so on; made as ``synthesis`` says with a seed far from its if not given.
    Raises VerificationError for a file that `quantize` did not write or that does not verify, ConfigError for
    one that was made of another network.
    """
    program, deployment, own = read_program(load_onnx(path), os.fspath(path))
    # the program is what is measured here: it must be what the file runs
    if own.get("dialect") != "qdq":
        verify(path)
    if not is_ctc(program):
        raise ConfigError(path, "is no CTC network, whose logits could be compared", "name one that is")
    made_with = deployment.recipe.get("quantization", {})
    allowed = made_with.get("allow_float") is True
    graph = prepared_graph(capture(model.network, model.example_input(), model.name, allow_float=allowed))
    produced = {name for node in graph.nodes for name in node.outs} | {*graph.inputs}
    computed = (name for i in program.code for name in i.outs if ":" not in name)
    strangers = sorted(name for name in computed if name not in produced)
    if strangers or deployment.frontend.features != model.frontend.features:
        shown = strangers[0] if strangers else f"{deployment.frontend.features} mels"
        raise ConfigError(path, f"was made of another network: it has {shown!r}", "name the right checkpoint")
    synthesis = synthesis or SynthesisSpec.preset("default")
    made = held_out or make_features(
        model, dataclasses.replace(synthesis, seed=synthesis.seed + HELD_OUT), progress=progress
    )
    # equalization and smoothing scale these channel by channel, so that the two are not to be compared
    skipped = set()
    if made_with.get("equalization"):
        skipped |= {place.value for place in depthwise_places(graph)}
    if made_with.get("smoothing"):
        skipped |= {name for place in places(graph) for name in (place.value, place.maker)}
    read = _functions(graph, program)
    meters = {
        name: _Meter(info, read.get(name)) for name, info in program.values.items() if name not in skipped
    }
    frames = FrameMeter(program.values[program.output("logits").value].scale)
    progress("report", 0, len(made.lengths))
    for done, (features, length) in enumerate(zip(made.features, made.lengths, strict=True), start=1):
        x = torch.from_numpy(features[None, :, :length])
        real: dict[str, torch.Tensor] = {}
        logits, _ = graph.run(x, torch.tensor([int(length)]), observe=real.__setitem__)
        frames.add(logits[0], _integers(program, x, int(length), real, meters)[0])
        progress("report", done, len(made.lengths))
    measured = {i.out: meters[i.out] for i in program.code if i.out in meters and meters[i.out].count}
    heard = observe(graph, little_speech(model, made.spec).utterances())
    short = _against(heard, {name: (meter.low, meter.high) for name, meter in measured.items()})
    held_short = _against(heard, {name: (meter.least, meter.most) for name, meter in measured.items()})
    return QualityReport(
        os.fspath(path),
        deployment.name,
        made.account,
        tuple(meter.quality(name) for name, meter in measured.items()),
        frames.wrong,
        frames.divergence,
        source_for(model) if held_out is None else "given",
        short,
        held_short,
        None if (row := deployment.recipe.get("search")) is None else PlanRow.from_dict(row),
    )


def _against(speech: Observations, reached: dict[str, tuple[float, float]]) -> float:
    """Median share of what made speech reaches that lies outside of what is ``reached``."""
    found = [
        Shortfall(name, *ends, other.min, other.max)
        for name, ends in reached.items()
        if (other := speech.histograms.get(name.removesuffix(":quantized"))) is not None
    ]
    return median_shortfall(tuple(found))


@dataclass(frozen=True)
class _Function:
    """An elementwise function that is all that reads a value, and the step of what it gives."""

    node: FloatNode
    step: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.node.compute([x])[0]


def _functions(graph: FloatGraph, program: Program) -> dict[str, _Function]:
    """Values that one elementwise function alone reads → the function.

    Their ranges end where it is flat (``zeroq_asr.lowering.formats``): what lies beyond is not lost.
    """
    consumers = graph.consumers()
    return {
        node.ins[0]: _Function(node, program.values[node.out].scale)
        for node in graph.nodes
        if operator_of(node).function is not None
        and node.out in program.values
        and len(consumers[node.ins[0]]) == 1
        and node.ins[0] not in graph.leaving
    }


@torch.inference_mode()
def _integers(
    program: Program,
    features: torch.Tensor,
    length: int,
    real: dict[str, torch.Tensor],
    meters: dict[str, _Meter],
) -> torch.Tensor:
    """Run the program; every value that has a float counterpart is measured.  Returns its logits."""

    def measure(instruction: Instruction, value: torch.Tensor) -> None:
        # the quantized input stands for the input itself
        wanted = real.get(instruction.out.removesuffix(":quantized"))
        if wanted is not None and instruction.out in meters and wanted.shape == value.shape:
            meters[instruction.out].add(wanted, value)

    return program.run(TorchBackend(), features, torch.tensor([length]), observe=measure)[0]


class _Meter:
    """Power of a value and of its error, and what lies outside of its range.

    Both are those behind the function that alone reads the value, if there is one: nobody else sees it.
    """

    def __init__(self, info: ValueInfo, function: _Function | None = None) -> None:
        self.info, self.function = info, function
        self.low, self.high = (info.scale * (end - info.zero_point) for end in (info.lo, info.hi))
        self.count = self.outside = 0
        self.signal = self.noise = 0.0
        #: smallest and largest float value
        self.least, self.most = math.inf, -math.inf

    def add(self, real: torch.Tensor, integer: torch.Tensor) -> None:
        """Take in a float value and the integers that stand for it, of one shape."""
        wanted = real.double()
        meant = (integer.double() - self.info.zero_point) * self.info.scale
        half = self.info.scale / 2
        self.count += wanted.numel()
        self.least, self.most = min(self.least, float(wanted.min())), max(self.most, float(wanted.max()))
        outside = (wanted < self.low - half) | (wanted > self.high + half)
        if self.function is not None:
            kept = self.function(wanted.clamp(self.low, self.high))
            wanted, meant = self.function(wanted), self.function(meant)
            outside &= (wanted - kept).abs() > self.function.step / 2
        self.outside += int(outside.sum())
        self.signal += float(wanted.square().sum())
        self.noise += float((wanted - meant).square().sum())

    def quality(self, name: str) -> ValueQuality:
        """Return what was measured."""
        exact = self.noise == 0 or self.signal == 0
        ratio = math.inf if exact else 10 * math.log10(self.signal / self.noise)
        ends = ((self.low, self.least), (self.high, self.most))
        reach = max((far / end for end, far in ends if end), default=0.0)
        return ValueQuality(name, self.low, self.high, max(reach, 0.0), self.outside / self.count, ratio)


class FrameMeter:
    """Frames whose best token differs, and the divergence of their distributions."""

    def __init__(self, scale: float = 1.0) -> None:
        """``scale``: what one unit of the second logits means."""
        self._scale = scale
        self._frames = self._wrong = 0
        self._divergence = self._bounded = 0.0

    def add(self, real: torch.Tensor, other: torch.Tensor) -> None:
        """Take in float logits [S, V] and those to compare, integers or real."""
        truth = torch.log_softmax(real.double(), dim=-1)
        found = torch.log_softmax(other.double() * self._scale, dim=-1)
        self._frames += len(truth)
        self._wrong += int((truth.argmax(-1) != found.argmax(-1)).sum())
        self._divergence += float((truth.exp() * (truth - found)).sum())
        middle = torch.logaddexp(truth, found) - math.log(2)
        both = truth.exp() * (truth - middle) + found.exp() * (found - middle)
        self._bounded += 0.5 * float(both.sum())

    @property
    def wrong(self) -> float:
        """Share of frames whose best token differs."""
        return self._wrong / max(self._frames, 1)

    @property
    def divergence(self) -> float:
        """Mean over frames, in nats."""
        return self._divergence / max(self._frames, 1)

    @property
    def bounded_divergence(self) -> float:
        """Mean over frames of the Jensen-Shannon divergence, in nats: a frame adds ln 2 to its sum at most.

        So it tells how many frames change, where few that change for good decide the other.
        """
        return self._bounded / max(self._frames, 1)
