"""n-gram models over words: KenLM's scores of sentences, whatever the tokens, and what they change."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lookup_transducers import as_encoded, random_lookup, start_of, write_arpa

from zeroq_asr.config import BeamSpec
from zeroq_asr.decoding.arpa import Arpa, read_arpa
from zeroq_asr.decoding.decoder import BeamDecoder, CtcBeamDecoder
from zeroq_asr.decoding.fusion import log_softmax
from zeroq_asr.decoding.word_ngram import WordBonus, WordNGram
from zeroq_asr.errors import ConfigError
from zeroq_asr.speech.tokenizer import Tokenizer

kenlm = pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")

UNIGRAMS = {
    "<unk>": (-2.5, 0.0),
    "<s>": (0.0, -0.3),
    "</s>": (-0.7, 0.0),
    "a": (-0.9, -0.2),
    "ab": (-0.6, -0.1),
    "bab": (-0.8, -0.4),
    "CA": (-1.1, -0.25),
    "cab": (-1.4, 0.0),
}
BIGRAMS = {("<s>", "bab"): -0.3, ("ab", "CA"): -0.4, ("bab", "a"): -0.15, ("a", "cab"): -0.2}
LETTERS = ("a", "b", " ", "c")
PIECES = Tokenizer(
    ("\u2581", "\u2581a", "\u2581b", "\u2581ca", "a", "b", "ab", "c", "<unk>"), "sentencepiece"
)
WORDPIECES = Tokenizer(("a", "##a", "ba", "##b", "ca", "c", "[PAD]", "ab"), "wordpiece")
#: no tokenizer's of this package: spaces behind words, within tokens, and beside each other
ODD = ("a", "b ", "  c", "a b", "\tab", "", "c\u3000a ")
OFFSET = -3.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_arpa(tmp_path / "words.arpa", UNIGRAMS, BIGRAMS)


@pytest.fixture
def arpa(path: Path) -> Arpa:
    return read_arpa(path)


def expected(arpa: Arpa, text: str, offset: float = OFFSET) -> float:
    """What KenLM says of a text's words, in nats, and the offset of those that are unknown."""
    words = [{"ca": "CA"}.get(word.lower(), word.lower()) for word in text.split()]
    said = arpa.model.score(" ".join(words), bos=True, eos=False)
    return math.log(10) * float(said) + offset * sum(word not in UNIGRAMS for word in words)


def total(scorer: Any, tokens: list[int]) -> float:
    """What a scorer adds for all tokens, and the end."""
    memory, score = scorer.start(), 0.0
    for token in tokens:
        score += scorer.scores([memory], np.zeros((1, 0)))[0, token]
        memory = scorer.follow(memory, token)
    return float(score + scorer.finish(memory))


@pytest.mark.parametrize(
    "texts", [LETTERS, PIECES.inner_texts(), WORDPIECES.inner_texts(), ODD, ("A", "b", "C", " ")]
)
def test_scores_are_those_of_kenlm_whatever_the_tokens(arpa: Arpa, texts: tuple[str, ...]) -> None:
    scorer, generator = WordNGram(arpa, texts, OFFSET), np.random.default_rng(0)
    heard = set()
    for length in (0, *generator.integers(1, 9, 150)):
        tokens = generator.integers(0, len(texts), length).tolist()
        text = "".join(texts[token] for token in tokens)
        heard |= {word.lower() for word in text.split()}
        assert total(scorer, tokens) == pytest.approx(expected(arpa, text), abs=1e-5), text
    assert {"a", "ab", "ca"} <= heard
    assert heard - {word.lower() for word in UNIGRAMS}


def test_what_can_be_no_word_is_paid_for_at_once(arpa: Arpa) -> None:
    scorer = WordNGram(arpa, LETTERS, OFFSET)
    a, b, space, c = range(4)
    memory = scorer.start()
    # words begin with a, b and c; only an end is scored
    first = scorer.scores([memory], np.zeros((1, 0)))[0]
    np.testing.assert_array_equal(first, 0.0)
    behind_c = scorer.scores([scorer.follow(memory, c)], np.zeros((1, 0)))[0]
    np.testing.assert_allclose(behind_c[[a, b, c]], [0.0, OFFSET, OFFSET])
    # once, and nothing else until the word ends
    lost = scorer.follow(scorer.follow(memory, c), b)
    behind_cb = scorer.scores([lost], np.zeros((1, 0)))[0]
    unknown = math.log(10) * (-0.3 - 2.5)
    np.testing.assert_allclose(behind_cb, [0.0, 0.0, unknown, 0.0], atol=1e-5)
    # "b" begins a word and is none
    behind_b = scorer.scores([scorer.follow(memory, b)], np.zeros((1, 0)))[0]
    assert behind_b[space] == pytest.approx(unknown + OFFSET, abs=1e-5)


