"""Pieces of words: what the transducer and the language models spell with.

A SentencePiece model of byte pairs, learnt from the training texts alone.  Its first piece stands for what it
cannot spell; sentences have no marks of their own, which networks and n-grams add as they need them.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

import zeroq_asr as zq

#: pieces, the unknown one included
PIECES = 128
#: the model, and the texts that it is learnt from, below the folder of the work
MODEL, TEXTS = "pieces.model", "texts.txt"


class Pieces:
    """Texts to numbers of pieces, and back."""

    def __init__(self, model: bytes) -> None:
        """Read a serialized SentencePiece model."""
        self.model = model
        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.tokenizer = zq.Tokenizer.from_sentencepiece(model)

    def ids(self, text: str) -> list[int]:
        """Return the numbers of the pieces of ``text``; ValueError where none spell it."""
        found: list[int] = self.processor.encode(text)
        if self.processor.unk_id() in found:
            raise ValueError(f"no pieces spell {text!r}")
        return found


def learn(texts: Iterable[str], count: int = PIECES) -> Pieces:
    """Return ``count`` pieces of ``texts``, the same for the same texts."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=stream,
        model_type="bpe",
        vocab_size=count,
        character_coverage=1.0,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return Pieces(stream.getvalue())


def of_work(work: Path) -> Pieces:
    """Return the pieces in ``work``; where there are none they are learnt and written there."""
    path = work / MODEL
    if not path.exists():
        path.write_bytes(learn(read_texts(work)).model)
    return Pieces(path.read_bytes())


def read_texts(work: Path) -> list[str]:
    """Return the training texts that `prepare.py` wrote, spoken or not."""
    return (work / TEXTS).read_text().splitlines()
