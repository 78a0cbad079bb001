"""n-gram models against their files' numbers, and the files that are refused."""

from __future__ import annotations

import gzip
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from lookup_transducers import write_arpa

from zeroq_asr.decoding.ngram import NGram
from zeroq_asr.embedded import embedded_files, embedded_model
from zeroq_asr.errors import ConfigError, ZeroqWarning

kenlm = pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")

TOKENS = ("a", "b", " ", "<unk>")
UNIGRAMS = {
    "<unk>": (-2.0, 0.0),
    "<s>": (0.0, -0.3),
    "</s>": (-0.7, 0.0),
    "a": (-0.5, -0.2),
    "b": (-0.6, -0.1),
    "<space>": (-0.8, -0.4),
}
BIGRAMS = {("<s>", "a"): -0.3, ("a", "b"): -0.4, ("b", "<space>"): -0.15}


@pytest.fixture
def arpa(tmp_path: Path) -> Path:
    return write_arpa(tmp_path / "bigram.arpa", UNIGRAMS, BIGRAMS)


def scores(model: NGram, *tokens: int) -> np.ndarray:
    """log10 of the tokens behind ``tokens``."""
    memory = model.start()
    for token in tokens:
        memory = model.follow(memory, token)
    return model.scores([memory], np.zeros((1, 1)))[0] / math.log(10)


def test_scores_are_those_of_the_file(arpa: Path) -> None:
    model = NGram(arpa, TOKENS)
    # a bigram that is there, or the weight of backing off and the unigram
    near = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(scores(model), [-0.3, -0.3 - 0.6, -0.3 - 0.8, -0.3 - 2.0], **near)
    np.testing.assert_allclose(scores(model, 0), [-0.2 - 0.5, -0.4, -0.2 - 0.8, -0.2 - 2.0], **near)
    np.testing.assert_allclose(scores(model, 0, 1), [-0.1 - 0.5, -0.1 - 0.6, -0.15, -0.1 - 2.0], **near)
    # behind what is unknown nothing is known
    np.testing.assert_allclose(scores(model, 0, 3), [-0.5, -0.6, -0.8, -2.0], **near)


def test_memories_may_be_asked_in_any_order_and_again(arpa: Path) -> None:
    model = NGram(arpa, TOKENS)
    start = model.start()
    after = model.follow(start, 0)
    both = model.scores([after, start, after], np.zeros((3, 1)))
    np.testing.assert_array_equal(both[0], both[2])
    np.testing.assert_array_equal(both[1], model.scores([start], np.zeros((1, 1)))[0])
    assert not np.array_equal(both[0], both[1])


def test_a_token_that_can_be_no_word_is_unknown(tmp_path: Path) -> None:
    path = write_arpa(tmp_path / "x.arpa", UNIGRAMS | {"\u2581c": (-0.9, 0.0)}, BIGRAMS)
    odd = ("a", "\u2581c", "", "a b", "a\0", "\t", "</s>", "b")
    with pytest.warns(ZeroqWarning, match="3 of the 8 tokens"):
        found = scores(NGram(path, odd))
    np.testing.assert_allclose(found[2:7], -2.3, atol=1e-6)
    np.testing.assert_allclose(found[[0, 1, 7]], [-0.3, -1.2, -0.9], atol=1e-6)


def test_models_over_other_words_are_refused_by_name(tmp_path: Path) -> None:
    words = {"<unk>": (-2.0, 0.0), "<s>": (0.0, 0.0), "</s>": (-1.0, 0.0)}
    pieces = ("\u2581th", "e", "\u2581a", "s")
    whole = write_arpa(tmp_path / "words.arpa", words | {"the": (-1, 0), "a": (-1, 0), "s": (-1, 0)}, {})
    with pytest.raises(ConfigError, match=r"words.arpa: is no model over the tokens: .* 1 of the 4 tokens"):
        NGram(whole, pieces)
    nemo = write_arpa(tmp_path / "nemo.arpa", words | {chr(100 + i): (-1, 0) for i in range(4)}, {})
    with pytest.raises(ConfigError, match=r"has NeMo's characters for tokens"):
        NGram(nemo, pieces)
    with pytest.raises(ConfigError, match=r"is no model over the tokens"):
        NGram(whole, ("x", "y"))