def test_upper_and_lower_case_are_told_apart_where_the_file_does(tmp_path: Path) -> None:
    words = {"<unk>": (-2.5, 0.0), "<s>": (0, 0), "</s>": (-1, 0), "Ab": (-0.5, 0.0), "ab": (-1.5, 0.0)}
    scorer = WordNGram(read_arpa(write_arpa(tmp_path / "x.arpa", words, {})), ("A", "a", "b", "B", " "), 0.0)
    found = [total(scorer, tokens) / math.log(10) for tokens in ([0, 2], [1, 2], [1, 3])]
    # "aB" is in it neither way: the first that there is
    np.testing.assert_allclose(found, [-0.5, -1.5, -0.5], atol=1e-5)


@pytest.mark.parametrize("texts", [LETTERS, PIECES.inner_texts(), WORDPIECES.inner_texts(), ODD])
def test_a_bonus_for_each_word(texts: tuple[str, ...]) -> None:
    scorer, generator = WordBonus(texts), np.random.default_rng(1)
    for length in (0, *generator.integers(1, 9, 100)):
        tokens = generator.integers(0, len(texts), length).tolist()
        assert total(scorer, tokens) == len("".join(texts[token] for token in tokens).split())


def every_text(scores: np.ndarray) -> dict[tuple[int, ...], float]:
    """Tokens → log of the sum of the probabilities of all alignments [S, V + 1] that say them."""
    found: dict[tuple[int, ...], float] = {}
    blank = scores.shape[1] - 1
    for alignment in itertools.product(range(blank + 1), repeat=len(scores)):
        tokens = tuple(token for token, _ in itertools.groupby(alignment) if token != blank)
        mass = sum(float(scores[frame, token]) for frame, token in enumerate(alignment))
        found[tokens] = float(np.logaddexp(found.get(tokens, -np.inf), mass))
    return found


def test_a_beam_of_everything_is_the_sum_over_all_alignments(path: Path, arpa: Arpa) -> None:
    decoder = CtcBeamDecoder(
        BeamSpec(1024, lm=str(path), lm_weight=0.7, unk_score_offset=OFFSET, word_bonus=0.4), LETTERS
    )
    assert decoder.lm_unit == "word"
    scores = np.random.default_rng(2).standard_normal((1, 5, 5)).astype(np.float32)
    (found,) = decoder.n_best(scores, np.array([5]))
    wanted = every_text(log_softmax(scores[0]))
    assert {tuple(one.tokens) for one in found} == set(wanted)
    for one in found:
        text = "".join(LETTERS[token] for token in one.tokens)
        assert one.model == pytest.approx(wanted[tuple(one.tokens)], abs=1e-9)
        assert one.fusion == pytest.approx(0.7 * expected(arpa, text) + 0.4 * len(text.split()), abs=1e-5)


def heard(path: Path | None, scores: list[list[float]], **fields: Any) -> str:
    spec = BeamSpec(8, lm=None if path is None else str(path), **fields)
    (found,) = CtcBeamDecoder(spec, LETTERS)(np.log([scores]), np.array([len(scores)]))
    return "".join(LETTERS[token] for token in found.tokens)


def test_words_before_decide_where_sounds_do_not(path: Path) -> None:
    rest = 0.01
    sure = {letter: [0.96 if one == letter else rest for one in (*LETTERS, "")] for letter in (*LETTERS, "")}
    # "ab ca", or "ab ab", which sounds a little likelier
    doubtful = [
        [rest, rest, rest, 0.45, 0.52],
        [0.96, rest, rest, rest, rest],
        [0.44, 0.53, rest, rest, rest],
    ]
    scores = [sure["a"], sure["b"], sure[" "], *doubtful]
    assert heard(None, scores) == "ab ab"
    # log10 of "CA" behind "ab" is -0.4, that of "ab" -0.1 - 0.6
    assert heard(path, scores, lm_weight=1.0) == "ab ca"
    # what the file does not have costs its <unk>, and the offset
    odd = [sure["a"], sure["b"], sure[" "], sure["c"], sure["a"], [rest, 0.4, rest, 0.57, rest]]
    assert heard(None, odd) == "ab cac"
    assert heard(path, odd, unk_score_offset=0.0, lm_weight=0.01) == "ab cac"
    assert heard(path, odd, unk_score_offset=-100.0, lm_weight=0.01) == "ab cab"


@pytest.mark.parametrize("search", ["modified", "maes"])
def test_transducers_score_words_by_the_same_rule(path: Path, arpa: Arpa, search: str) -> None:
    machine = random_lookup(3)
    texts = ("ab", " ", "ca")
    spec = BeamSpec(6, search, lm=str(path), lm_weight=0.5, unk_score_offset=OFFSET)
    decoder = BeamDecoder(spec, ("x", "y", "z"), texts=texts)
    assert decoder.lm_unit == "word"
    parts = (as_encoded([[0, 3, 1, 4, 2]]), np.array([5]), machine.predict, machine.join, start_of(1))
    (found,) = decoder.n_best(*parts)
    assert len({tuple(one.tokens) for one in found}) > 3
    for one in found:
        text = "".join(texts[token] for token in one.tokens)
        assert one.fusion == pytest.approx(0.5 * expected(arpa, text), abs=1e-5)


