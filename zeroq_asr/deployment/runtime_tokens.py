"""How speech runtimes read lists of tokens and join what was recognised, and where that differs from us."""

from __future__ import annotations

import re

from zeroq_asr.config.choices import SHERPA_ONNX
from zeroq_asr.errors import ExportError
from zeroq_asr.lines import shown
from zeroq_asr.speech.tokenizer import Tokenizer

_BLANK, _WORD_START = "<blk>", "▁"
#: what ends a token for a reader of lines, or parts one
_SPACES = re.compile(r"[ \t\n\r\f\v]")
#: letters that sherpa-onnx takes for those of Chinese, Japanese or Korean
_CHINESE = re.compile(
    "[\u1100-\u11ff\u2e80-\ua4cf\ua840-\ud7af\uf900-\ufaff\ufe30-\ufe4f\uff65-\uffdc\U00020000-\U0002ffff]"
)
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
#: pieces that our tokenizer says otherwise than they are written
_SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")


def vocabulary(runtime: str, tokenizer: Tokenizer) -> str:
    """Return ``token id`` lines, the blank last; onnx-asr's reader takes ▁ for the token that is a space."""
    if runtime == SHERPA_ONNX:
        return tokenizer.token_lines()
    tokens = tuple(_WORD_START if token == " " else token for token in tokenizer.tokens)
    return Tokenizer(tokens, tokenizer.kind).token_lines()


def token_differences(
    where: str, runtime: str, tokenizer: Tokenizer, *, transducer: bool = False
) -> list[str]:
    """Return where the runtime's text is not ours, each in a sentence; of a transducer's tokens, or CTC's.

    Raises ExportError for tokens that it would take for others.
    """
    sherpa, tokens = runtime == SHERPA_ONNX, tokenizer.tokens
    if tokenizer.kind == "wordpiece":
        raise ExportError(where, f"{runtime} joins no word pieces (##), which the tokens are")
    odd = [token for token in tokens if not token or (token != " " and _SPACES.search(token))]
    if odd:
        raise ExportError(where, f"{runtime} reads a token a line, up to a space: {shown(odd[0])} is none")
    if _BLANK in tokens:
        raise ExportError(where, f"{runtime} takes the token {_BLANK} for the blank")
    if tokenizer.kind == "characters" and any(_WORD_START in token for token in tokens):
        raise ExportError(where, f"{runtime} takes {_WORD_START} for a space, to the network it is a letter")
    if sherpa and _is_byte_bpe(tokens):
        raise ExportError(where, f"{runtime} takes tokens of Latin letters alone for codes of bytes")
    told = []
    special = [token for token in _SPECIAL if token in tokens and tokenizer.kind == "sentencepiece"]
    if special:
        told.append(f"the pieces {', '.join(special)} are printed as they are written")
    if tokenizer.kind == "sentencepiece" and any(map(_BYTE.fullmatch, tokens)) and not sherpa:
        told.append("pieces of single bytes (<0x41>) are printed as they are written")
    if sherpa:
        if any(_WORD_START in token[1:] for token in tokens):
            told.append(f"a {_WORD_START} within a piece is printed as it is written")
        if not transducer:
            return told + (["the token SIL is left out"] if "SIL" in tokens else [])
        if any(_CHINESE.search(token) for token in tokens):
            told.append("a space between two letters of Chinese, Japanese or Korean is left out")
    bare = (token.lstrip(f"{_WORD_START} ") for token in tokens if token not in _SPECIAL)
    marks = sorted({token[0] for token in bare if token and not re.match(r"\w|<0x", token)})
    if marks:
        told.append(f"a space in front of {' '.join(marks[:5])} is left out")
    return told


def _is_byte_bpe(tokens: tuple[str, ...]) -> bool:
    """As sherpa-onnx tells: no byte is above 0xC6, and one is that."""
    text = [token.removeprefix(_WORD_START).encode() for token in (*tokens, _BLANK)]
    return max(max(one, default=0) for one in text) == 0xC6
