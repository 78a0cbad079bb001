"""n-grams of a recogniser's tokens: how texts are cut, and that a beam takes the file."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import zeroq_asr as zq

RECIPE = Path(__file__).parents[1] / "examples" / "train_demo"


@pytest.fixture(scope="module")
def token_lm() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        yield __import__("token_lm")
    for name in ("token_lm", "arpa", "books"):
        sys.modules.pop(name)


def test_texts_are_cut_into_the_fewest_tokens(token_lm: ModuleType) -> None:
    tokens = ("<unk>", "\u2581", "\u2581a", "b", "ab", "\u2581ab", "c", "bc")
    cut = token_lm.Cutter(zq.Tokenizer(tokens, "sentencepiece"))

    def pieces(text: str) -> list[str] | None:
        found = cut(text)
        return found if found is None else [tokens[i] for i in found]

    # of equals that whose first is longest
    assert pieces("abc") == ["\u2581ab", "c"]
    assert pieces("bc a") == ["\u2581", "bc", "\u2581a"]
    assert pieces("abab c") == ["\u2581ab", "ab", "\u2581", "c"]
    assert pieces("ad") is None
    letters = token_lm.Cutter(zq.Tokenizer(("a", " ", "b")))
    assert letters("a b") == [0, 1, 2]
    assert letters("") == []


def test_words_are_counted_too(token_lm: ModuleType, tmp_path: Path) -> None:
    kenlm = pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    texts, out = tmp_path / "texts.txt", tmp_path / "words.arpa.gz"
    texts.write_text("the sun rose\nthe sun set\nnaïve\nthe moon rose", encoding="utf-8")
    files = zq.embedded_files()
    given = ["--texts", str(texts), "--words", "--order", "2", "--gain", "0", "--out", str(out)]
    token_lm.main([str(files.model), *given])
    plain = tmp_path / "words.arpa"
    plain.write_bytes(gzip.decompress(out.read_bytes()))
    model = kenlm.Model(str(plain))
    assert "moon" in model
    assert "naïve" not in model
    assert model.score("the sun rose") > model.score("the rose sun")
    tokenizer = zq.embedded_model().tokenizer
    decoder = zq.CtcBeamDecoder(zq.BeamSpec(4, lm=str(out)), tokenizer.tokens, texts=tokenizer.inner_texts())
    assert decoder.lm_unit == "word"


def test_a_beam_takes_the_file(token_lm: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("kenlm", reason="KenLM is not installed: pip install 'zeroq-asr[lm]'")
    texts, out = tmp_path / "texts.txt", tmp_path / "characters.arpa.gz"
    listed = [(one.text or "").lower() for one in zq.read_manifest(zq.embedded_files().test)]
    texts.write_text("\n".join([*listed, "", "naïve"]), encoding="utf-8")
    files = zq.embedded_files()
    token_lm.main([str(files.model), "--texts", str(texts), "--order", "3", "--out", str(out)])
    tokens = zq.embedded_model().tokenizer.tokens
    decoder = zq.CtcBeamDecoder(zq.BeamSpec(4, lm=str(out), lm_weight=1.0), tokens)
    # scores that say nothing: what the model says most often begins a text
    (found,) = decoder(np.zeros((1, 1, len(tokens) + 1), np.float32), np.array([1]))
    assert np.isfinite(found.score)
    with pytest.raises(zq.ConfigError, match="is no model over the tokens"):
        zq.BeamDecoder(zq.BeamSpec(4, lm=str(out)), zq.embedded_model("transducer").tokenizer.tokens)
