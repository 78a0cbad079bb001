"""What a search for a plan hears: features of several kinds, and what a change costs on them.

Noise ranks what is changed, and a divergence says what is lost: ``zeroq_asr.measure.plans`` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program
from zeroq_asr.measure.qualities import FrameMeter
from zeroq_asr.measure.replays import Changes, Replay, Weights, replays_of

#: utterances of a kind that a change is tried on
_TRIED = 2


class Heard:
    """Features of one kind, and what the float network makes of them."""

    def __init__(self, graph: FloatGraph, features: Sequence[Tensor]) -> None:
        """``features``: utterances [1, M, T]."""
        self._graph = graph
        self.features = features
        self._wanted = [graph.run(x, torch.tensor([x.shape[2]]))[0][0] for x in features]
        #: what 8 bits lose, in nats a frame
        self.least = 0.0

    @torch.inference_mode()
    def divergence(self, program: Program) -> float:
        """Mean over frames of the Jensen-Shannon divergence of integers from float, in nats."""
        meter = FrameMeter(program.values[program.output("logits").value].scale)
        for x, wanted in zip(self.features, self._wanted, strict=True):
            meter.add(wanted, program.run(TorchBackend(), x, torch.tensor([x.shape[2]]))[0][0])
        return meter.bounded_divergence

    def replays(self) -> list[Replay]:
        """The first of them, for changes to be tried on."""
        return replays_of(self._graph, [x[0] for x in self.features[:_TRIED]])


@dataclass(frozen=True)
class Cost:
    """What a change alone costs, such as rounding the weights of a layer."""

    #: at the logits, by their power, summed over kinds of features
    noise: float
    #: nats a frame, of the kind of features on which it is the worse
    loss: float


def cost(
    replays: Sequence[Sequence[Replay]],
    changes: Changes | None = None,
    weights: Weights | None = None,
    biases: Weights | None = None,
) -> Cost:
    """Return what a change costs in the float network, on ``replays`` of every kind of features.

    ``changes``, ``weights`` and ``biases`` are as of ``Replay.logits``.
    """
    noise, losses = 0.0, []
    for several in replays:
        meter, signal, error = FrameMeter(), 0.0, 0.0
        for replay in several:
            wanted, found = replay.logits(), replay.logits(changes, weights, biases)
            meter.add(wanted, found)
            # what all logits of a frame have in common says nothing
            wanted, found = (each.double() - each.double().mean(-1, True) for each in (wanted, found))
            signal += float(wanted.square().sum())
            error += float((wanted - found).square().sum())
        noise += error / signal if signal else 0.0
        losses.append(meter.bounded_divergence)
    return Cost(noise, max(losses))
