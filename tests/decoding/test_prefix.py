"""Prefix beam search against the sum over every alignment, and a slow spelling of its rules."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lookup_transducers import Following, bigrams_of

from zeroq_asr.decoding.contexts import ScoredHypothesis
from zeroq_asr.decoding.fusion import Scorer, log_softmax
from zeroq_asr.decoding.greedy import greedy_ctc_hypothesis
from zeroq_asr.decoding.prefix import prefix_beam_search

#: more than there are hypotheses
ALL = 10_000
Tokens = tuple[int, ...]


def nothing(tokens: int) -> Following:
    return Following(lambda before: np.zeros(tokens))


def random_rows(seed: int, frames: int, tokens: int, sharpness: float = 1.5) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return log_softmax(sharpness * generator.standard_normal((frames, tokens + 1)))


def collapsed(path: Tokens, blank: int) -> tuple[Tokens, Tokens]:
    """What an alignment says, and the frames at which its runs begin."""
    begins = [t for t, k in enumerate(path) if k != blank and (t == 0 or path[t - 1] != k)]
    return tuple(path[t] for t in begins), tuple(begins)


def every_alignment(rows: np.ndarray) -> dict[Tokens, list[tuple[float, Tokens]]]:
    """Token sequences, and of each alignment the log-probability and the frames of its runs."""
    frames, classes = rows.shape
    found: dict[Tokens, list[tuple[float, Tokens]]] = defaultdict(list)
    for path in itertools.product(range(classes), repeat=frames):
        tokens, begins = collapsed(path, classes - 1)
        found[tokens].append((float(sum(rows[t, k] for t, k in enumerate(path))), begins))
    return found


def slowly(rows: np.ndarray, scorer: Following, width: int) -> dict[Tokens, float]:
    """The rules of the search by strings of alignments that are never merged but by what they say."""
    blank = rows.shape[1] - 1
    # by tokens: masses of what ends in a blank, and in a token
    beam: dict[Tokens, tuple[float, float]] = {(): (0.0, -np.inf)}
    for row in rows:
        made: dict[Tokens, list[float]] = defaultdict(lambda: [-np.inf, -np.inf])
        for tokens, (ends, runs) in beam.items():
            made[tokens][0] = np.logaddexp(made[tokens][0], np.logaddexp(ends, runs) + row[blank])
            for k in range(blank):
                if tokens[-1:] == (k,):
                    made[tokens][1] = np.logaddexp(made[tokens][1], runs + row[k])
                begin = ends if tokens[-1:] == (k,) else np.logaddexp(ends, runs)
                longer = (*tokens, k)
                made[longer][1] = np.logaddexp(made[longer][1], begin + row[k])
        kept = sorted(made, key=lambda y: -(np.logaddexp(*made[y]) + scorer.total(y)))
        beam = {y: (made[y][0], made[y][1]) for y in kept[:width] if np.logaddexp(*made[y]) > -np.inf}
    return {y: float(np.logaddexp(*masses)) for y, masses in beam.items()}


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(0, 6))
def test_a_beam_of_everything_is_the_sum_over_alignments(seed: int, tokens: int, frames: int) -> None:
    rows = random_rows(seed, frames, tokens)
    found = prefix_beam_search(rows, nothing(tokens), ALL)
    expected = every_alignment(rows)
    masses = {y: np.logaddexp.reduce([mass for mass, _ in paths]) for y, paths in expected.items()}
    assert np.logaddexp.reduce([*masses.values()]) == pytest.approx(0.0, abs=1e-12)
    assert {tuple(h.tokens) for h in found} == set(masses)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
    for h in found:
        assert h.model == pytest.approx(masses[tuple(h.tokens)], abs=1e-9)
        # the likeliest alignment: by its probability, since several may be as likely
        best, _ = max(expected[tuple(h.tokens)])
        near = [begins for mass, begins in expected[tuple(h.tokens)] if mass > best - 1e-9]
        assert tuple(h.frames) in near


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 7), st.integers(1, 6), st.booleans())
def test_a_narrow_beam_follows_the_rules(
    seed: int, tokens: int, frames: int, width: int, fused: bool
) -> None:
    rows = random_rows(seed, frames, tokens)
    scorer = bigrams_of(seed, tokens) if fused else nothing(tokens)
    found = prefix_beam_search(rows, scorer, width)
    expected = slowly(rows, scorer, width)
    assert {tuple(h.tokens): pytest.approx(h.model, abs=1e-9) for h in found} == expected
    for h in found:
        assert h.fusion == pytest.approx(scorer.total(tuple(h.tokens)), abs=1e-9)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_the_most_probable_text_is_found_where_greedy_misses_it() -> None:
    # two frames of a blank and a token: the best alignment says nothing, most alignments say the token
    rows = np.log([[0.4, 0.6], [0.4, 0.6]])
    assert greedy_ctc_hypothesis(rows, 2, 1).tokens == []
    best, other = prefix_beam_search(rows, nothing(1), 4)
    assert (best.tokens, best.frames, other.tokens) == ([0], [0], [])
    assert np.exp([best.model, other.model]) == pytest.approx([0.64, 0.36])


def test_repeats_are_one_unless_a_blank_parts_them() -> None:
    sure = np.log(np.array([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]]))

    def said(path: str) -> tuple[str, list[int]]:
        rows = sure[["ab_".index(character) for character in path]]
        best = prefix_beam_search(rows, nothing(2), 4)[0]
        greedy = greedy_ctc_hypothesis(rows, len(rows), 2)
        assert (best.tokens, best.frames) == (greedy.tokens, greedy.frames)
        return "".join("ab"[k] for k in best.tokens), best.frames

    assert said("aaa") == ("a", [0])
    assert said("_aa_") == ("a", [1])
    assert said("aa_a") == ("aa", [0, 3])
    assert said("abba") == ("aba", [0, 1, 3])
    assert said("a__ab__b") == ("aabb", [0, 3, 4, 7])
    assert said("___") == ("", [])


class Ending(Following):
    """What the end adds, too: to texts that end in token 1."""

    def finish(self, memory: Tokens) -> float:
        return 5.0 if memory[-1:] == (1,) else 0.0


def test_what_the_end_adds_counts_in_the_last_order() -> None:
    rows = np.log([[0.5, 0.3, 0.2]])
    scorer = Ending(lambda before: np.zeros(2))
    found = prefix_beam_search(rows, scorer, 3)
    assert [(h.tokens, round(h.fusion, 9)) for h in found] == [([1], 5.0), ([0], 0.0), ([], 0.0)]


def test_a_score_of_minus_infinity_is_never_chosen() -> None:
    rows = log_softmax(np.array([[0.0, -np.inf, 1.0], [0.5, -np.inf, 0.0], [0.0, -np.inf, -np.inf]]))
    found = prefix_beam_search(rows, nothing(2), ALL)
    assert {tuple(h.tokens) for h in found} == {(0,), (0, 0)}
    assert np.logaddexp.reduce([h.model for h in found]) == pytest.approx(0.0, abs=1e-12)


def test_ties_do_not_depend_on_chance() -> None:
    rows = np.full((3, 4), np.log(0.25))
    found = prefix_beam_search(rows, nothing(3), 2)
    assert [h.tokens for h in found] == [h.tokens for h in prefix_beam_search(rows, nothing(3), 2)]
    assert found == [ScoredHypothesis(h.tokens, h.frames, h.model, h.fusion) for h in found]
    # of equals the lower token
    assert [h.tokens for h in prefix_beam_search(rows[:1], nothing(3), 3)] == [[], [0], [1]]


def test_scorers_are_asked_once_a_frame() -> None:
    class Counting(Following):
        calls = 0

        def scores(self, memories: list[Tokens], predictions: np.ndarray) -> np.ndarray:
            type(self).calls += 1
            assert predictions.shape == (len(memories), 0)
            return super().scores(memories, predictions)

    scorer: Scorer = Counting(lambda before: np.zeros(2))
    prefix_beam_search(random_rows(0, 9, 2), scorer, 5)
    assert Counting.calls <= 10
