"""ARPA files of n-grams, plain or compressed by gzip, which KenLM (Heafield, 2011) reads.

KenLM maps its own binary files to memory as they are and trusts all that is in them, so that a damaged one
may end the process; so they are refused, and ARPA files are looked at before KenLM reads them.
"""

from __future__ import annotations

import codecs
import contextlib
import gzip
import itertools
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from zeroq_asr.errors import ConfigError
from zeroq_asr.files import open_file, temporary_folder
from zeroq_asr.lines import said

UNKNOWN = "<unk>"
#: what an ARPA file means something else by
RESERVED = frozenset({"<s>", "</s>", UNKNOWN, "<S>", "</S>", "<UNK>"})
#: bytes of an n-gram's line at the least: a probability, a tab, a word and the line's end
_LEAST_BYTES = 4
#: times that an ARPA file is larger than what gzip makes of it, and bytes that a small one may have
_MOST_RATIO, _FREE_BYTES = 40, 1 << 22
#: bytes of a line that are looked at
_LONGEST = 1 << 16
#: what begins KenLM's binary files
_BINARY = b"mmap lm http://kheafield.com/code"
HOW = "an ARPA file whose words are the tokens of the recogniser, or words that these spell, is needed"


@dataclass(frozen=True)
class Arpa:
    """What is in an ARPA file."""

    path: str | os.PathLike[str]
    #: KenLM's model, and what makes its states
    model: Any
    new_state: Any
    #: its words, sorted, without those of ``RESERVED``
    words: tuple[str, ...]


def read_arpa(path: str | os.PathLike[str]) -> Arpa:
    """Read an ARPA file, which may be compressed by gzip.

    Raises ConfigError where there is none, where it is damaged or without ``<unk>``, and where KenLM is not
    installed.
    """
    with _unpacked(path) as plain:
        words = _checked(path, plain)
        try:
            import kenlm
        except ImportError:
            problem = "needs KenLM, which is not installed"
            raise ConfigError("language model", problem, "pip install 'zeroq-asr[lm]'") from None
        config = kenlm.Config()
        config.show_progress = False
        config.arpa_complain = kenlm.ARPALoadComplain.NONE
        try:
            # as bytes: a name need not be Unicode
            model = kenlm.Model(os.fsencode(plain), config)
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            problem = f"is not an ARPA file that can be read ({_reason(error)})"
            raise ConfigError(path, problem, HOW) from None
    return Arpa(path, model, kenlm.State, words)


@contextlib.contextmanager
def _unpacked(path: str | os.PathLike[str]) -> Iterator[str | os.PathLike[str]]:
    """Give the file, or what it holds if it is compressed by gzip as a file of its own.

    Raises ConfigError where it is damaged, or holds more than an ARPA file does.
    """
    with open_file(path, ConfigError) as stream:
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not packed:
            yield path
            return
        left = max(_MOST_RATIO * os.fstat(stream.fileno()).st_size, _FREE_BYTES)
        with temporary_folder() as folder:
            plain = folder / "plain.arpa"
            with plain.open("wb") as target:
                for block in _blocks(path, stream):
                    left -= len(block)
                    if left < 0:
                        problem = f"unpacks to more than {_MOST_RATIO} times its size"
                        raise ConfigError(path, f"is no ARPA file: it {problem}", HOW)
                    target.write(block)
            yield plain


def _blocks(path: str | os.PathLike[str], packed: BinaryIO) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=packed) as source:
            while block := source.read(1 << 20):
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ConfigError(path, f"is a damaged gzip file ({error})", "was it copied whole?") from None


def _reason(error: Exception) -> str:
    """Return what KenLM says of a file, without the place in its own source."""
    text = re.sub(r"^Cannot read model .*?' \(", "", said(error)).removesuffix(")")
    return re.sub(r"^.* threw \w*(?: because `.*?')?\.? ?", "", text)


def _checked(path: str | os.PathLike[str], plain: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the words of ``plain``, called ``path``, an ARPA file with room for its n-grams.

    Raises ConfigError for anything else: KenLM makes room for as many n-grams as a header says, and prints
    that an unknown word is missing.
    """
    with open_file(plain, ConfigError) as stream:
        size = os.fstat(stream.fileno()).st_size
        lines = (line.strip() for line in iter(lambda: stream.readline(_LONGEST), b""))
        first = next((line for line in lines if line), b"")
        if first.startswith(_BINARY):
            problem = "is a binary file of KenLM's, which cannot be checked before it is read"
            raise ConfigError(path, problem, "give the ARPA file that it was made of")
        if first.startswith(codecs.BOM_UTF8):
            problem = "is an ARPA file behind a byte order mark, which KenLM does not read"
            raise ConfigError(path, problem, "save it without")
        if first != b"\\data\\":
            raise ConfigError(path, "is not an ARPA file: it does not begin with \\data\\", HOW)
        counts = []
        for line in lines:
            match = re.fullmatch(rb"ngram\s+\d{1,3}\s*=\s*(\d{1,18})", line)
            if match is None:
                break
            counts.append(int(match[1]))
        if not counts or sum(counts) * _LEAST_BYTES > size:
            problem = f"is a damaged ARPA file: {sum(counts)} n-grams in {size} bytes"
            raise ConfigError(path, problem, "was it copied whole?")
        if len(counts) == 1:
            problem = "has n-grams of one word only, and KenLM reads those of two or more"
            raise ConfigError(path, problem, "make it of pairs at least: lmplz -o 2")
        unigrams = itertools.takewhile(lambda line: line not in (b"\\2-grams:", b"\\end\\"), lines)
        # separated by tabs or spaces, as KenLM reads them
        found = {word for line in unigrams for word in line.split()[1:2]}
    if not found & {b"<unk>", b"<UNK>"}:
        problem = f"is an ARPA file without {UNKNOWN}, as which words count that it does not have"
        raise ConfigError(path, problem, "lmplz writes one, and SRILM's ngram-count with -unk")
    # what is no UTF-8 is no word that a recogniser says
    words = (word.decode(errors="replace") for word in sorted(found))
    return tuple(word for word in words if word not in RESERVED and "\ufffd" not in word)
