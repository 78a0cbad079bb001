"""What the predictor and the joiner of a transducer are observed on, without data.

A predictor hears label sequences from the blank on, its states carried from step to step; a joiner pairs of
encodings and predictions.  Both come from the decoding of made features by the float graphs themselves, and
from labels drawn by chance (``zeroq_asr.config.LabelSpec``): those that nothing made is heard as must fit the
integers, too.

Shapes: J joint width, P labels that are read at once, V tokens without the blank, K durations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zeroq_asr.calibration.calibrate import Observations, observe
from zeroq_asr.config import LabelSpec
from zeroq_asr.config.labels import DECODED, PIECES, RANDOM
from zeroq_asr.decoding.ports import PortedPredictor, ported_joiner
from zeroq_asr.decoding.transducer import Array, State, greedy_transducer
from zeroq_asr.errors import CalibrationError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.threads import one_thread

#: pairs that the joiner is observed on at a time
_AT_ONCE = 1024
#: of all pairs met in decoding, and of predictions and encodings to draw from: as many as are kept
_KEPT = 16384


@dataclass(frozen=True)
class Decoder:
    """The float graphs of a transducer's parts, and how they are decoded."""

    encoder: FloatGraph
    predictor: FloatGraph
    joiner: FloatGraph
    #: P
    context: int
    #: V
    blank_id: int
    #: [K]
    durations: tuple[int, ...]
    max_symbols: int


@dataclass(frozen=True)
class Met:
    """What decoding met: label sequences, and pairs of an encoding and a prediction, float32 [N, J] each."""

    labels: list[list[int]]
    encoded: Array
    predicted: Array


@one_thread()
@torch.inference_mode()
def decode(decoder: Decoder, features: Iterable[Tensor]) -> Met:
    """Decode features, each [M, T], greedily by the float graphs; of many pairs every n-th is kept."""
    predictor = _ported(decoder)
    encodings: list[Array] = []
    predictions: list[Array] = []
    labels: list[list[int]] = []

    def met(encoding: Array, prediction: Array) -> Array:
        encodings.append(encoding[:, :, 0].copy())
        predictions.append(prediction[:, :, 0].copy())
        (scores,) = decoder.joiner.run(*map(torch.from_numpy, (encoding, prediction)))
        return scores.numpy()

    for one in features:
        encoded, lengths = decoder.encoder.run(one[None], torch.tensor([one.shape[1]]))
        (found,) = greedy_transducer(
            encoded.transpose(1, 2).numpy(),
            lengths.numpy(),
            predictor,
            ported_joiner(met),
            predictor.start(decoder.predictor.initial_states(1), 1),
            blank_id=decoder.blank_id,
            durations=decoder.durations,
            max_symbols=decoder.max_symbols,
            # pairs that decoding does not come to are none that it meets
            ahead=1,
        )
        labels.append(found.tokens)
    if not encodings:
        raise CalibrationError("calibration", "no feature is long enough for one encoded frame")
    return Met(labels, _some(np.concatenate(encodings)), _some(np.concatenate(predictions)))


def _ported(decoder: Decoder) -> PortedPredictor:
    def run(labels: Array, states: State) -> tuple[Array, State]:
        predicted, *after = decoder.predictor.run(*map(torch.from_numpy, (labels, *states)))
        return predicted.numpy(), tuple(part.numpy() for part in after)

    return PortedPredictor(run, decoder.context, decoder.blank_id)


def _some(rows: Array) -> Array:
    """Every n-th of many rows."""
    return rows[:: -(-len(rows) // _KEPT)]


def sequences(spec: LabelSpec, met: Met, tokens: int) -> list[list[int]]:
    """Return label sequences without the blank in front, from every source of ``spec``; some may be empty.

    ``tokens``: V.  The same ``spec.label_seed`` gives the same ones.
    """
    generator = np.random.default_rng(spec.label_seed)

    def pieces() -> list[list[int]]:
        order = generator.permutation(tokens).tolist()
        return [order[first : first + spec.label_length] for first in range(0, tokens, spec.label_length)]

    def random() -> list[list[int]]:
        found: list[list[int]] = generator.integers(
            0, tokens, (spec.label_sequences, spec.label_length)
        ).tolist()
        return found

    made: dict[str, Callable[[], list[list[int]]]] = {
        DECODED: lambda: met.labels,
        PIECES: pieces,
        RANDOM: random,
    }
    return [one for source in spec.label_sources for one in made[source]()]


@torch.inference_mode()
def steps(decoder: Decoder, labels: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, ...]]:
    """Yield what the predictor takes at every step of label sequences: labels [N, P, 1], then its states.

    All sequences begin with the blank and run beside each other, N of them for as long as so many go on.
    """
    rows = sorted(labels, key=len, reverse=True)
    seen = np.full((len(rows), decoder.context), decoder.blank_id, dtype=np.int32)
    states = [torch.from_numpy(part) for part in decoder.predictor.initial_states(len(rows))]
    for step in range(len(rows[0]) + 1):
        if step:
            rows = [row for row in rows if len(row) >= step]
            latest = np.array([row[step - 1] for row in rows], dtype=np.int32)
            # the latest first
            seen = np.concatenate((latest[:, None], seen[: len(rows), :-1]), axis=1)
            states = [part[: len(rows)] for part in states]
        given = (torch.from_numpy(seen)[:, :, None], *states)
        yield given
        _, *states = decoder.predictor.run(*given)


def observe_parts(
    decoder: Decoder,
    features: Iterable[Tensor],
    spec: LabelSpec,
    *,
    histograms: bool = False,
    bins: int = 2048,
) -> tuple[Observations, Observations]:
    """Observe the predictor and the joiner of a transducer whose encoder is given ``features``, each [M, T].

    ``histograms`` and ``bins`` are those of ``observe``.  Raises CalibrationError as that does.
    """
    met = decode(decoder, features)
    labels = sequences(spec, met, decoder.blank_id)
    predictor = observe(decoder.predictor, steps(decoder, labels), histograms=histograms, bins=bins)
    predictions = _predictions(decoder, labels)
    joiner = observe(decoder.joiner, _pairs(met, predictions, spec), histograms=histograms, bins=bins)
    return predictor, joiner


@torch.inference_mode()
def _predictions(decoder: Decoder, labels: Sequence[Sequence[int]]) -> Array:
    """Predictions [N, J] along label sequences."""
    rows = [decoder.predictor.run(*given)[0][:, :, 0].numpy() for given in steps(decoder, labels)]
    return _some(np.concatenate(rows))


def _pairs(met: Met, predictions: Array, spec: LabelSpec) -> Iterator[tuple[Tensor, ...]]:
    """Pairs that decoding met, then pairs by chance."""
    generator = np.random.default_rng(spec.label_seed)
    drawn = [generator.integers(0, len(rows), spec.joint_pairs) for rows in (met.encoded, predictions)]
    encoded = np.concatenate((met.encoded, met.encoded[drawn[0]]))
    predicted = np.concatenate((met.predicted, predictions[drawn[1]]))
    for first in range(0, len(encoded), _AT_ONCE):
        yield tuple(
            torch.from_numpy(part[first : first + _AT_ONCE, :, None]) for part in (encoded, predicted)
        )
