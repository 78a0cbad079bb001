"""What quantizing each layer alone costs at the logits, for choosing which deserve more bits.

One result or one layer's weights at a time are rounded in the float graph, which keeps the values of one
run, so that only what follows on the change is computed again.  Errors of layers add up and cancel in the
whole, which this does not see: the figures rank layers, they do not predict a file.  ``report`` measures one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.config import LAYER_BITS, CalibrationSpec, LabelSpec, QuantSpec, SynthesisSpec
from zeroq_asr.config.choices import CTC, TRANSDUCER
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.transducer import TransducerRecognizer
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.grid import Grid, symmetric
from zeroq_asr.integer.program import ValueInfo
from zeroq_asr.integer.types import U8
from zeroq_asr.lines import summary
from zeroq_asr.lowering.formats import byte_format, wide_by_themselves, wide_formats
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.plan import Plan, ResolvedPlan, warn_of_recurrent
from zeroq_asr.measure.qualities import FrameMeter
from zeroq_asr.measure.replays import Changes, Replay, TransducerReplay, Weights, replays_of
from zeroq_asr.model import AsrModel, TransducerModel
from zeroq_asr.operators.convolution.weights import quantize_weight
from zeroq_asr.pipeline import Prepared, prepare, prepare_transducer
from zeroq_asr.progress import Progress, silent
from zeroq_asr.registry import traits_of
from zeroq_asr.threads import available, in_order, one_thread

#: utterances that every layer is tried on: ranks of layers settle with few
UTTERANCES = 4
#: steps of a weight's scale to the scale of the largest weight: so fine that no multiplier's bits matter
_STEPS = 1 << 12


@dataclass(frozen=True)
class LayerSensitivity:
    """One result or one layer's weights, quantized alone."""

    #: of the value, as ``--bits NAME=16`` takes it
    name: str
    #: path of the layer in the module tree
    layer: str
    #: operator of the float graph
    op: str
    #: "result" or "weights"
    kind: str
    bits: int
    #: whether the result can have 16 bits whatever else has
    can_have_16_bits: bool
    #: of the logits, in dB: signal over the noise that this quantization alone makes there; inf without noise
    sqnr: float
    #: mean over frames of KL(float || quantized) of the tokens, in nats
    divergence: float


@dataclass(frozen=True)
class Sensitivity:
    """Every layer of a network, the most sensitive first."""

    name: str
    #: "ctc" or "transducer"
    head: str
    #: what it was measured on: "synthetic", "noise", "features" or "audio"
    source: str
    utterances: int
    #: output frames compared; of a transducer steps of its greedy path
    frames: int
    layers: tuple[LayerSensitivity, ...]

    def __repr__(self) -> str:
        """Show what was measured, and the layer that loses most, on one line."""
        first = f"most at {self.layers[0].layer}" if self.layers else ""
        return summary(self, self.name, f"{len(self.layers)} layers", first)

    def to_dict(self) -> dict[str, Any]:
        """Return the ranking as JSON values; ``sqnr_db`` is null where there is no noise."""
        data = dataclasses.asdict(self)
        for layer in data["layers"]:
            sqnr = layer.pop("sqnr")
            layer["sqnr_db"] = sqnr if math.isfinite(sqnr) else None
            layer["divergence_nats"] = layer.pop("divergence")
        return data


def sensitivity(
    model: AsrModel | TransducerModel,
    spec: QuantSpec | None = None,
    synthesis: SynthesisSpec | None = None,
    calibration: CalibrationSpec | None = None,
    progress: Progress = silent,
    *,
    labels: LabelSpec | None = None,
) -> Sensitivity:
    """Rank the layers of ``model`` by what quantizing each alone to ``spec`` costs.

    Features come from ``calibration.source``, ranges from all of them, costs from the first ``UTTERANCES``.
    Weights are rounded to nearest, whatever ``spec.rounding``.  Values that a file would carry in 16 bits,
    as residual streams and those of ``spec.layer_bits``, are given 16.
    Of a transducer, whose layers are named behind their part, the cost is that at its scores along its greedy
    path; ``labels``: what its predictor's and its joiner's ranges come from.
    Raises SynthesisError for a network without statistics to make features from, CalibrationError for
    features that cannot be used, ConfigError for a layer that ``spec`` names and there is not.
    """
    # no channel is evened out: a change of one layer alone is what is asked for
    spec = dataclasses.replace(spec or QuantSpec(), rounding="nearest", equalization=0.0, smoothing=0.0)
    replays: list[Replay] | list[TransducerReplay]
    if isinstance(model, TransducerModel):
        whole = prepare_transducer(
            model, spec=spec, synthesis=synthesis, calibration=calibration, labels=labels, progress=progress
        )
        prepared, decoder = whole.encoder, whole.decoder
        recognizer = TransducerRecognizer(model)
        few = _few(prepared)
        replays = [TransducerReplay(recognizer, decoder, x[None]) for x in few]
        ranges = {"encoder": prepared.calibrated().ranges}
        for part, observed in (("predictor", whole.predictor), ("joiner", whole.joiner)):
            ranges[part] = observed.calibration(prepared.calibration).ranges
        parts = {part: (getattr(decoder, part), ranges[part]) for part in PARTS}
    else:
        prepared = prepare(model, spec=spec, synthesis=synthesis, calibration=calibration, progress=progress)
        # what stays in float is not tried
        graph = with_islands(prepared.graph, spec.keep_float)
        few = _few(prepared)
        replays = replays_of(graph, few)
        parts = {"": (graph, prepared.calibrated().ranges)}
    tried = [trial for part, (graph, known) in parts.items() for trial in _trials(part, graph, known, spec)]
    found: list[LayerSensitivity] = []
    progress("sensitivity", 0, len(tried))
    with one_thread():
        for layer in in_order(partial(_measured, replays), tried, available()):
            found.append(layer)
            progress("sensitivity", len(found), len(tried))
    found.sort(key=lambda layer: (-layer.divergence, layer.sqnr))
    frames = sum(len(replay.scores()[0]) for replay in replays)
    head = TRANSDUCER if isinstance(model, TransducerModel) else CTC
    return Sensitivity(model.name, head, prepared.calibration.kind, len(few), frames, tuple(found))


