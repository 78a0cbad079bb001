from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from zeroq_asr.errors import ConfigError
from zeroq_asr.speech.tokenizer import Tokenizer

CHARACTERS = Tokenizer((" ", "a", "b"))


def test_characters_join() -> None:
    assert CHARACTERS.decode([1, 0, 2, 0]) == "a b"
    assert CHARACTERS.decode([]) == ""
    assert CHARACTERS.blank_id == 3


def test_pieces_join_to_words() -> None:
    tokens = ("<unk>", "<s>", "▁the", "re", "▁", "s", "<0xC3>", "<0xA9>")
    tokenizer = Tokenizer(tokens, "sentencepiece")
    assert tokenizer.decode([2, 3, 4, 5]) == "there s"
    assert tokenizer.decode([1, 2, 6, 7, 5]) == "theés"
    assert tokenizer.decode([6]) == "\ufffd"
    assert tokenizer.decode([0]) == "\u2047"


def test_wordpieces_join_to_words() -> None:
    tokenizer = Tokenizer(("[PAD]", "the", "##re", "is"), "wordpiece")
    assert tokenizer.decode([1, 2, 0, 3]) == "there is"
    assert tokenizer.decode([2, 3]) == "re is"


@pytest.mark.parametrize("number", [3, -1])
def test_blank_and_strangers_have_no_text(number: int) -> None:
    with pytest.raises(ConfigError, match="not one of the 3 tokens"):
        CHARACTERS.decode([number])


def test_survives_json() -> None:
    assert Tokenizer.from_dict(json.loads(json.dumps(CHARACTERS.to_dict()))) == CHARACTERS


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"tokens": ["a"], "kind": "characters", "more": 1},
        {"tokens": "abc", "kind": "characters"},
        {"tokens": ["a", 1], "kind": "characters"},
        {"tokens": [], "kind": "characters"},
        {"tokens": ["a"], "kind": "phonemes"},
    ],
)
def test_refuses_malformed_dictionaries(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Tokenizer.from_dict(values)


def test_token_file_keeps_the_space(tmp_path: Path) -> None:
    CHARACTERS.write_tokens(tmp_path / "tokens.txt")
    assert (tmp_path / "tokens.txt").read_bytes() == b"  0\na 1\nb 2\n<blk> 3\n"


def test_token_file_refuses_line_breaks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line break"):
        Tokenizer(("a", "\n")).write_tokens(tmp_path / "tokens.txt")
    assert not list(tmp_path.iterdir())


def test_reads_a_sentencepiece_model(sentencepiece_model: bytes) -> None:
    import sentencepiece

    tokenizer = Tokenizer.from_sentencepiece(sentencepiece_model)
    processor = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(sentencepiece_model)
    ids = processor.Encode("the cat sat on the mat")
    assert tokenizer.decode(ids) == processor.Decode(ids) == "the cat sat on the mat"
    assert tokenizer.blank_id == processor.GetPieceSize()


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x00" * 100])
def test_refuses_what_is_no_sentencepiece_model(data: bytes) -> None:
    with pytest.raises(ConfigError, match="SentencePiece"):
        Tokenizer.from_sentencepiece(data)


def test_damaged_sentencepiece_models_are_refused(small_model: bytes) -> None:
    rng = np.random.default_rng(0)
    assert Tokenizer.from_sentencepiece(small_model).tokens[:1] == ("<unk>",)
    for _ in range(300):
        broken = bytearray(small_model)
        broken[int(rng.integers(len(broken)))] = int(rng.integers(256))
        with contextlib.suppress(ConfigError):  # anything else is a fault
            Tokenizer.from_sentencepiece(bytes(broken))
    with pytest.raises(ConfigError, match=r"not a SentencePiece model .*utf-8"):
        Tokenizer.from_sentencepiece(small_model.replace("▁".encode(), b"\xe2\x96\xff"))
    with pytest.raises(ConfigError, match="more than any has"):
        Tokenizer.from_sentencepiece(bytes(2**26 + 1))


def test_tokens_have_the_length_of_tokens() -> None:
    with pytest.raises(ConfigError, match=r"token 'aaa.* … a+' has 1048576 characters") as caught:
        Tokenizer(("a", "a" * 2**20))
    assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError, match="1048577 tokens are more than"):
        Tokenizer(("a",) * (2**20 + 1))


@pytest.fixture(scope="module")
def small_model() -> bytes:
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["the cat sat on the mat"] * 20),
        model_writer=model,
        vocab_size=18,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=5,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def sentencepiece_model() -> bytes:
    import sentencepiece

    model = io.BytesIO()
    text = ["the cat sat on the mat", "a mat is on the cat", "that is the hat"] * 20
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(text),
        model_writer=model,
        vocab_size=24,
        hard_vocab_limit=False,
        minloglevel=5,
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("tokenizer", "texts"),
    [
        (Tokenizer(("a", " ", "B")), ("a", " ", "B")),
        (
            Tokenizer(("<unk>", "\u2581th", "e", "<0x41>", "<0xC3>", "</s>"), "sentencepiece"),
            (" \u2047 ", " th", "e", "A", "\ufffd", ""),
        ),
        (Tokenizer(("[PAD]", "the", "##se", "a"), "wordpiece"), ("", " the", "se", " a")),
    ],
)
def test_what_a_token_adds_behind_others(tokenizer: Tokenizer, texts: tuple[str, ...]) -> None:
    assert tokenizer.inner_texts() == texts
    # behind a token of one character, as whole texts have it
    first = next(number for number, text in enumerate(texts) if text.strip())
    for number, text in enumerate(texts):
        if "\ufffd" not in text:
            assert tokenizer.texts([first, number])[1] == text
