"""Adaptive expansion search against the forward algorithm, greedy decoding and the modified search."""

from __future__ import annotations

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

from zeroq_asr.decoding.beam import modified_beam_search
from zeroq_asr.decoding.contexts import ScoredHypothesis
from zeroq_asr.decoding.expansion import Expansion, adaptive_expansion_search
from zeroq_asr.decoding.fusion import Scorer
from zeroq_asr.decoding.transducer import greedy_transducer

ALL = 10_000
USUAL = Expansion(steps=2, beta=2, gamma=2.3, prefix_alpha=1)


def search(
    machine: Lookup,
    rows: list[list[int]],
    lengths: list[int],
    width: int,
    expansion: Expansion = USUAL,
    scorer: Scorer | None = None,
) -> list[list[ScoredHypothesis]]:
    parts = machine.parts(scorer)
    lengths = np.array(lengths)
    return adaptive_expansion_search(as_encoded(rows), lengths, parts, start_of(len(rows)), width, expansion)


def forward(machine: Lookup, encoded: list[int], tokens: tuple[int, ...]) -> float:
    """log P(tokens | encoded) over alignments of any number of tokens a frame (Graves, section 2.4)."""
    alpha = np.full((len(encoded) + 1, len(tokens) + 1), -np.inf)
    alpha[0, 0] = 0.0
    for t, encoding in enumerate(encoded):
        for u in range(len(tokens) + 1):
            words, _ = machine.log_probs(encoding, tokens[:u])
            alpha[t + 1, u] = alpha[t, u] + words[machine.tokens]
            if u < len(tokens):
                alpha[t, u + 1] = np.logaddexp(alpha[t, u + 1], alpha[t, u] + words[tokens[u]])
    return float(alpha[-1, -1])


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_searching_everything_is_the_forward_algorithm(seed: int, fused: bool) -> None:
    machine, scorer = random_lookup(seed, tokens=2), bigrams_of(seed, 2)
    encoded = [[0, 3, 1], [4, 2, 2]]
    everything = Expansion(steps=2, beta=ALL, gamma=1e9, prefix_alpha=2)
    found = search(machine, encoded, [3, 2], ALL, everything, scorer if fused else None)
    for hypotheses, row, length in zip(found, encoded, (3, 2), strict=True):
        # as many tokens as a frame may give, so that no alignment is left out
        short = [h for h in hypotheses if len(h.tokens) <= 2]
        assert len(short) == 1 + 2 + 4
        for h in short:
            expected = forward(machine, row[:length], tuple(h.tokens))
            assert h.model == pytest.approx(expected, abs=1e-12)
            total = scorer.total(tuple(h.tokens)) if fused else 0.0
            assert h.fusion == pytest.approx(total, abs=1e-12)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        assert len({tuple(h.tokens) for h in hypotheses}) == len(hypotheses)


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 3), st.integers(0, 3))
def test_no_hypothesis_has_more_than_its_probability(seed: int, width: int, steps: int, alpha: int) -> None:
    machine = random_lookup(seed)
    encoded = np.random.default_rng(seed).integers(0, ENCODINGS, 5).tolist()
    (found,) = search(machine, [encoded], [5], width, Expansion(steps, 2, 2.3, alpha))
    assert 1 <= len(found) <= width
    for h in found:
        assert h.model <= forward(machine, encoded, tuple(h.tokens)) + 1e-9
        assert len(h.frames) == len(h.tokens)
        assert h.frames == sorted(h.frames)


@st.composite
def machines(draw: st.DrawFn) -> Lookup:
    tokens = draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (ENCODINGS, PREDICTIONS, tokens + 1)
    return Lookup(generator.integers(0, draw(st.integers(1, 9)), shape).astype(np.float32), tokens)


@given(machines(), st.integers(1, 4), st.data())
def test_the_best_expansion_alone_is_greedy(machine: Lookup, steps: int, data: st.DataObject) -> None:
    cells = st.lists(st.integers(0, ENCODINGS - 1), min_size=6, max_size=6)
    rows = data.draw(st.lists(cells, min_size=1, max_size=3))
    lengths = data.draw(st.lists(st.integers(0, 6), min_size=len(rows), max_size=len(rows)))
    greedy = greedy_transducer(
        as_encoded(rows),
        np.array(lengths),
        machine.predict,
        machine.join,
        start_of(len(rows)),
        blank_id=machine.tokens,
        max_symbols=steps,
    )
    found = search(machine, rows, lengths, 1, Expansion(steps, 0, 0.0, 1))
    assert [(one[0].tokens, one[0].frames) for one in found] == [(h.tokens, h.frames) for h in greedy]