def test_a_model_of_few_of_the_tokens_is_warned_of(arpa: Path) -> None:
    with pytest.warns(ZeroqWarning, match="has 2 of the 5 tokens; the others count as <unk>"):
        NGram(arpa, ("a", "b", "c", "x", "y"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NGram(arpa, TOKENS)


def text_of(arpa: Path) -> str:
    return arpa.read_text(encoding="utf-8")


DAMAGED = {
    "nothing": lambda text: "",
    "another file": lambda text: "hello\n" + text,
    "a byte order mark": lambda text: "\ufeff" + text,
    "a binary file": lambda text: "mmap lm http://kheafield.com/code format version 5\n\0" + "\0" * 200,
    "no counts": lambda text: text.replace("ngram ", "gram "),
    "more than there are": lambda text: text.replace("ngram 2=3", "ngram 2=9000000000"),
    "cut": lambda text: text[: len(text) // 2],
    "a count that is wrong": lambda text: text.replace("ngram 2=3", "ngram 2=4"),
    "no number": lambda text: text.replace("-0.15", "xyz"),
    "a probability above 1": lambda text: text.replace("-0.15", "0.15"),
    "a word that is none": lambda text: text.replace("b <space>", "q <space>"),
    "no end": lambda text: text.replace("\\end\\", ""),
    "nothing unknown": lambda text: text.replace("-2.0\t<unk>\t0.0\n", "").replace("1=6", "1=5"),
    "no beginnings": lambda text: text.replace("<s>", "<t>"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused_in_one_line(
    arpa: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    arpa.write_text(DAMAGED[damage](text_of(arpa)), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^[^\n]*bigram\.arpa: is [^\n]+$"):
        NGram(arpa, TOKENS)
    assert capfd.readouterr() == ("", "")


def test_reading_says_nothing(arpa: Path, capfd: pytest.CaptureFixture[str]) -> None:
    NGram(arpa, TOKENS)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        NGram(tmp_path / "x.arpa", TOKENS)
    with pytest.raises(ConfigError, match="is a folder"):
        NGram(tmp_path, TOKENS)


@pytest.mark.skipif(sys.platform == "win32", reason="names are Unicode there")
def test_a_name_that_is_no_unicode_is_opened(arpa: Path) -> None:
    odd = arpa.with_name(os.fsdecode(b"\xff.arpa"))
    arpa.rename(odd)
    assert scores(NGram(odd, TOKENS))[0] == pytest.approx(-0.3, abs=1e-6)


def test_without_kenlm_it_is_named(arpa: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(ConfigError, match=r"needs KenLM, which is not installed; .*zeroq-asr\[lm\]"):
        NGram(arpa, TOKENS)


def test_a_file_that_gzip_compressed_is_the_same(arpa: Path, capfd: pytest.CaptureFixture[str]) -> None:
    packed = arpa.with_name("bigram.arpa.gz")
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    before = set(Path(tempfile.gettempdir()).glob("zeroq-asr-*"))
    for tokens in ((), (0,), (0, 1)):
        np.testing.assert_array_equal(
            scores(NGram(packed, TOKENS), *tokens), scores(NGram(arpa, TOKENS), *tokens)
        )
    # nothing is left of what was unpacked, and the name does not matter
    assert set(Path(tempfile.gettempdir()).glob("zeroq-asr-*")) <= before
    assert scores(NGram(packed.rename(arpa), TOKENS))[0] == pytest.approx(-0.3, abs=1e-6)
    assert capfd.readouterr() == ("", "")


def test_the_grams_of_the_package_fit_its_transducer_alone() -> None:
    grams = embedded_files().grams
    tokens = embedded_model("transducer").tokenizer.tokens
    memory = (model := NGram(grams, tokens)).start()
    found = model.scores([memory], np.zeros((1, 1)))[0]
    assert 0.9 < np.exp(found).sum() < 1.01
    with pytest.raises(ConfigError, match=r"pieces\.arpa\.gz: is no model over the tokens"):
        NGram(grams, embedded_model("quartznet").tokenizer.tokens)


@pytest.mark.parametrize("damage", ["cut", "flipped", "a bomb", "another file"])
def test_damaged_files_of_gzip_are_refused_in_one_line(arpa: Path, damage: str) -> None:
    packed = gzip.compress(arpa.read_bytes() * 50)
    data = {
        "cut": packed[: len(packed) // 2],
        "flipped": packed[:-8] + b"\0\0\0\0" + packed[-4:],
        "a bomb": gzip.compress(arpa.read_bytes() + b"\0" * (8 << 20)),
        "another file": gzip.compress(b"hello"),
    }[damage]
    path = arpa.with_name("x.arpa.gz")
    path.write_bytes(data)
    words = (
        "unpacks to more than 40 times" if damage == "a bomb" else "damaged gzip|not an ARPA file: it does"
    )
    with pytest.raises(ConfigError, match=rf"^[^\n]*x\.arpa\.gz: is [^\n]*({words})[^\n]*$"):
        NGram(path, TOKENS)
