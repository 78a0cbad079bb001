"""A specification's search, width, weights and models are those that decode."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from lookup_transducers import (
    ENCODINGS,
    Following,
    Lookup,
    as_encoded,
    random_lookup,
    start_of,
    write_arpa,
)

from zeroq_asr.config import BeamSpec
from zeroq_asr.decoding.beam import modified_beam_search
from zeroq_asr.decoding.contexts import ScoredHypothesis
from zeroq_asr.decoding.decoder import BeamDecoder
from zeroq_asr.decoding.expansion import Expansion, adaptive_expansion_search
from zeroq_asr.decoding.fusion import log_softmax
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.errors import ConfigError

ROWS = [[0, 3, 1, 4, 2], [2, 2, 0, 1, 4]]
LENGTHS = np.array([5, 4])
TOKENS = ("a", "b", "c")
ENDS = {"<unk>": (-2.0, 0.0), "<s>": (0.0, 0.0), "</s>": (-1.0, 0.0)}


def decode(
    machine: Lookup, decoder: BeamDecoder, silence: Array | None = None
) -> list[list[ScoredHypothesis]]:
    parts = (as_encoded(ROWS), LENGTHS, machine.predict, machine.join, start_of(2))
    found = decoder.n_best(*parts, silence=silence)
    assert decoder(*parts, silence=silence) == [one[0] for one in found]
    return found


def searched(machine: Lookup, scorer: Following | None, width: int) -> list[list[ScoredHypothesis]]:
    return modified_beam_search(as_encoded(ROWS), LENGTHS, machine.parts(scorer), start_of(2), width)


def assert_same(found: list[list[ScoredHypothesis]], expected: list[list[ScoredHypothesis]]) -> None:
    for some, others in zip(found, expected, strict=True):
        assert [(h.tokens, h.frames) for h in some] == [(h.tokens, h.frames) for h in others]
        np.testing.assert_allclose([h.model for h in some], [h.model for h in others], atol=1e-12)
        np.testing.assert_allclose([h.fusion for h in some], [h.fusion for h in others], atol=1e-6)


@pytest.mark.parametrize("durations", [(), (0, 1, 2)])
def test_width_and_bonus(durations: tuple[int, ...]) -> None:
    machine = random_lookup(0, durations=durations)
    assert_same(decode(machine, BeamDecoder(BeamSpec(3), TOKENS, durations)), searched(machine, None, 3))
    scorer = Following(lambda before: np.full(3, 0.75))
    found = decode(machine, BeamDecoder(BeamSpec(5, length_bonus=0.75), TOKENS, durations))
    assert_same(found, searched(machine, scorer, 5))
    assert all(h.fusion == 0.75 * len(h.tokens) for one in found for h in one)


def test_adaptive_expansion_has_its_own_parameters() -> None:
    machine = random_lookup(1)
    spec = BeamSpec(
        3,
        "maes",
        maes_num_steps=3,
        maes_expansion_beta=1,
        maes_expansion_gamma=1.5,
        maes_prefix_alpha=2,
    )
    encoded = as_encoded(ROWS)
    expected = adaptive_expansion_search(
        encoded, LENGTHS, machine.parts(), start_of(2), 3, Expansion(3, 1, 1.5, 2)
    )
    assert decode(machine, BeamDecoder(spec, TOKENS)) == expected
    assert decode(machine, BeamDecoder(BeamSpec(3, "maes"), TOKENS)) != expected
    with pytest.raises(ConfigError, match=r"--beam-search: maes is not known for .* durations \(TDT\)"):
        BeamDecoder(spec, TOKENS, (0, 1))


@pytest.mark.parametrize("durations", [(), (0, 1, 2)])
def test_the_internal_model_is_taken_away(durations: tuple[int, ...]) -> None:
    machine = random_lookup(2, durations=durations)

    def internal(silence: int) -> Following:
        table = machine.table[silence, :, :3]
        return Following(lambda before: -0.4 * log_softmax(table[machine.prediction(before)]))

    decoder = BeamDecoder(BeamSpec(4, ilm_weight=0.4), TOKENS, durations)
    assert_same(decode(machine, decoder), searched(machine, internal(0), 4))
    # integers whose zero point is 3
    zero = np.array([3])
    assert_same(decode(machine, decoder, zero), searched(machine, internal(3), 4))
    assert decode(machine, decoder) != decode(machine, decoder, zero)


def unigrams(path: Path, *logs: float) -> tuple[Path, np.ndarray]:
    """A model that gives a, b and c the log10 ``logs`` wherever they stand, and these in nats."""
    words = dict(zip(TOKENS, ((one, 0.0) for one in logs), strict=True))
    return write_arpa(path, ENDS | words, {("<s>", "a"): logs[0]}), math.log(10) * np.array(logs)


def test_density_ratio_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    machine = random_lookup(3)
    target, of_target = unigrams(tmp_path / "t.arpa", -0.3, -0.9, -1.2)
    source, of_source = unigrams(tmp_path / "s.arpa", -1.1, -0.2, -0.8)
    specs = {
        BeamSpec(4, lm=str(target)): 0.3 * of_target,
        BeamSpec(4, lm=str(target), lm_weight=0.7): 0.7 * of_target,
        BeamSpec(4, lm=str(target), lm_weight=0.0): 0.0 * of_target,
        BeamSpec(4, lm=str(target), source_lm=str(source)): 0.3 * of_target - 0.3 * of_source,
        BeamSpec(
            4, lm=str(target), lm_weight=0.6, source_lm=str(source), source_lm_weight=0.5, length_bonus=-0.2
        ): 0.6 * of_target - 0.5 * of_source - 0.2,
    }
    for spec, added in specs.items():
        scorer = Following(lambda before, added=added: added)
        assert_same(decode(machine, BeamDecoder(spec, TOKENS)), searched(machine, scorer, 4))
    # all there is at once: models, bonus, and what the transducer knows of itself
    spec = dataclasses.replace(spec, ilm_weight=0.4)
    table = machine.table[0, :, :3]
    scorer = Following(lambda before: added - 0.4 * log_softmax(table[machine.prediction(before)]))
    assert_same(decode(machine, BeamDecoder(spec, TOKENS)), searched(machine, scorer, 4))


def test_a_wider_beam_is_no_worse_on_average() -> None:
    gained = []
    for seed in range(20):
        machine = random_lookup(seed, sharpness=2.0)
        rows = np.random.default_rng(seed).integers(0, ENCODINGS, (1, 12))
        parts = (as_encoded(rows), np.array([12]), machine.predict, machine.join, start_of(1))
        best = [BeamDecoder(BeamSpec(width), TOKENS)(*parts)[0].score for width in (1, 4, 64)]
        gained.append(best)
    narrow, middle, wide = np.mean(gained, axis=0)
    assert narrow < middle < wide


def test_a_specification_survives_json_and_checks_itself() -> None:
    spec = BeamSpec(8, "maes", lm="a.arpa", lm_weight=0.5, source_lm="b.arpa", maes_num_steps=3)
    assert BeamSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(ConfigError, match="colour"):
        BeamSpec.from_dict({**spec.to_dict(), "colour": 1})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, "width must be a whole number from 1 to 1024, got 0"),
        ({"width": 2.0}, "width must be a whole number"),
        ({"search": "alsd"}, "search 'alsd' is not one of modified, maes"),
        ({"lm": ""}, "lm must be a non-empty string"),
        ({"lm_weight": 0.5}, "lm_weight is given without lm"),
        ({"source_lm": "a"}, "source_lm is given without lm"),
        ({"lm": "a", "source_lm_weight": 0.5}, "source_lm_weight is given without source_lm"),
        ({"lm": "a", "lm_weight": -0.5}, "lm_weight must be a finite number >= 0"),
        ({"ilm_weight": math.nan}, "ilm_weight must be a finite number"),
        ({"length_bonus": math.inf}, "length_bonus must be a finite number"),
        ({"maes_num_steps": 3}, "maes_num_steps is of the search maes, not of modified"),
        ({"maes_expansion_gamma": 1.0}, "maes_expansion_gamma is of the search maes, not of modified"),
        ({"search": "maes", "maes_prefix_alpha": -1}, "maes_prefix_alpha must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BeamSpec(**fields)  # type: ignore[arg-type]  # wrong types are the point
