"""What a recogniser says of one utterance, and the scores of all that it chose among on the way.

A CTC network scores every frame.  A transducer scores a frame given what has been said before, and two that
say different things soon score different things.  So transducers are all scored along one *path*, that of
the float network: every frame that its greedy decoding came to, behind the tokens that it had said by then.

Shapes: M mels, T feature frames, S encoded frames, J joint width, V tokens without the blank, K durations, N
steps: encoded frames of a CTC network, pairs of a frame and what has been said of a transducer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from zeroq_asr.decoding.fusion import log_softmax
from zeroq_asr.decoding.transducer import Array, Labels, State, greedy_transducer
from zeroq_asr.deployment.recognizer import Recognizer
from zeroq_asr.deployment.transducer import AnyTransducer, Decodable
from zeroq_asr.measure.recognize import decoded

#: of one utterance: [1, M, T], and its length [1] in frames
Features = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """Where the greedy decoding of one utterance asked the joiner."""

    #: all that was said, one after the other
    tokens: tuple[int, ...]
    #: [N]: the encoded frame of each step, and how many tokens had been said by then
    frames: npt.NDArray[np.int64]
    said: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Said:
    """What one recogniser makes of one utterance."""

    text: str
    #: log-probabilities of what each step chose among: of tokens [N, V + 1], and of durations [N, K] if any
    scores: tuple[Scores, ...]
    #: of a transducer: where it was scored
    path: Path | None = None


def hear(recognizer: Recognizer | AnyTransducer, features: Features, path: Path | None = None) -> Said:
    """Return what is said in features [1, M, T] with length [1].

    ``path``: where a transducer is scored; None: along its own greedy path.
    """
    tokenizer = recognizer.tokenizer
    if not isinstance(recognizer, AnyTransducer):
        given, lengths = recognizer.log_probs(*features)
        (found,) = decoded(recognizer, given, lengths)
        return Said(tokenizer.decode(found.tokens), (given[0, : lengths[0]].astype(np.float64),))
    one = recognizer.decodable(*features)
    (found,) = recognizer.decode(one)
    path = greedy_path(recognizer, one) if path is None else path
    return Said(tokenizer.decode(found.tokens), scores_along(recognizer, one, path), path)


def greedy_path(recognizer: AnyTransducer, one: Decodable) -> Path:
    """Return the path of an encoded utterance."""
    frames: list[int] = []
    said: list[int] = []
    steps = 0

    def predict(labels: Labels, state: State) -> tuple[Array, State]:
        nonlocal steps
        steps += 1
        return one.predictor(labels, state)

    def join(encoding: Array, prediction: Array) -> Array:
        frames.append(int(encoding[0, -1]))
        said.append(steps - 1)
        return one.joiner(encoding[:, :-1], prediction)

    # the number of each frame goes with it, behind its channels
    numbers = np.arange(one.encoded.shape[1], dtype=one.encoded.dtype)[None, :, None]
    (found,) = greedy_transducer(
        np.concatenate((one.encoded, numbers), axis=2),
        one.lengths,
        predict,
        join,
        one.start,
        blank_id=recognizer.tokenizer.blank_id,
        durations=recognizer.durations,
        max_symbols=recognizer.max_symbols,
        # frames that decoding does not come to are not on its path
        ahead=1,
    )
    return Path(tuple(found.tokens), np.array(frames, dtype=np.int64), np.array(said, dtype=np.int64))


def scores_along(recognizer: AnyTransducer, one: Decodable, path: Path) -> tuple[Scores, ...]:
    """Return the log-probabilities of every step of a path, as ``Said`` has them."""
    classes, durations = recognizer.tokenizer.blank_id + 1, len(recognizer.durations)
    if not len(path.frames):
        empty = [np.zeros((0, classes)), np.zeros((0, durations))]
        return tuple(empty[: 2 if durations else 1])
    state, predictions = one.start, []
    # what the last token of all leads to may never be asked for
    for label in (recognizer.tokenizer.blank_id, *path.tokens)[: int(path.said.max()) + 1]:
        predicted, state = one.predictor(np.array([label], dtype=np.int64), state)
        predictions.append(predicted[0])
    scores = recognizer.real(one.joiner(one.encoded[0, path.frames], np.stack(predictions)[path.said]))
    parts = (scores[:, :classes], scores[:, classes:]) if durations else (scores,)
    return tuple(log_softmax(part) for part in parts)


@dataclass(frozen=True)
class Distance:
    """How far recognisers are from another, over steps of both: counts and sums, which add up."""

    steps: int = 0
    #: steps whose best token is another
    wrong: int = 0
    #: sum of KL(other || this) of all that steps chose among, in nats
    divergence: float = 0.0

    def plus(self, truth: Said, found: Said) -> Distance:
        """Return this with an utterance more: ``found`` against ``truth``, scored at the same steps."""
        pairs = [*zip(truth.scores, found.scores, strict=True)]
        tokens = [scores[0].argmax(-1) for scores in (truth.scores, found.scores)]
        return replace(
            self,
            steps=self.steps + len(tokens[0]),
            wrong=self.wrong + int((tokens[0] != tokens[1]).sum()),
            divergence=self.divergence + sum(float((np.exp(a) * (a - b)).sum()) for a, b in pairs),
        )
