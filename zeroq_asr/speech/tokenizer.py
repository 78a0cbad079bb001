"""Token identifiers to text.

The CTC blank is not a token: it is the class after the last one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zeroq_asr.errors import ConfigError
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.lines import shown

#: characters: tokens are joined as they are; sentencepiece: "▁" begins a word; wordpiece: "##" continues one
KINDS = ("characters", "sentencepiece", "wordpiece")

#: tokens, and characters of one: far more than any recogniser has, and few enough for a line of text
MOST_TOKENS, MOST_CHARACTERS = 2**20, 1000
#: bytes of a SentencePiece model
_MOST_BYTES = 2**26
_WORD_START = "\u2581"
#: what SentencePiece prints for its special pieces
_SPECIAL_PIECES = {"<unk>": " \u2047 ", "<s>": "", "</s>": "", "<pad>": ""}
_SPECIAL_WORDPIECES = frozenset({"[PAD]", "[CLS]", "[SEP]", "[MASK]"})
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def is_unicode(text: str) -> bool:
    """Tell whether ``text`` can be written: JSON and pickles may hold halves of characters."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True)
class Tokenizer:
    """The token list of a recogniser and how its tokens join to text.

    Raises ConfigError when the list is empty, holds something other than strings, or the kind is
    unknown.
    """

    tokens: tuple[str, ...]
    kind: str = "characters"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(
                "tokenizer", f"unknown kind {shown(self.kind)}", f"use one of {', '.join(KINDS)}"
            )
        if not isinstance(self.tokens, tuple) or not all(isinstance(t, str) for t in self.tokens):
            raise ConfigError("tokenizer", "tokens must be a tuple of strings")
        if not self.tokens:
            raise ConfigError("tokenizer", "the token list is empty")
        if len(self.tokens) > MOST_TOKENS:
            problem = f"{len(self.tokens)} tokens are more than the {MOST_TOKENS} that a recogniser can have"
            raise ConfigError("tokenizer", problem)
        longest = max(self.tokens, key=len)
        if len(longest) > MOST_CHARACTERS:
            problem = f"token {shown(longest)} has {len(longest)} characters, more than {MOST_CHARACTERS}"
            raise ConfigError("tokenizer", problem)
        if not all(is_unicode(token) for token in self.tokens):
            raise ConfigError("tokenizer", "a token holds a lone surrogate, which is no Unicode")

    @property
    def blank_id(self) -> int:
        """The identifier of the CTC blank, after the last token."""
        return len(self.tokens)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of token identifiers (no blanks, repeats already collapsed).

        Raises ConfigError for an identifier that is not a token's.
        """
        return "".join(self.texts(ids)).strip()

    def texts(self, ids: Iterable[int]) -> list[str]:
        """Return what each token adds to the text, white space included; joined they are all of it.

        Characters that several byte tokens make together stand at the first of these.  Raises as `decode`.
        """
        pieces = []
        for number in ids:
            if not 0 <= number < len(self.tokens):
                raise ConfigError("tokenizer", f"{number} is not one of the {len(self.tokens)} tokens")
            pieces.append(self.tokens[number])
        if self.kind == "characters":
            return pieces
        if self.kind == "sentencepiece":
            return [text.replace(_WORD_START, " ") for text in _join_bytes(pieces)]
        return _join_wordpieces(pieces)

    def inner_texts(self) -> tuple[str, ...]:
        """Return what each token adds to a text that has begun, white space included.

        A byte that is no character by itself adds U+FFFD.
        """
        if self.kind == "wordpiece":
            return tuple(_join_wordpieces(["", piece])[1] for piece in self.tokens)
        return tuple(self.texts([number])[0] for number in range(len(self.tokens)))

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that JSON can hold; `from_dict` is its inverse."""
        return {"tokens": list(self.tokens), "kind": self.kind}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Tokenizer:
        """Build a tokenizer from `to_dict`'s dictionary, or raise ConfigError."""
        if not isinstance(values, Mapping) or set(values) != {"tokens", "kind"}:
            raise ConfigError("tokenizer", "expected a mapping of tokens and kind and nothing else")
        if not isinstance(values["tokens"], list):
            raise ConfigError("tokenizer", f"tokens must be a list, not {type(values['tokens']).__name__}")
        return cls(tuple(values["tokens"]), values["kind"])

    @classmethod
    def from_sentencepiece(cls, model: bytes) -> Tokenizer:
        """Read the pieces of a serialized SentencePiece model, or raise ConfigError."""
        import sentencepiece

        if len(model) > _MOST_BYTES:
            raise ConfigError(
                "tokenizer", f"not a SentencePiece model ({len(model)} bytes are more than any has)"
            )
        processor = sentencepiece.SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
            pieces = tuple(processor.IdToPiece(i) for i in range(processor.GetPieceSize()))
        except (RuntimeError, TypeError, ValueError) as error:  # ValueError: a piece that is no UTF-8
            raise ConfigError("tokenizer", f"not a SentencePiece model ({error})") from None
        return cls(pieces, "sentencepiece")

    def write_tokens(self, path: str | os.PathLike[str]) -> None:
        """Write ``token_lines``; ConfigError when there are none or the file cannot be written."""
        atomic_write_bytes(path, self.token_lines().encode())

    def token_lines(self) -> str:
        """Return ``token id`` lines with ``<blk>`` last, as ONNX speech runtimes read them.

        Raises ConfigError when a token contains a line break.
        """
        broken = [token for token in self.tokens if "\n" in token or "\r" in token]
        if broken:
            raise ConfigError(
                "tokens", f"token {shown(broken[0])} contains a line break, one token is one line"
            )
        return "".join(f"{token} {number}\n" for number, token in enumerate((*self.tokens, "<blk>")))


def _join_bytes(pieces: list[str]) -> list[str]:
    """Replace special pieces by their text and runs of byte pieces (``<0x41>``) by characters."""
    out: list[str] = []
    run, start = bytearray(), 0
    for piece in [*pieces, ""]:
        match = _BYTE_PIECE.fullmatch(piece)
        if match:
            start = start if run else len(out)
            run.append(int(match[1], 16))
            out.append("")
            continue
        if run:
            out[start] = run.decode(errors="replace")
            run.clear()
        out.append(_SPECIAL_PIECES.get(piece, piece))
    return out[:-1]


def _join_wordpieces(pieces: list[str]) -> list[str]:
    """Put a space before each piece but those that continue a word, and leave special pieces out."""
    out: list[str] = []
    begun = False
    for piece in pieces:
        if piece in _SPECIAL_WORDPIECES:
            out.append("")
            continue
        out.append((f" {piece}" if begun else piece.removeprefix("##")).replace(" ##", ""))
        begun = True
    return out
