"""Float runs whose values are kept, so that a change is followed by running what depends on it alone.

Shapes: M mels, T feature frames, S encoded frames, J joint width, V tokens without the blank, K durations, N
steps of a path (``zeroq_asr.measure.said``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from zeroq_asr.calibration.labels import Decoder
from zeroq_asr.deployment.transducer import TransducerRecognizer
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.measure.said import greedy_path

Change = Callable[[Tensor], Tensor]
#: value → what is made of it
Changes = Mapping[str, Change]
#: name of a layer's result → its weight, or its bias
Weights = Mapping[str, Tensor]


def replays_of(graph: FloatGraph, utterances: Sequence[Tensor]) -> list[Replay]:
    """Return runs over utterances [M, T], as few as can be: those of one length in a row are a batch."""
    batches = [[*batch] for _, batch in groupby(utterances, key=lambda x: int(x.shape[1]))]
    return [Replay(graph, torch.stack(one), torch.tensor([one[0].shape[1]] * len(one))) for one in batches]


class Replay:
    """One float run of a graph over features [B, M, T] with every value kept."""

    def __init__(self, graph: FloatGraph, features: Tensor, lengths: Tensor) -> None:
        self._graph = graph
        self._values: dict[str, Tensor] = {graph.inputs[1]: lengths}
        graph.run(features, lengths, observe=self._values.__setitem__)

    def logits(
        self,
        changes: Changes | None = None,
        weights: Weights | None = None,
        biases: Weights | None = None,
    ) -> Tensor:
        """Return the logits [S, V] with values and weights changed; only what depends on them is run again.

        Those of a batch follow on each other, each utterance's own frames.
        ``changes``: value → what is made of it; ``weights``: name of a convolution's result → its weight;
        ``biases``: the same of such a convolution → its bias.
        """
        logits, lengths = self.outputs(changes, weights, biases)
        return torch.cat([one[:length] for one, length in zip(logits, lengths.tolist(), strict=True)])

    def scores(
        self, part: str = "", changes: Changes | None = None, weights: Weights | None = None
    ) -> tuple[Tensor, ...]:
        """Return ``logits``, as one group of what is chosen among; a CTC network has no parts."""
        return (self.logits(changes, weights),)

    @torch.inference_mode()
    def outputs(
        self,
        changes: Changes | None = None,
        weights: Weights | None = None,
        biases: Weights | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the results of the graph with values and weights changed, as ``logits`` does."""
        changes, weights, biases = changes or {}, weights or {}, biases or {}
        # what differs from the kept values
        other = {name: changes[name](self._values[name]) for name in self._graph.inputs if name in changes}
        for node in self._graph.nodes:
            values = tuple(self._values[name] for name in node.outs)
            if node.out in weights or any(name in other for name in node.ins):
                attrs = {"weight": weights[node.out]} if node.out in weights else {}
                attrs |= {"bias": biases[node.out]} if node.out in biases else {}
                values = node.compute([other.get(name, self._values[name]) for name in node.ins], attrs)
            elif not changes.keys() & {*node.outs}:
                continue
            for name, value in zip(node.outs, values, strict=True):
                other[name] = changes[name](value) if name in changes else value
        return tuple({**self._values, **other}[name] for name in self._graph.outputs)


class TransducerReplay:
    """One float run of a transducer over features [1, M, T], scored along its greedy path.

    What depends on a change is run again: of the encoder what follows on it, of the others all, which is
    little.
    """

    def __init__(self, recognizer: TransducerRecognizer, decoder: Decoder, features: Tensor) -> None:
        self._decoder = decoder
        lengths = torch.tensor([features.shape[2]])
        self._encoder = Replay(decoder.encoder, features, lengths)
        one = recognizer.decodable(features.numpy(), lengths.numpy())
        path = greedy_path(recognizer, one)
        self._frames, self._said = torch.from_numpy(path.frames), torch.from_numpy(path.said)
        self._labels = (decoder.blank_id, *path.tokens)[: int(path.said.max(initial=-1)) + 1]
        self._encoded, self._predicted = self._encode({}, {}), self._predict({}, {})

    @torch.inference_mode()
    def scores(
        self, part: str = "", changes: Changes | None = None, weights: Weights | None = None
    ) -> tuple[Tensor, ...]:
        """Return the logits [N, V + 1] of tokens and, if there are any, those [N, K] of durations.

        ``part``: whose values and weights are changed.
        """
        changes, weights = changes or {}, weights or {}
        encoded = self._encode(changes, weights) if part == "encoder" else self._encoded
        predicted = self._predict(changes, weights) if part == "predictor" else self._predicted
        ours = (changes, weights) if part == "joiner" else ({}, {})
        (logits,) = _run(self._decoder.joiner, (encoded, predicted), *ours)
        classes = self._decoder.blank_id + 1
        groups = (logits[:, :classes, 0], logits[:, classes:, 0])
        return groups if self._decoder.durations else groups[:1]

    def _encode(self, changes: Changes, weights: Weights) -> Tensor:
        """Encodings [N, J, 1] of the steps."""
        encoded = self._encoder.outputs(changes, weights)[0]
        return encoded[0, :, self._frames].T[:, :, None].contiguous()

    @torch.inference_mode()
    def _predict(self, changes: Changes, weights: Weights) -> Tensor:
        """Predictions [N, J, 1] of the steps."""
        graph, context = self._decoder.predictor, self._decoder.context
        seen = torch.full((1, context, 1), self._decoder.blank_id, dtype=torch.int32)
        states: Sequence[Tensor] = [torch.from_numpy(part) for part in graph.initial_states(1)]
        found = []
        for label in self._labels:
            # the latest first
            seen = torch.cat((torch.full((1, 1, 1), label, dtype=torch.int32), seen[:, :-1]), dim=1)
            predicted, *states = _run(graph, (seen, *states), changes, weights)
            found.append(predicted)
        return torch.cat(found)[self._said]


def _run(
    graph: FloatGraph, given: tuple[Tensor, ...], changes: Changes, weights: Weights
) -> tuple[Tensor, ...]:
    return graph.forward(*given, attrs={name: {"weight": w} for name, w in weights.items()}, change=changes)
