"""Modified beam search against the sum over every alignment, a slow spelling of its rules, and greedy."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lookup_transducers import (
    ENCODINGS,
    PREDICTIONS,
    Lookup,
    as_encoded,
    bigrams_of,
    random_lookup,
    start_of,
)

from zeroq_asr.decoding.beam import highest, modified_beam_search
from zeroq_asr.decoding.contexts import ScoredHypothesis
from zeroq_asr.decoding.fusion import Scorer
from zeroq_asr.decoding.transducer import greedy_transducer
from zeroq_asr.errors import CheckpointError

#: more than there are hypotheses
ALL = 10_000
DURATIONS = [(), (1, 2), (0, 1, 2), (2, 0, 3)]
Tokens = tuple[int, ...]


def search(
    machine: Lookup, rows: list[list[int]], lengths: list[int], width: int, scorer: Scorer | None = None
) -> list[list[ScoredHypothesis]]:
    parts = machine.parts(scorer)
    return modified_beam_search(as_encoded(rows), np.array(lengths), parts, start_of(len(rows)), width)


def every_alignment(machine: Lookup, encoded: list[int]) -> dict[Tokens, float]:
    """Label sequences and their log-probabilities, each alignment of one token a frame walked by itself."""
    masses: dict[Tokens, list[float]] = defaultdict(list)

    def walk(frame: int, tokens: Tokens, mass: float) -> None:
        if frame >= len(encoded):
            masses[tokens].append(mass)
            return
        words, jumps = machine.log_probs(encoded[frame], tokens)
        for token, (index, jump) in itertools.product(
            range(machine.tokens + 1), enumerate(machine.durations or (1,))
        ):
            after = tokens if token == machine.tokens else (*tokens, token)
            walk(frame + max(jump, 1), after, mass + words[token] + jumps[index])

    walk(0, (), 0.0)
    return {tokens: float(np.logaddexp.reduce(found)) for tokens, found in masses.items()}


def slowly(
    machine: Lookup, encoded: list[int], width: int, added: dict[Tokens, np.ndarray]
) -> list[tuple[Tokens, float, float]]:
    """The rules of the search, a hypothesis at a time: tokens, log-probability, what was added."""
    waiting: list[dict[Tokens, float]] = [{} for _ in range(len(encoded) + 1)]
    waiting[0][()] = 0.0

    def extra(tokens: Tokens) -> float:
        return sum(added[tokens[:i]][token] for i, token in enumerate(tokens))

    for frame, encoding in enumerate(encoded):
        there = waiting[frame]
        kept = sorted(there, key=lambda tokens: -(there[tokens] + extra(tokens)))[:width]
        made: dict[tuple[Tokens, int], float] = {}
        for tokens in kept:
            words, jumps = machine.log_probs(encoding, tokens)
            for token, index in itertools.product(range(machine.tokens + 1), range(len(jumps))):
                key = (tokens if token == machine.tokens else (*tokens, token)), index
                mass = there[tokens] + words[token] + jumps[index]
                made[key] = np.logaddexp(made.get(key, -np.inf), mass)
        for key in sorted(made, key=lambda key: -(made[key] + extra(key[0])))[:width]:
            tokens, index = key
            jump = max((machine.durations or (1,))[index], 1)
            arrival = waiting[min(frame + jump, len(encoded))]
            arrival[tokens] = np.logaddexp(arrival.get(tokens, -np.inf), made[key])
    last = waiting[-1]
    ranked = sorted(last, key=lambda tokens: -(last[tokens] + extra(tokens)))[:width]
    return [(tokens, last[tokens], extra(tokens)) for tokens in ranked]


@pytest.mark.parametrize("durations", DURATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_beam_of_everything_is_the_sum_over_alignments(seed: int, durations: tuple[int, ...]) -> None:
    machine = random_lookup(seed, durations=durations)
    encoded = [[0, 3, 1, 4], [2, 2, 0, 1]]
    found = search(machine, encoded, [4, 3], ALL)
    for hypotheses, row, length in zip(found, encoded, (4, 3), strict=True):
        expected = every_alignment(machine, row[:length])
        assert np.logaddexp.reduce([*expected.values()]) == pytest.approx(0.0, abs=1e-12)
        assert [tuple(h.tokens) for h in hypotheses] == sorted(expected, key=lambda y: -expected[y])
        np.testing.assert_allclose(
            [h.model for h in hypotheses], [expected[tuple(h.tokens)] for h in hypotheses], atol=1e-12
        )
        assert all(h.fusion == 0.0 and h.score == h.model for h in hypotheses)
        for h in hypotheses:
            assert len(h.frames) == len(h.tokens)
            assert all(a < b for a, b in itertools.pairwise([-1, *h.frames, length]))


@pytest.mark.parametrize("durations", DURATIONS)
def test_what_a_scorer_adds_ranks_a_beam_of_everything(durations: tuple[int, ...]) -> None:
    machine, scorer = random_lookup(7, durations=durations), bigrams_of(7, 3)
    (found,) = search(machine, [[1, 0, 4, 2]], [4], ALL, scorer)
    alignments = every_alignment(machine, [1, 0, 4, 2])
    expected = {tokens: mass + scorer.total(tokens) for tokens, mass in alignments.items()}
    assert [tuple(h.tokens) for h in found] == sorted(expected, key=lambda y: -expected[y])
    for h in found:
        tokens = tuple(h.tokens)
        assert (h.model, h.fusion) == pytest.approx((alignments[tokens], scorer.total(tokens)), abs=1e-12)
    # it does change the order
    assert [tuple(h.tokens) for h in found] != sorted(alignments, key=lambda y: -alignments[y])


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(DURATIONS), st.integers(1, 6), st.integers(1, 7), st.booleans()
)
def test_a_narrow_beam_follows_the_rules(
    seed: int, durations: tuple[int, ...], width: int, frames: int, fused: bool
) -> None:
    machine, scorer = random_lookup(seed, durations=durations), bigrams_of(seed, 3)
    encoded = np.random.default_rng(seed).integers(0, ENCODINGS, frames).tolist()
    (found,) = search(machine, [encoded], [frames], width, scorer if fused else None)

    class Added(dict):
        def __missing__(self, tokens: Tokens) -> np.ndarray:
            return scorer.function(tokens) if fused else np.zeros(3)

    expected = slowly(machine, encoded, width, Added())
    assert [tuple(h.tokens) for h in found] == [tokens for tokens, *_ in expected]
    for h, (_, model, fusion) in zip(found, expected, strict=True):
        assert (h.model, h.fusion) == pytest.approx((model, fusion), abs=1e-9)


@st.composite
def machines(draw: st.DrawFn) -> Lookup:
    """With scores of few values, so that they tie."""
    tokens, durations = draw(st.integers(1, 4)), draw(st.sampled_from([*DURATIONS, (0,)]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (ENCODINGS, PREDICTIONS, tokens + 1 + len(durations))
    return Lookup(generator.integers(0, draw(st.integers(1, 9)), shape).astype(np.float32), tokens, durations)


@given(machines(), st.data())
def test_a_beam_of_one_is_greedy_with_one_token_a_frame(machine: Lookup, data: st.DataObject) -> None:
    frames, batch = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 4))
    cells = st.lists(st.integers(0, ENCODINGS - 1), min_size=frames, max_size=frames)
    rows = data.draw(st.lists(cells, min_size=batch, max_size=batch))
    lengths = data.draw(st.lists(st.integers(0, frames), min_size=batch, max_size=batch))
    greedy = greedy_transducer(
        as_encoded(rows),
        np.array(lengths),
        machine.predict,
        machine.join,
        start_of(batch),
        blank_id=machine.tokens,
        durations=machine.durations,
        max_symbols=1,
    )
    found = search(machine, rows, lengths, 1)
    assert [len(one) for one in found] == [1] * batch
    assert [(one[0].tokens, one[0].frames) for one in found] == [(h.tokens, h.frames) for h in greedy]


@given(machines(), st.integers(1, 5), st.data())
def test_an_utterance_gives_in_a_batch_what_it_gives_alone(
    machine: Lookup, width: int, data: st.DataObject
) -> None:
    cells = st.lists(st.integers(0, ENCODINGS - 1), min_size=6, max_size=6)
    rows = data.draw(st.lists(cells, min_size=1, max_size=3))
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=len(rows), max_size=len(rows)))
    found = search(machine, rows, lengths, width)
    for row, length, together in zip(rows, lengths, found, strict=True):
        assert search(machine, [row[:length] or row], [length], width) == [together]
        assert all(type(number) is int for h in together for number in (*h.tokens, *h.frames))


def test_times_are_those_of_the_likelier_alignment() -> None:
    # one token, whose best frame is the encoding 1; blanks elsewhere
    table = np.zeros((ENCODINGS, PREDICTIONS, 2), np.float32)
    table[:, :, 1] = 3.0
    machine = Lookup(table, 1)
    table[1, machine.prediction(())] = (2.0, 0.0)
    (found,) = search(machine, [[0, 0, 1, 0]], [4], 8)
    assert (found[0].tokens, found[0].frames) == ([0], [2])


@pytest.mark.parametrize("durations", [(), (0, 1, 2)])
def test_the_joiner_and_the_predictor_run_once_a_frame(durations: tuple[int, ...]) -> None:
    machine = random_lookup(1, durations=durations)
    search(machine, [[0, 1, 2, 3, 4]] * 3, [5, 4, 5], 6)
    assert machine.joined == 5
    # the blank, and what was said at each frame but the last
    assert machine.predicted <= 5


def test_nothing_is_heard_in_nothing() -> None:
    machine = random_lookup(0)
    assert search(machine, [[0], [1]], [0, 0], 4) == [[ScoredHypothesis()]] * 2
    assert machine.predicted == 0
    assert search(machine, [[0], [1]], [0, 1], 4)[0] == [ScoredHypothesis([], [], 0.0, 0.0)]


def test_scores_that_make_no_sense_are_refused() -> None:
    machine = random_lookup(0)
    machine.table = machine.table[..., :2]
    with pytest.raises(ValueError, match=r"gives scores \[1, 2\], expected \[1, 4\]"):
        search(machine, [[0]], [1], 2)
    machine = random_lookup(0)
    machine.table[...] = np.nan
    with pytest.raises(CheckpointError, match="gives scores that are not finite"):
        search(machine, [[0]], [1], 2)


def test_a_score_of_minus_infinity_is_never_chosen() -> None:
    machine = random_lookup(0)
    machine.table[..., 1] = -np.inf
    (found,) = search(machine, [[0, 1, 2]], [3], ALL)
    assert found
    assert not any(1 in h.tokens for h in found)
    assert np.isfinite([h.score for h in found]).all()


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 35))
def test_the_highest_are_in_order_with_ties_to_the_first(values: list[int], count: int) -> None:
    scores = np.where(np.array(values) == -3, -np.inf, np.array(values, float))
    expected = sorted((i for i, v in enumerate(values) if v > -3), key=lambda i: (-values[i], i))
    assert highest(scores, count) == expected[:count]
