"""Sentences of public-domain books, as short chunks of common words.

The books are Jane Austen's six novels as the Debian package r-cran-janeaustenr holds them: one R
vector of lines a book.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

#: where the Debian package lies below its root
DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata"
#: only words among so many most frequent ones
COMMON_WORDS = 5000
#: words a chunk
SHORTEST, LONGEST = 4, 10
#: one sentence in so many is held out
HELD_OUT_EVERY = 40

_HEADING = re.compile(r"^(VOLUME|CHAPTER|Chapter|THE END|FINIS|by Jane Austen|\(1\d\d\d\)).*$")
_TITLES = re.compile(r"\b(Mr|Mrs|Dr|St|Esq|Col)\.")


def read_books(root: Path) -> dict[str, list[str]]:
    """Return the lines of each book below ``root``, where the package was unpacked ("/" if installed).

    R's lazy-load database: an index of (offset, length) a name, and for each a 4-byte length and
    a zlib stream.
    """
    database = (root / DATA).with_suffix(".rdb").read_bytes()
    index = _parse((root / DATA).with_suffix(".rdx").read_bytes(), gzip=True)["variables"]
    books = {}
    for name, (offset, length) in sorted(index.items()):
        chunk = database[offset : offset + length]
        (size,) = struct.unpack(">I", chunk[:4])
        value = zlib.decompress(chunk[4:])
        if len(value) != size:
            raise ValueError(f"{name}: {len(value)} bytes where the index says {size}")
        books[str(name)] = [str(line) for line in _parse(value)]
    return books


def _parse(data: bytes, gzip: bool = False) -> Any:
    """Return an R value of its serialization."""
    import rdata  # not needed to try the rest

    with warnings.catch_warnings():
        # a bare serialization has no magic number
        warnings.filterwarnings("ignore", message="Unknown file type")
        parsed = rdata.parser.parse_data(zlib.decompress(data, 31) if gzip else data)
    return rdata.conversion.convert(parsed)


def sentences(lines: list[str]) -> list[str]:
    """Return the sentences of a book, headings left out."""
    paragraphs, current = [], []
    for line in [*lines, ""]:
        line = line.strip()
        if line and not _HEADING.match(line):
            current.append(line)
        elif current:
            paragraphs.append(" ".join(current))
            current = []
    text = "\n".join(_TITLES.sub(r"\1", p) for p in paragraphs)
    return [s for s in re.split(r"(?<=[.!?])[\"')]*\s+|\n", text) if s]


def clauses(sentence: str) -> list[list[str]]:
    """Return the words of each clause, in lower case with apostrophes: commas, dashes and quotes divide."""
    parts = re.split(r"[,;:.!?()\"\[\]*]|--|\s'|'\s", sentence.replace("_", " "))
    words = [re.sub(r"-", " ", part).lower().strip("' ").split() for part in parts]
    return [w for w in words if w]


def chunks(clause: list[str], generator: np.random.Generator) -> Iterator[list[str]]:
    """Cut a clause into runs of `SHORTEST` to `LONGEST` words; a shorter rest is left out."""
    start = 0
    while len(clause) - start >= SHORTEST:
        size = int(generator.integers(SHORTEST, LONGEST + 1))
        yield clause[start : start + size] if len(clause) - start >= size else clause[start:]
        start += size


def split(books: dict[str, list[str]], seed: int) -> tuple[list[str], list[str]]:
    """Return distinct training and held-out texts, of different sentences and with no text in both."""
    generator = np.random.default_rng(seed)
    parts = [clauses(sentence) for lines in books.values() for sentence in sentences(lines)]
    spelled = re.compile(r"^[a-z']+$")
    counts = Counter(w for part in parts for clause in part for w in clause if spelled.match(w))
    common = {word for word, _ in counts.most_common(COMMON_WORDS)}
    held_out = generator.random(len(parts)) < 1 / HELD_OUT_EVERY
    texts: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for part, out in zip(parts, held_out, strict=True):
        for clause in part:
            for words in chunks(clause, generator):
                if common.issuperset(words):
                    texts[int(out)][" ".join(words)] = None
    training = [text for text in texts[0] if text not in texts[1]]
    evaluation = list(texts[1])
    generator.shuffle(training)
    generator.shuffle(evaluation)
    return training, evaluation