@given(machines(), st.integers(1, 5), st.data())
def test_an_utterance_gives_in_a_batch_what_it_gives_alone(
    machine: Lookup, width: int, data: st.DataObject
) -> None:
    cells = st.lists(st.integers(0, ENCODINGS - 1), min_size=5, max_size=5)
    rows = data.draw(st.lists(cells, min_size=1, max_size=3))
    lengths = data.draw(st.lists(st.integers(0, 5), min_size=len(rows), max_size=len(rows)))
    found = search(machine, rows, lengths, width)
    for row, length, together in zip(rows, lengths, found, strict=True):
        assert search(machine, [row], [length], width) == [together]


def sure(tokens: int) -> Lookup:
    """A transducer that hears the token of its encoding once, and then a blank."""
    table = np.zeros((ENCODINGS, PREDICTIONS, tokens + 1), np.float32)
    machine = Lookup(table, tokens)
    table[..., tokens] = 20.0
    spoken = (0, 2, 1)
    for i, token in enumerate(spoken):
        table[token, machine.prediction(spoken[:i]), token] = 40.0
    assert len({machine.prediction(spoken[:i]) for i in range(4)}) == 4
    return machine


@pytest.mark.parametrize("width", [1, 2, 4, 16])
def test_what_is_clear_is_found_by_both_searches(width: int) -> None:
    machine = sure(3)
    encoded = [0, 4, 2, 3, 4, 1, 4]
    (adaptive,) = search(machine, [encoded], [7], width)
    lengths = np.array([7])
    parts = machine.parts()
    (modified,) = modified_beam_search(as_encoded([encoded]), lengths, parts, start_of(1), width)
    for found in (adaptive, modified):
        assert (found[0].tokens, found[0].frames) == ([0, 2, 1], [0, 2, 5])
        assert found[0].score == pytest.approx(0.0, abs=1e-6)


def test_several_tokens_of_one_frame_are_found() -> None:
    machine = sure(3)
    machine.table[0, :, :3] = machine.table[:3].max(axis=0)[:, :3]
    (adaptive,) = search(machine, [[0, 4]], [2], 2, Expansion(3, 2, 2.3, 1))
    assert (adaptive[0].tokens, adaptive[0].frames) == ([0, 2, 1], [0, 0, 0])
    (two,) = search(machine, [[0, 4]], [2], 2)
    assert two[0].tokens == [0, 2]


def test_a_narrower_gamma_expands_less() -> None:
    machine = random_lookup(3, sharpness=0.3)
    counts = []
    for gamma in (0.0, 0.5, 1e9):
        (found,) = search(machine, [[0, 1, 2]], [3], ALL, Expansion(2, 2, gamma, 1))
        counts.append(len(found))
    assert counts[0] < counts[1] < counts[2]


def test_the_joiner_runs_once_a_step() -> None:
    machine = random_lookup(1)
    search(machine, [[0, 1, 2, 3]] * 3, [4, 3, 4], 4)
    assert machine.joined <= 4 * 3
    assert machine.predicted <= 1 + 4 * 2


@pytest.mark.parametrize("steps", [1, 4])
def test_a_flat_network_makes_no_more_than_its_limit(steps: int) -> None:
    machine = random_lookup(1, tokens=20, sharpness=0.01)
    search(machine, [[0, 1, 2, 3]] * 2, [4, 4], 5, Expansion(steps, 3, 2.3, 1))
    assert machine.widest == 2 * (5 + 3)


def test_nothing_is_heard_in_nothing_and_durations_are_refused() -> None:
    assert search(random_lookup(0), [[0], [1]], [0, 0], 4) == [[ScoredHypothesis()]] * 2
    with pytest.raises(ValueError, match="knows no durations"):
        search(random_lookup(0, durations=(0, 1)), [[0]], [1], 4)
