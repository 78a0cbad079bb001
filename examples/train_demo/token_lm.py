"""n-grams of any recogniser's tokens, or of words, which its beams take as --lm, of sentences of `books.py`.

    python token_lm.py ../../zeroq_asr/embedded/model.pt --books /tmp/austen --out characters.arpa.gz
    python token_lm.py conformer_ctc_small.nemo --books /tmp/austen --whole --order 4 --out pieces.arpa.gz
    python token_lm.py ../../zeroq_asr/embedded/model.pt --books /tmp/austen --words --order 3 --out w.arpa.gz

By default the texts are those that the recognisers of the package were trained on, of which held-out speech
says none; ``--whole`` takes every sentence, of any words.  ``--texts`` names a file with a text on each line
instead.  A text is cut into as few tokens as there can be, of equals into those that are longest first; one
that the tokens cannot spell is left out.  ``--words`` counts the words of the same texts.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import arpa
import books

import zeroq_asr as zq
from zeroq_asr.decoding.ngram import SPACE


class Cutter:
    """Cuts texts into tokens."""

    def __init__(self, tokenizer: zq.Tokenizer) -> None:
        texts = tokenizer.inner_texts()
        # of tokens of one text the first
        self._tokens = {text: i for i, text in reversed([*enumerate(texts)]) if text}
        self._longest = max(map(len, self._tokens))
        #: whether a text begins with a space, as words do
        self._spaced = tokenizer.kind != "characters"

    def __call__(self, text: str) -> list[int] | None:
        """Return the tokens of a text; None where they cannot spell it."""
        text = f" {text}" if self._spaced else text
        # by place, from the end: tokens that are needed from there on, and the length of the first
        best: list[tuple[int, int] | None] = [None] * len(text) + [(0, 0)]
        for at in range(len(text) - 1, -1, -1):
            for length in range(1, min(self._longest, len(text) - at) + 1):
                rest = best[at + length]
                if rest is not None and text[at : at + length] in self._tokens:
                    found, here = (rest[0] + 1, length), best[at]
                    best[at] = found if here is None or found[0] <= here[0] else here
        cut, at = [], 0
        while at < len(text):
            here = best[at]
            if here is None:
                return None
            cut.append(self._tokens[text[at : at + here[1]]])
            at += here[1]
        return cut


def texts_of(options: argparse.Namespace) -> list[str]:
    """Return the texts that are to be counted."""
    if options.texts is not None:
        return [line.strip() for line in options.texts.read_text(encoding="utf-8").splitlines()]
    read = books.read_books(options.books)
    if not options.whole:
        return books.split(read, options.seed)[0]
    sentences = [books.clauses(one) for lines in read.values() for one in books.sentences(lines)]
    return [" ".join(word for clause in clauses for word in clause) for clauses in sentences]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="checkpoint whose tokens are counted")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--books", type=Path, help="where the Debian package r-cran-janeaustenr was unpacked")
    source.add_argument("--texts", type=Path, help="a text on each line, spelled as the recogniser does")
    parser.add_argument("--whole", action="store_true", help="every sentence of the books")
    parser.add_argument("--words", action="store_true", help="n-grams of words, not of tokens")
    parser.add_argument("--order", type=int, default=6)
    parser.add_argument("--gain", type=float, default=2.0, help="what an n-gram must be worth, in nats")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    tokenizer = zq.load_model(options.model).tokenizer
    cutter = Cutter(tokenizer)
    cut = [(text, cutter(text)) for text in texts_of(options) if text]
    if options.words:
        known = [text.split() for text, tokens in cut if tokens is not None]
        words = sorted({word for text in known for word in text})
    else:
        words = [SPACE if token == " " else token for token in tokenizer.tokens]
        known = [[words[i] for i in tokens] for _, tokens in cut if tokens is not None]
    # what is never said is the unknown word, as which tokens count that the file does not have
    grams = arpa.estimate(known, [*dict.fromkeys((*words, "<unk>"))], options.order, options.gain)
    data = gzip.compress(grams.text().encode(), mtime=0)
    options.out.write_bytes(data)
    print(
        f"{len(known)} texts, {len(cut) - len(known)} that the tokens cannot spell, "
        f"{len(grams.probabilities)} n-grams, {len(data) / 1000:.0f} kB"
    )


if __name__ == "__main__":
    main()
