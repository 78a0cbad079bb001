"""n-gram language models over tokens, by KenLM (Heafield, 2011).

The model is an ARPA file, compressed by gzip or not, whose words are the recogniser's tokens, spelled as its
tokenizer spells them; the token of a space, " ", is the word ``<space>``.  Such a file is what ``lmplz``
makes of text that was cut to tokens with a space between each two (of SentencePiece: ``spm_encode
--output_format=piece``).  NeMo's files have a character for each token instead, of its number and an offset;
they are refused, and so are models over whole words.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from zeroq_asr.decoding.fusion import Floats
from zeroq_asr.decoding.transducer import Array
from zeroq_asr.errors import ConfigError, warn
from zeroq_asr.files import open_file, temporary_folder
from zeroq_asr.lines import said

#: the word of the token " "
SPACE = "<space>"
_UNKNOWN = "<unk>"
#: what an ARPA file means something else by
_RESERVED = frozenset({"<s>", "</s>", _UNKNOWN})
#: NeMo's character of the token i is that of number i + 100
_NEMO_OFFSET = 100
#: bytes of an n-gram's line at the least: a probability, a tab, a word and the line's end
_LEAST_BYTES = 4
#: times that an ARPA file is larger than what gzip makes of it, and bytes that a small one may have
_MOST_RATIO, _FREE_BYTES = 40, 1 << 22
#: bytes of a line that are looked at, contexts whose scores are kept
_LONGEST, _KEPT = 1 << 16, 4096
_HOW = "an ARPA file whose words are the tokens of the recogniser is needed"


class NGram:
    """The log-probability, in nats, of each token behind the tokens before it; a Scorer.

    A token that the model does not have counts as its ``<unk>``.  The end of a sentence is not scored:
    recordings are cut anywhere.
    """

    def __init__(self, path: str | os.PathLike[str], tokens: Sequence[str]) -> None:
        """Read the ARPA file ``path``, which may be compressed by gzip, for a recogniser's ``tokens``.

        Raises ConfigError where there is none, where it is damaged or over words other than the tokens, and
        where KenLM is not installed; a ZeroqWarning says where it has fewer than half of the tokens.
        """
        self._model, self._new_state = _load(path)
        words = [_word(token) for token in tokens]
        known = sum(word in self._model for word in words if word != _UNKNOWN)
        if sum(chr(_NEMO_OFFSET + i) in self._model for i in range(len(tokens))) > known:
            problem = "has NeMo's characters for tokens (number of the token + 100), not the tokens"
            raise ConfigError(path, problem, _HOW)
        # words alone begin no token, and a space is none of them
        marks = [word for word in words if word == SPACE or word[:1] == "\u2581" or word[:2] == "##"]
        if not known or (marks and not any(word in self._model for word in marks)):
            has = f"{known} of the {len(tokens)} tokens, and of those that mark where words begin none"
            raise ConfigError(path, f"is no model over the tokens: its words include {has}", _HOW)
        if 2 * known < len(tokens):
            warn(path, f"has {known} of the {len(tokens)} tokens; the others count as {_UNKNOWN}")
        self._words = words
        self._scores = functools.lru_cache(_KEPT)(self._all_scores)

    def start(self) -> Any:
        """Return the state at the beginning of a sentence."""
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def scores(self, memories: Sequence[Any], predictions: Array) -> Floats:
        """Return log-probabilities [N, V]; what the predictor gives is not looked at."""
        return np.stack([self._scores(state) for state in memories])

    def follow(self, memory: Any, token: int) -> Any:
        """Return the state behind ``token``."""
        state = self._new_state()
        self._model.BaseScore(memory, self._words[token], state)
        return state

    def finish(self, memory: Any) -> float:
        """Return 0: the end of a sentence is not scored."""
        return 0.0

    def _all_scores(self, state: Any) -> Floats:
        score, out = self._model.BaseScore, self._new_state()
        return math.log(10) * np.array([score(state, word, out) for word in self._words])


def _word(token: str) -> str:
    """Return the word that a token is in the file; ``<unk>`` for one that can be none."""
    if token == " ":
        return SPACE
    # what separates words, or ends a text in C
    impossible = not token or "\0" in token or any(c.isspace() for c in token)
    return _UNKNOWN if impossible or token in _RESERVED else token


def _load(path: str | os.PathLike[str]) -> tuple[Any, Any]:
    """Return KenLM's model of an ARPA file, and what makes its states."""
    with _unpacked(path) as plain:
        _check(path, plain)
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
            return kenlm.Model(os.fsencode(plain), config), kenlm.State
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            problem = f"is not an ARPA file that can be read ({_reason(error)})"
            raise ConfigError(path, problem, _HOW) from None


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
                        raise ConfigError(path, f"is no ARPA file: it {problem}", _HOW)
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


def _check(path: str | os.PathLike[str], plain: str | os.PathLike[str]) -> None:
    """Require ``plain``, called ``path``, to be an ARPA file with room for its n-grams and an unknown word.

    KenLM maps its own binary files to memory as they are, makes room for as many n-grams as a header says,
    and prints that an unknown word is missing; so none of these is handed to it.
    """
    with open_file(plain, ConfigError) as stream:
        size = os.fstat(stream.fileno()).st_size
        lines = (line.strip() for line in iter(lambda: stream.readline(_LONGEST), b""))
        first = next((line for line in lines if line), b"")
        if first != b"\\data\\":
            raise ConfigError(path, "is not an ARPA file: it does not begin with \\data\\", _HOW)
        counts = []
        for line in lines:
            match = re.fullmatch(rb"ngram\s+\d{1,3}\s*=\s*(\d{1,18})", line)
            if match is None:
                break
            counts.append(int(match[1]))
        if not counts or sum(counts) * _LEAST_BYTES > size:
            problem = f"is a damaged ARPA file: {sum(counts)} n-grams in {size} bytes"
            raise ConfigError(path, problem, "was it copied whole?")
        unigrams = itertools.takewhile(lambda line: line not in (b"\\2-grams:", b"\\end\\"), lines)
        if not any(line.split()[1:2] in ([b"<unk>"], [b"<UNK>"]) for line in unigrams):
            problem = "is an ARPA file without <unk>, as which tokens count that it does not have"
            raise ConfigError(path, problem, "lmplz writes one, and SRILM's ngram-count with -unk")
