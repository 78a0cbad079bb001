"""The prefix beam search of this package beside those of libraries: right, as good, and how fast?

    python benchmarks/ctc_decoders.py --checkpoint conformer.pt --manifest test.jsonl \\
        --lm characters.arpa.gz --out benchmarks/results/ctc-decoders.txt

compares ``zq.CtcBeamDecoder``, flashlight-text (its lexicon-free decoder, whose language models are over
tokens as ours are), and ctc-beam-decoder (pyctcdecode in C++, whose language models are over words); the
libraries that are not installed are left out.  Pruning other than by the width is off wherever it can be.

First table: short sequences of random scores.  ``best``: of how many the text is that to which all alignments
together give the highest probability, by trying every alignment; ``score``: of how many the log-probability
that the decoder tells is that, within 1e-4.  Second table: word error rates on the scores of a network, and
the processor's time of decoding alone over the duration of the sound, without and with language model.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

import zeroq_asr as zq
from zeroq_asr.decoding.fusion import log_softmax
from zeroq_asr.decoding.greedy import greedy_ctc
from zeroq_asr.decoding.ngram import SPACE
from zeroq_asr.measure.evaluate import count_errors

#: log-probabilities [S, V + 1] → the text, and its log-probability where the decoder tells it
Decoder = Callable[[np.ndarray], tuple[str, float | None]]
#: weight of language models, and what a token adds
WEIGHT, BONUS = 0.3, 0.3
#: nothing is pruned below this
NEVER = -1e9


def ours(tokenizer: zq.Tokenizer, width: int, lm: Path | None) -> Decoder:
    """This package."""
    fields = {} if lm is None else {"lm": str(lm), "lm_weight": WEIGHT, "length_bonus": BONUS}
    decoder = zq.CtcBeamDecoder(zq.BeamSpec(width, **fields), tokenizer.tokens)

    def decode(scores: np.ndarray) -> tuple[str, float | None]:
        (best,) = decoder(scores[None], np.array([len(scores)]))
        return tokenizer.decode(best.tokens), best.model

    return decode


def flashlight(tokenizer: zq.Tokenizer, width: int, lm: Path | None) -> Decoder:
    """flashlight-text, lexicon-free."""
    from flashlight.lib.text import decoder as fl
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary

    blank = tokenizer.blank_id
    words = [SPACE if token == " " else token for token in tokenizer.tokens] + ["<blank>"]
    options = fl.LexiconFreeDecoderOptions(
        beam_size=width,
        beam_size_token=blank + 1,
        beam_threshold=-NEVER,
        # of log10, which it does not convert
        lm_weight=WEIGHT * np.log(10),
        sil_score=0.0,
        log_add=True,
        criterion_type=fl.CriterionType.CTC,
    )
    model = fl.ZeroLM() if lm is None else KenLM(str(lm), Dictionary(words))
    decoder = fl.LexiconFreeDecoder(options, model, -1, blank, [])

    def decode(scores: np.ndarray) -> tuple[str, float | None]:
        rows = np.ascontiguousarray(scores, dtype=np.float32)
        best = decoder.decode(rows.ctypes.data, *rows.shape)[0]
        path = [token for token in best.tokens if token >= 0]
        said = [token for token, _ in itertools.groupby(path) if token != blank]
        return tokenizer.decode(said), best.score

    return decode


def ctc_beam_decoder(tokenizer: zq.Tokenizer, width: int, lm: Path | None) -> Decoder:
    """ctc-beam-decoder, which is pyctcdecode in C++."""
    from ctc_beam_decoder import build_ctcdecoder

    if lm is not None:
        raise NotImplementedError("its language models are over words")
    decoder = build_ctcdecoder([*tokenizer.tokens, ""])

    def decode(scores: np.ndarray) -> tuple[str, float | None]:
        rows = np.asarray(scores, dtype=np.float32)
        beams = decoder.decode_beams(
            rows, beam_width=width, beam_prune_logp=NEVER, token_min_logp=NEVER, prune_history=False
        )
        return beams[0][0], beams[0][3]

    return decode


CONTENDERS = {"zeroq-asr": ours, "flashlight-text": flashlight, "ctc-beam-decoder": ctc_beam_decoder}


def available() -> dict[str, Callable[[zq.Tokenizer, int, Path | None], Decoder]]:
    """Those that can be imported."""
    found = {}
    for name, make in CONTENDERS.items():
        try:
            make(zq.Tokenizer(("a", "b")), 2, None)
        except ImportError as error:
            print(f"left out: {name} ({error})", file=sys.stderr)
        else:
            found[name] = make
    return found


def every_text(rows: np.ndarray) -> dict[tuple[int, ...], float]:
    """Log-probability of every text, summed over every alignment."""
    blank = rows.shape[1] - 1
    found: dict[tuple[int, ...], float] = defaultdict(lambda: -np.inf)
    for path in itertools.product(range(blank + 1), repeat=len(rows)):
        tokens = tuple(token for token, _ in itertools.groupby(path) if token != blank)
        found[tokens] = float(np.logaddexp(found[tokens], sum(rows[t, k] for t, k in enumerate(path))))
    return found


def exactness(cases: int) -> list[tuple[str, ...]]:
    """Rows of the first table: texts of three letters in five frames."""
    tokenizer, frames = zq.Tokenizer(("a", "b", "c")), 5
    rows = [
        log_softmax(2.0 * np.random.default_rng(seed).standard_normal((frames, 4))) for seed in range(cases)
    ]
    truth = [{tokenizer.decode(y): mass for y, mass in every_text(one).items()} for one in rows]
    found: list[tuple[str, ...]] = [("decoder", "width", "best", "score")]
    for name, make in available().items():
        for width in (4, 1000):
            decode = make(tokenizer, width, None)
            best = score = 0
            for one, texts in zip(rows, truth, strict=True):
                text, told = decode(one)
                best += texts.get(text, -np.inf) > max(texts.values()) - 1e-4
                score += told is not None and abs(told - texts.get(text, -np.inf)) < 1e-4
            found.append((name, str(width), f"{best}/{cases}", f"{score}/{cases}"))
    return found


def accuracy(args: argparse.Namespace) -> list[tuple[str, ...]]:
    """Rows of the second table."""
    model = zq.load_checkpoint(args.checkpoint)
    utterances = zq.read_manifest(args.manifest)[: args.limit]
    recognizer, tokenizer, frontend = zq.TorchRecognizer(model), model.tokenizer, zq.Frontend(model.frontend)
    scores, seconds = [], 0.0
    from zeroq_asr.speech.audio import AudioReader

    with AudioReader(model.frontend.sample_rate, None) as reader:
        for one in utterances:
            samples, _ = reader.hear(one)
            seconds += len(samples) / model.frontend.sample_rate
            rows, ends = recognizer.log_probs(*frontend.batch([samples]))
            scores.append(rows[0, : ends[0]])
    references = [one.text or "" for one in utterances]

    def row(name: str, width: str, fusion: str, texts: list[str], spent: float) -> tuple[str, ...]:
        words, _ = count_errors(references, texts)
        assert words.rate is not None
        return name, width, fusion, f"{100 * words.rate:.2f}", f"{spent / seconds:.4f}"

    started = time.process_time()
    texts = [tokenizer.decode(greedy_ctc(one, len(one), tokenizer.blank_id)) for one in scores]
    found = [("decoder", "width", "fusion", "WER %", "time / sound")]
    found.append(row("greedy", "–", "–", texts, time.process_time() - started))
    with tempfile.TemporaryDirectory() as folder:
        plain = args.lm
        if plain is not None and plain.suffix == ".gz":
            plain = Path(folder) / "plain.arpa"
            plain.write_bytes(gzip.decompress(args.lm.read_bytes()))
        for lm in (None, plain) if plain is not None else (None,):
            for name, make in available().items():
                for width in args.widths:
                    try:
                        decode = make(tokenizer, width, lm)
                    except NotImplementedError as error:
                        print(f"left out: {name} with n-grams of tokens ({error})", file=sys.stderr)
                        break
                    started = time.process_time()
                    texts = [decode(one)[0] for one in scores]
                    spent = time.process_time() - started
                    found.append(row(name, str(width), "n-gram" if lm else "–", texts, spent))
    return found


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows, aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--lm", type=Path)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    try:
        text = f"{table(exactness(args.cases))}\n{args.checkpoint.name}, {args.manifest}\n\n"
        text += table(accuracy(args))
    except zq.ZeroqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
