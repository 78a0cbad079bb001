"""Float graphs and integer programs over made features, and how near their scores are.

Shapes: M mels, T feature frames, S encoded frames, J joint width, V tokens without the blank, K durations, N
steps of a path (``zeroq_asr.measure.said``).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from zeroq_asr.deployment.transducer import TransducerRecognizer
from zeroq_asr.measure.qualities import FrameMeter, ProgramMeter
from zeroq_asr.measure.said import greedy_path
from zeroq_asr.model import TransducerModel


class ScoredFrames:
    """A CTC network, frame by frame."""

    def __init__(self, network: ProgramMeter) -> None:
        program = network.program
        self._network = network
        self._meter = FrameMeter(program.values[program.output("logits").value].scale)

    def add(self, features: np.ndarray) -> None:
        """Run over features [1, M, T]."""
        given = torch.from_numpy(features), torch.tensor([features.shape[2]])
        real, whole = self._network.run(given, given)
        self._meter.add(real[0][0], whole[0][0])

    @property
    def wrong(self) -> float:
        """Share of frames whose best token differs."""
        return self._meter.wrong

    @property
    def divergence(self) -> float:
        """Mean over frames, in nats."""
        return self._meter.divergence


class ScoredSteps:
    """A transducer, along the greedy path of its float network; integers hear their own encodings there."""

    def __init__(self, model: TransducerModel, parts: Sequence[ProgramMeter]) -> None:
        """``parts``: encoder, predictor and joiner."""
        self._recognizer = TransducerRecognizer(model)
        self._encoder, self._predictor, self._joiner = parts
        program = self._joiner.program
        scale = program.values[program.outputs[0].value].scale
        self._tokens, self._durations = FrameMeter(scale), FrameMeter(scale)

    def add(self, features: np.ndarray) -> None:
        """Run over features [1, M, T]."""
        lengths = np.array([features.shape[2]], dtype=np.int64)
        recognizer, blank = self._recognizer, self._recognizer.tokenizer.blank_id
        path = greedy_path(recognizer, recognizer.decodable(features, lengths))
        given = torch.from_numpy(features), torch.from_numpy(lengths)
        encoded = [made[0] for made in self._encoder.run(given, given)]
        if not len(path.frames):
            return
        said = self._predictions([blank, *path.tokens][: int(path.said.max()) + 1])
        real, whole = (
            (columns[0, :, path.frames].T[:, :, None].contiguous(), predicted[path.said])
            for columns, predicted in zip(encoded, said, strict=True)
        )
        scores = [made[0][:, :, 0] for made in self._joiner.run(real, whole)]
        self._tokens.add(*(one[:, : blank + 1] for one in scores))
        if recognizer.durations:
            self._durations.add(*(one[:, blank + 1 :] for one in scores))

    def _predictions(self, labels: Sequence[int]) -> list[torch.Tensor]:
        """Predictions [N, J, 1] behind each of N labels, in float and in integers."""
        graph, program = self._predictor.graph, self._predictor.program
        context = int(program.inputs[0].dims[1])
        seen = torch.full((1, context, 1), self._recognizer.tokenizer.blank_id, dtype=torch.int32)
        states = [
            tuple(map(torch.from_numpy, made))
            for made in (graph.initial_states(1), program.initial_states(batch=1))
        ]
        found: tuple[list[torch.Tensor], ...] = ([], [])
        for label in labels:
            # the latest first
            seen = torch.cat((torch.full((1, 1, 1), label, dtype=torch.int32), seen[:, :-1]), dim=1)
            made = self._predictor.run((seen, *states[0]), (seen, *states[1]))
            for kept, (predicted, *_) in zip(found, made, strict=True):
                kept.append(predicted)
            states = [one[1:] for one in made]
        return [torch.cat(kept) for kept in found]

    @property
    def wrong(self) -> float:
        """Share of steps whose best token differs."""
        return self._tokens.wrong

    @property
    def divergence(self) -> float:
        """Mean over steps, of tokens and durations together, in nats."""
        return self._tokens.divergence + self._durations.divergence
