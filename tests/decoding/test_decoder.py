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
from zeroq_asr.decoding.decoder import BeamDecoder, CtcBeamDecoder
from zeroq_asr.decoding.expansion import Expansion, adaptive_expansion_search
from zeroq_asr.decoding.fusion import log_softmax
from zeroq_asr.decoding.prefix import prefix_beam_search
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.errors import CheckpointError, ConfigError

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
    spec = BeamSpec(hotwords=["new  york", "b", "new york"], hotword_weight=2.0)  # type: ignore[arg-type]  # a list
    assert spec.hotwords == ("new york", "b")
    assert hash(spec) == hash(dataclasses.replace(spec))
    assert BeamSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    with pytest.raises(ConfigError, match="colour"):
        BeamSpec.from_dict({**spec.to_dict(), "colour": 1})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"width": 0}, "width must be a whole number from 1 to 1024, got 0"),
        ({"width": 2.0}, "width must be a whole number"),
        ({"search": "alsd"}, "search 'alsd' is not one of auto, modified, maes, prefix"),
        ({"lm": ""}, "lm must be a non-empty string"),
        ({"lm_weight": 0.5}, "lm_weight is given without lm"),
        ({"source_lm": "a"}, "source_lm is given without lm"),
        ({"lm": "a", "source_lm_weight": 0.5}, "source_lm_weight is given without source_lm"),
        ({"lm": "a", "lm_weight": -0.5}, "lm_weight must be a finite number >= 0"),
        ({"hotwords": "word"}, "hotwords must be a list of names, got 'word'"),
        ({"hotwords": ["a", " "]}, "hotwords must be a non-empty string"),
        ({"hotwords": ["a" * 201]}, "has more than 200 characters"),
        ({"hotwords": ["a"] * 10_001}, "10001 hotwords are more than the 10000 that there may be"),
        ({"hotword_weight": 1.0}, "hotword_weight is given without hotwords"),
        ({"hotwords": ["a"], "hotword_weight": -1.0}, "hotword_weight must be a finite number >= 0"),
        ({"ilm_weight": math.nan}, "ilm_weight must be a finite number"),
        ({"length_bonus": math.inf}, "length_bonus must be a finite number"),
        ({"maes_num_steps": 3}, "maes_num_steps is of the search maes, not of auto"),
        ({"search": "modified", "maes_expansion_gamma": 1.0}, "is of the search maes, not of modified"),
        ({"search": "maes", "maes_prefix_alpha": -1}, "maes_prefix_alpha must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        BeamSpec(**fields)  # type: ignore[arg-type]  # wrong types are the point


@pytest.mark.parametrize("search", ["modified", "maes"])
def test_hotwords_change_what_a_transducer_says(search: str) -> None:
    machine = random_lookup(4)
    found = decode(machine, BeamDecoder(BeamSpec(6, search), TOKENS))
    plain = ["".join(TOKENS[k] for k in one[0].tokens) for one in found]
    word = next(
        text for h in found[0][1:] if (text := "".join(TOKENS[k] for k in h.tokens)) and text != plain[0]
    )
    spec = BeamSpec(6, search, hotwords=(word.upper(),), hotword_weight=20.0)
    hot = decode(machine, BeamDecoder(spec, TOKENS))
    assert "".join(TOKENS[k] for k in hot[0][0].tokens) == word
    # whole words alone are paid, at the end of a beam
    for h in (h for one in hot for h in one):
        said = "".join(TOKENS[k] for k in h.tokens)
        assert h.fusion == pytest.approx(20.0 * (said == word), abs=1e-9)


def rows_of(seed: int, frames: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, frames, 4)).astype(np.float32)


def test_a_network_of_frames_is_decoded_as_specified(tmp_path: Path) -> None:
    scores, lengths = rows_of(0), np.array([6, 4])
    added = np.full(3, 0.4)
    decoder = CtcBeamDecoder(BeamSpec(3, length_bonus=0.4), TOKENS)
    found = decoder.n_best(scores, lengths)
    scorer = Following(lambda before: added)
    expected = [
        prefix_beam_search(log_softmax(one[:end]), scorer, 3)
        for one, end in zip(scores, lengths, strict=True)
    ]
    assert_same(found, expected)
    assert decoder(scores, lengths) == [one[0] for one in found]
    # what stands behind the end does not matter
    scores[1, 4:] = np.nan
    assert decoder.n_best(scores, lengths) == found
    # logits and their log-softmax are the same
    logs = log_softmax(scores[0]).astype(np.float32)
    np.testing.assert_allclose(decoder(logs[None], lengths[:1])[0].score, found[0][0].score, rtol=1e-6)
    with pytest.raises(CheckpointError, match="network: gives scores that are not finite"):
        decoder(scores, np.array([6, 6]))


def test_language_models_of_a_network_of_frames_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    target, of_target = unigrams(tmp_path / "t.arpa", -0.3, -0.9, -1.2)
    source, of_source = unigrams(tmp_path / "s.arpa", -1.1, -0.2, -0.8)
    spec = BeamSpec(
        5, lm=str(target), lm_weight=0.6, source_lm=str(source), source_lm_weight=0.5, length_bonus=0.2
    )
    scorer = Following(lambda before: 0.6 * of_target - 0.5 * of_source + 0.2)
    found = CtcBeamDecoder(spec, TOKENS).n_best(rows_of(1), np.array([6, 6]))
    assert_same(found, [prefix_beam_search(log_softmax(one), scorer, 5) for one in rows_of(1)])


def test_hotwords_change_what_a_network_of_frames_says() -> None:
    scores = rows_of(2)[:1]
    lengths = np.array([6])
    texts = ("x", " y", "z")
    plain, *others = CtcBeamDecoder(BeamSpec(8), TOKENS, texts=texts).n_best(scores, lengths)[0]
    said = ["".join(texts[k] for k in h.tokens).strip() for h in (plain, *others)]
    word = next(text for text in said[1:] if text)
    spec = BeamSpec(8, hotwords=(word,), hotword_weight=30.0)
    (found,) = CtcBeamDecoder(spec, TOKENS, texts=texts)(scores, lengths)
    assert "".join(texts[k] for k in found.tokens).strip() == word != said[0]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (BeamSpec(search="maes"), "--beam-search: maes is of transducers, this is a CTC network"),
        (BeamSpec(search="modified"), "--beam-search: modified is of transducers, this is a CTC network"),
        (BeamSpec(ilm_weight=0.1), "--ilm-weight: a CTC network has no internal language model"),
        (BeamSpec(hotwords=("d",)), "the hotword 'd' cannot be spelled"),
    ],
)
def test_what_networks_of_frames_do_not_have_is_refused(spec: BeamSpec, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        CtcBeamDecoder(spec, TOKENS)


def test_the_search_of_networks_of_frames_is_not_for_transducers() -> None:
    with pytest.raises(ConfigError, match="--beam-search: prefix is of CTC networks, this is a transducer"):
        BeamDecoder(BeamSpec(search="prefix"), TOKENS)
    CtcBeamDecoder(BeamSpec(search="prefix"), TOKENS)
