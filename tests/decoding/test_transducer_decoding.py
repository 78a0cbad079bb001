"""Greedy decoding of transducers, against rules spelled out for one utterance, on networks of integers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeroq_asr.decoding.hypothesis import Hypothesis
from zeroq_asr.decoding.transducer import Array, Labels, State, greedy_transducer

#: what a prediction and an encoding may be
PREDICTIONS, ENCODINGS = 7, 5


@dataclass
class Machine:
    """A transducer of integers: an encoding and a prediction are numbers, which look scores up."""

    table: np.ndarray  # [ENCODINGS, PREDICTIONS, V + 1 + K]
    tokens: int
    calls: int = 0
    #: rows of every call of the joiner
    joined: list[int] = field(default_factory=list)

    def predict(self, labels: Labels, state: State) -> tuple[Array, State]:
        self.calls += 1
        assert labels.dtype == np.int64
        assert state[0].shape == (1, len(labels))
        after = (3 * state[0] + labels + 1) % PREDICTIONS
        return after[0][:, None], (after,)

    def join(self, encoded: Array, predicted: Array) -> Array:
        assert encoded.shape == predicted.shape == (len(encoded), 1)
        self.joined.append(len(encoded))
        return self.table[encoded[:, 0], predicted[:, 0]]


def decode(
    machine: Machine,
    encoded: np.ndarray,
    lengths: np.ndarray,
    durations: tuple[int, ...],
    limit: int,
    **options: int,
) -> list[Hypothesis]:
    start = (np.zeros((1, len(encoded)), np.int64),)
    return greedy_transducer(
        encoded[:, :, None],
        lengths,
        machine.predict,
        machine.join,
        start,
        blank_id=machine.tokens,
        durations=durations,
        max_symbols=limit,
        **options,
    )


def one_by_one(
    machine: Machine, encoded: list[int], durations: tuple[int, ...], limit: int
) -> tuple[list[int], list[int]]:
    """The rules for one utterance, a score at a time."""
    tokens: list[int] = []
    frames: list[int] = []
    predicted = (machine.tokens + 1) % PREDICTIONS
    frame = count = 0
    while frame < len(encoded):
        scores = machine.table[encoded[frame], predicted].tolist()
        words, jumps = scores[: machine.tokens + 1], scores[machine.tokens + 1 :]
        best = words.index(max(words))
        jump = durations[jumps.index(max(jumps))] if durations else 0
        if best == machine.tokens:
            frame, count = frame + max(jump, 1), 0
            continue
        tokens.append(best)
        frames.append(frame)
        predicted = (3 * predicted + best + 1) % PREDICTIONS
        count += 1
        if jump:
            frame, count = frame + jump, 0
        elif count == limit:
            frame, count = frame + 1, 0
    return tokens, frames


@st.composite
def machines(draw: st.DrawFn) -> tuple[Machine, tuple[int, ...]]:
    tokens = draw(st.integers(1, 4))
    durations = draw(st.sampled_from([(), (0, 1, 2, 3, 4), (1, 2), (2, 0), (0,)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # of few values, so that scores tie
    table = generator.integers(
        0, draw(st.integers(1, 9)), (ENCODINGS, PREDICTIONS, tokens + 1 + len(durations))
    )
    # as often as not a blank
    table[..., tokens] += generator.integers(0, 2, table.shape[:2]) * draw(st.integers(0, 9))
    return Machine(table, tokens), durations


@given(machines(), st.data())
def test_every_utterance_of_a_batch_is_decoded_by_the_rules(
    made: tuple[Machine, tuple[int, ...]], data: st.DataObject
) -> None:
    machine, durations = made
    frames = data.draw(st.integers(1, 12))
    batch, limit = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    cells = st.lists(st.integers(0, ENCODINGS - 1), min_size=frames, max_size=frames)
    encoded = np.array(data.draw(st.lists(cells, min_size=batch, max_size=batch)))
    lengths = np.array(data.draw(st.lists(st.integers(0, frames), min_size=batch, max_size=batch)))
    found = decode(machine, encoded, lengths, durations, limit)
    for row, hypothesis in enumerate(found):
        expected = one_by_one(machine, encoded[row, : lengths[row]].tolist(), durations, limit)
        assert (hypothesis.tokens, hypothesis.frames) == expected
        assert all(type(number) is int for number in (*hypothesis.tokens, *hypothesis.frames))
        assert max(np.bincount(hypothesis.frames), default=0) <= limit
        alone = decode(machine, encoded[row : row + 1], lengths[row : row + 1], durations, limit)
        assert alone == [hypothesis]
    ahead = data.draw(st.integers(1, 5))
    assert decode(machine, encoded, lengths, durations, limit, ahead=ahead) == found


def fixed(scores: list[int], tokens: int) -> Machine:
    return Machine(np.broadcast_to(np.array(scores), (ENCODINGS, PREDICTIONS, len(scores))), tokens)


def test_a_network_that_never_says_blank_ends() -> None:
    # two tokens a frame, and one where its duration leads away
    rows, lengths = np.zeros((2, 4), int), np.array([4, 2])
    endless = decode(fixed([1, 0], 1), rows, lengths, (), 2)
    assert endless[0] == Hypothesis([0] * 8, [0, 0, 1, 1, 2, 2, 3, 3])
    assert endless[1] == Hypothesis([0] * 4, [0, 0, 1, 1])
    assert decode(fixed([1, 0, 0, 1], 1), rows, lengths, (0, 3), 2)[0].frames == [0, 3]


def test_a_blank_of_no_duration_goes_on() -> None:
    found = decode(fixed([0, 1, 1], 1), np.zeros((1, 5), int), np.array([5]), (0,), 9)
    assert found == [Hypothesis([], [])]


def test_the_predictor_runs_once_a_token_for_the_whole_batch() -> None:
    machine = fixed([1, 0, 0, 1], 1)
    decode(machine, np.zeros((8, 6), int), np.full(8, 6), (0, 2), 5)
    # the blank before the first frame, and the tokens of frames 0 and 2; nobody asks what follows the last
    assert machine.calls == 3


def test_the_joiner_is_asked_of_few_frames_and_then_of_more() -> None:
    silence = np.zeros((1, 100), int)
    for ahead, expected in ((1, [1] * 100), (3, [3] * 33 + [1]), (32, [4, 8, 16, 32, 32, 8])):
        machine = fixed([0, 1], 1)
        decode(machine, silence, np.array([100]), (), 5, ahead=ahead)
        assert machine.joined == expected
    # at once of all utterances that are still without a token
    machine = fixed([0, 1], 1)
    decode(machine, np.zeros((3, 9), int), np.array([9, 2, 5]), (), 5)
    assert machine.joined == [4 + 2 + 4, 5 + 1]


def test_a_state_that_was_handed_in_stays_as_it_is() -> None:
    machine = fixed([1, 0], 1)
    start = (np.zeros((1, 2), np.int64),)
    greedy_transducer(
        np.zeros((2, 3, 1), int),
        np.array([3, 3]),
        machine.predict,
        machine.join,
        start,
        blank_id=1,
        max_symbols=2,
    )
    assert not start[0].any()


def test_nothing_is_heard_in_nothing() -> None:
    assert decode(fixed([1, 0], 1), np.zeros((2, 0), int), np.array([0, 0]), (), 2) == [
        Hypothesis(),
        Hypothesis(),
    ]


def test_what_makes_no_sense_is_refused() -> None:
    rows, lengths = np.zeros((1, 2), int), np.array([2])
    with pytest.raises(ValueError, match="max_symbols must be 1 or more, got 0"):
        decode(fixed([1, 0], 1), rows, lengths, (), 0)
    with pytest.raises(ValueError, match="ahead must be 1 or more, got 0"):
        decode(fixed([1, 0], 1), rows, lengths, (), 1, ahead=0)
    # of both frames
    with pytest.raises(ValueError, match=r"gives scores \[2, 2\], expected \[2, 4\]"):
        decode(fixed([1, 0], 1), rows, lengths, (0, 1), 2)