def _few(prepared: Prepared) -> list[Tensor]:
    return [x for x, _ in zip(prepared.utterances(), range(UTTERANCES), strict=False)]


#: what is quantized alone, the part that it is of ("": the whole), changed values, and weights
Trial = tuple[LayerSensitivity, str, Changes, Weights]


def _trials(
    part: str, graph: FloatGraph, ranges: Mapping[str, tuple[float, float]], spec: QuantSpec
) -> Iterator[Trial]:
    """What of a graph is tried; of a transducer's part it is named behind it, and has no bits of its own."""
    plan = Plan.of(spec).resolve(graph)
    warn_of_recurrent(graph, "not among the ranked")
    known = formats(graph, ranges, plan)
    # labels are integers, and what parts hand each other has 16 bits
    known = {name: info for name, info in known.items() if name not in graph.single}
    for layer, changes, weights in (*_results(graph, known), *_weights(graph, plan)):
        if part:
            layer = dataclasses.replace(
                layer, name=f"{part}.{layer.name}", layer=f"{part}.{layer.layer}", can_have_16_bits=False
            )
        yield layer, part, changes, weights


def rounded(value: Tensor, info: ValueInfo) -> Tensor:
    """Return the real values that the integers of ``value`` in format ``info`` stand for."""
    integers = (torch.round(value / info.scale) + info.zero_point).clamp(info.lo, info.hi)
    return (integers - info.zero_point) * info.scale


def formats(
    graph: FloatGraph, ranges: Mapping[str, tuple[float, float]], plan: ResolvedPlan
) -> dict[str, ValueInfo]:
    """Return the format of every value that ``ranges`` knows, those of 16 bits included; no logits'."""
    found = {name: byte_format(real, plan.byte_bits(name)) for name, real in ranges.items()}
    return {**found, **wide_formats(graph, ranges, plan.wide)}


def _results(
    graph: FloatGraph, known: Mapping[str, ValueInfo]
) -> Iterator[tuple[LayerSensitivity, Changes, Weights]]:
    producer, logits = graph.producer(), graph.outputs[0]
    # 16 bits with a margin whatever the rest has
    while logits in producer and traits_of(producer[logits]).moves:
        logits = producer[logits].ins[0]
    computing = [n for n in graph.nodes if not traits_of(n).moves and n.out != logits]
    capable = wide_by_themselves(graph)
    names = [(graph.inputs[0], "input", graph.inputs[0]), *((n.out, n.op, n.where) for n in computing)]
    for name, op, where in names:
        if name in known:
            info = known[name]
            bits = (info.hi - info.lo).bit_length() if info.type == U8.name else LAYER_BITS
            layer = LayerSensitivity(name, where, op, "result", bits, name in capable, math.inf, 0.0)
            yield layer, {name: partial(rounded, info=info)}, {}


def _weights(graph: FloatGraph, plan: ResolvedPlan) -> Iterator[tuple[LayerSensitivity, Changes, Weights]]:
    for node in graph.nodes:
        if traits_of(node).holds_weight:
            grid = plan.grid(node)
            bits = (len(grid.levels) - 1).bit_length()
            layer = LayerSensitivity(node.out, node.where, node.op, "weights", bits, False, math.inf, 0.0)
            yield layer, {}, {node.out: on_grid(node.attrs["weight"], grid)}


def rounded_weight(weight: Tensor, bits: int) -> Tensor:
    """Return the real weights [O, I, ...] that integers of ``bits`` stand for, rounded to nearest."""
    return on_grid(weight, symmetric(bits))


def on_grid(weight: Tensor, grid: Grid) -> Tensor:
    """Return the real weights [O, I, ...] that integers of ``grid`` stand for, rounded to nearest."""
    real = weight.detach().double().numpy().reshape(len(weight), -1, 1)
    unit = float(np.abs(real).max()) / (grid.limit * _STEPS)
    if not unit:
        return weight
    integers, multiplier = quantize_weight(real, unit, grid)
    meant = integers * (multiplier * unit)[:, None, None]
    return torch.from_numpy(meant.reshape(tuple(weight.shape))).to(weight.dtype)


def _measured(replays: Sequence[Replay] | Sequence[TransducerReplay], trial: Trial) -> LayerSensitivity:
    layer, part, changes, weights = trial
    meters: list[FrameMeter] = []
    signal = noise = 0.0
    for replay in replays:
        pairs = [*zip(replay.scores(), replay.scores(part, changes, weights), strict=True)]
        meters = meters or [FrameMeter() for _ in pairs]
        for meter, (real, found) in zip(meters, pairs, strict=True):
            meter.add(real, found)
            signal += float(real.double().square().sum())
            noise += float((real.double() - found.double()).square().sum())
    sqnr = 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.inf
    # of tokens and durations together
    divergence = sum(meter.divergence for meter in meters)
    return dataclasses.replace(layer, sqnr=sqnr, divergence=max(divergence, 0.0))