def test_hotwords_count_beside_words(path: Path) -> None:
    rest = 0.01
    scores = [[rest, 0.5, rest, 0.47, rest], [0.96, rest, rest, rest, rest], [rest, 0.96, rest, rest, rest]]
    assert heard(path, scores) == "bab"
    assert heard(path, scores, hotwords=("cab",), hotword_weight=4.0) == "cab"


ENDS = {"<unk>": (-2.0, 0.0), "<s>": (0.0, 0.0), "</s>": (-1.0, 0.0)}


def unit(path: Path, tokenizer: Tokenizer, **fields: Any) -> str | None:
    spec = BeamSpec(2, lm=str(path), **fields)
    return CtcBeamDecoder(spec, tokenizer.tokens, texts=tokenizer.inner_texts()).lm_unit


def test_what_a_model_is_over_is_told_by_its_words(path: Path, tmp_path: Path) -> None:
    letters, silent = Tokenizer(LETTERS), Tokenizer(("a", "b", "c"))
    pieces = {token: (-1.0, 0.0) for token in PIECES.tokens if token != "<unk>"}
    of_pieces = write_arpa(tmp_path / "pieces.arpa", ENDS | pieces, {})
    of_letters = write_arpa(
        tmp_path / "letters.arpa", ENDS | dict.fromkeys(("a", "b", "c", "<space>"), (-1.0, 0.0)), {}
    )
    for tokenizer in (letters, PIECES, WORDPIECES):
        assert unit(path, tokenizer) == "word"
    assert unit(of_pieces, PIECES) == "token"
    assert unit(of_letters, letters) == "token"
    assert unit(of_letters, silent) == "token"
    with pytest.raises(ConfigError, match=r"pieces.arpa: is no model over the tokens: .* marks of pieces"):
        unit(of_pieces, letters)
    with pytest.raises(ConfigError, match=r"letters.arpa: is no model over the tokens: .* marks of pieces"):
        unit(of_letters, PIECES)
    with pytest.raises(
        ConfigError, match=r"words.arpa: is of whole words, .* no space that words could end at"
    ):
        unit(path, silent, lm_unit="word")
    foreign = dict.fromkeys(("der", "die", "a"), (-1.0, 0.0))
    other = write_arpa(tmp_path / "other.arpa", ENDS | foreign, {})
    with pytest.raises(
        ConfigError, match=r"has 0 words of two characters or more that the tokens spell, of 3"
    ):
        unit(other, letters)
    # who says so is believed, where any of it is of use
    assert unit(other, letters, lm_unit="word") == "word"
    none = write_arpa(tmp_path / "none.arpa", ENDS | {"der": (-1.0, 0.0)}, {})
    with pytest.raises(ConfigError, match=r"none.arpa: has no word that the recogniser's tokens spell"):
        unit(none, letters, lm_unit="word")
    with pytest.raises(ConfigError, match=r"words.arpa: is no model over the tokens"):
        unit(path, letters, lm_unit="token")


def test_an_offset_is_of_words_alone(tmp_path: Path) -> None:
    tokens = dict.fromkeys(("a", "b", "c", "<space>"), (-1.0, 0.0))
    path = write_arpa(tmp_path / "letters.arpa", ENDS | tokens, {})
    with pytest.raises(ConfigError, match=r"--unk-score-offset: is of models over words"):
        unit(path, Tokenizer(LETTERS), unk_score_offset=-1.0)
    with pytest.raises(ConfigError, match=r"--word-bonus: is of whole words"):
        CtcBeamDecoder(BeamSpec(2, word_bonus=1.0), ("a", "b"))


def test_a_source_that_lacks_words_is_no_reason_to_say_them(path: Path, tmp_path: Path, arpa: Arpa) -> None:
    source = write_arpa(tmp_path / "source.arpa", ENDS | {"ab": (-0.5, 0.0)}, {})
    spec = BeamSpec(
        64, lm=str(path), lm_weight=1.0, source_lm=str(source), source_lm_weight=0.5, unk_score_offset=OFFSET
    )
    scores = np.random.default_rng(3).standard_normal((1, 4, 5)).astype(np.float32)
    (found,) = CtcBeamDecoder(spec, LETTERS).n_best(scores, np.array([4]))
    taken = read_arpa(source)
    for one in found:
        text = "".join(LETTERS[token] for token in one.tokens)
        away = math.log(10) * taken.model.score(text, bos=True, eos=False)
        assert one.fusion == pytest.approx(expected(arpa, text) - 0.5 * away, abs=1e-5)


def test_n_grams_of_one_word_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "words.arpa"
    path.write_text("\\data\\\nngram 1=2\n\n\\1-grams:\n-1\t<unk>\n-1\tyes\n\n\\end\\\n")
    with pytest.raises(ConfigError, match=r"words.arpa: has n-grams of one word only.*: lmplz -o 2"):
        read_arpa(path)


def test_a_binary_file_of_kenlm_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "words.bin"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0" + b"\0" * 200)
    with pytest.raises(ConfigError, match=r"words.bin: is a binary file of KenLM's.*; give the ARPA file"):
        read_arpa(path)
