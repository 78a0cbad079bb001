"""What a beam costs and what it brings, by its width and by what is added to its scores.

    python benchmarks/beams.py conformer_transducer.nemo --manifest test-other --lm tokens.arpa \\
        --ilm-weight 0.2 --length-bonus 0.5 --out benchmarks/results/beams.txt
    python benchmarks/beams.py conformer_ctc.nemo --manifest test-other --lm tokens.arpa --hotword-letters 8

A row is greedy decoding, or a beam of one width without language models, with the n-gram model (shallow
fusion), with the ratio of it and a source model (density ratio), or with what the transducer knows of text
taken away from it (ILME): the last two where --source-lm or --ilm-weight is given.  With --word-lm there are
rows with an n-gram model over whole words.  With --hotword-letters there are rows whose hotwords are all
words of so many letters or more that any of the references has, as if a user had known which long words may
be said, though not where.  Word error rates are those of `zeroq-asr evaluate`; the real-time factor is the
wall time of features, network and decoding over the duration of the sound, one recording at a time, of which
the network's share is that of greedy decoding.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import zeroq_asr as zq

COLUMNS = ("decoding", "width", "fusion", "WER %", "S/D/I", "RTF", "RTF / greedy")


def fusions(args: argparse.Namespace, hotwords: tuple[str, ...]) -> Iterator[tuple[str, dict[str, object]]]:
    """What is added to scores, by name, as fields of a BeamSpec."""
    bonus = {"length_bonus": args.length_bonus}
    hot = {"hotwords": hotwords, "hotword_weight": args.hotword_weight}
    yield "–", {}
    if hotwords:
        yield f"{len(hotwords)} hotwords", hot
    if args.lm is not None:
        target = {"lm": args.lm, "lm_weight": args.lm_weight, **bonus}
        yield "n-gram", target
        if hotwords:
            yield "n-gram, hotwords", target | hot
        if args.source_lm is not None:
            source = {"source_lm": args.source_lm, "source_lm_weight": args.source_lm_weight}
            yield "density ratio", target | source
        if args.ilm_weight:
            yield "n-gram − ILM", target | {"ilm_weight": args.ilm_weight}
    if args.word_lm is not None:
        fields = {"lm": args.word_lm, "lm_weight": args.word_lm_weight, "word_bonus": args.word_bonus}
        yield "n-gram of words", fields
        if hotwords:
            yield "n-gram of words, hotwords", fields | hot
    if args.lm is not None or args.word_lm is not None:
        return
    if args.ilm_weight:
        yield "− ILM", bonus | {"ilm_weight": args.ilm_weight}
    elif args.length_bonus:
        yield "bonus", bonus


def long_words(utterances: list[zq.Utterance], letters: int | None) -> tuple[str, ...]:
    """Words of so many letters or more that are said anywhere."""
    if letters is None:
        return ()
    return tuple(
        sorted({w for one in utterances for w in (one.text or "").lower().split() if len(w) >= letters})
    )


def runs(
    args: argparse.Namespace, hotwords: tuple[str, ...]
) -> Iterator[tuple[str, str, str, zq.BeamSpec | None]]:
    """Rows: the search, the width, the name of the fusion, and the specification of all."""
    yield "greedy", "–", "–", None
    for search in args.search:
        for width in args.widths:
            for name, fields in fusions(args, hotwords):
                yield search, str(width), name, zq.BeamSpec(width, search, **fields)


def measured(args: argparse.Namespace) -> list[tuple[str, ...]]:
    """One row of cells for every way of decoding."""
    utterances = zq.read_manifest(args.manifest)[: args.limit]
    rows: list[tuple[str, ...]] = []
    greedy = 0.0
    # every specification before the first of them runs
    for search, width, name, spec in [*runs(args, long_words(utterances, args.hotword_letters))]:
        recognizer = zq.open_recognizer(args.model, config=args.config, head=args.head, beam=spec)
        result = zq.evaluate(recognizer, utterances)
        greedy = greedy or result.real_time_factor
        words = result.words
        rate = "–" if words.rate is None else f"{100 * words.rate:.2f}"
        counts = f"{words.substitutions}/{words.deletions}/{words.insertions}"
        factor = result.real_time_factor
        rows.append((search, width, name, rate, counts, f"{factor:.3f}", f"{factor / greedy:.2f}"))
        print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    return rows


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows under their columns, aligned."""
    lines = [COLUMNS, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i in (0, 2) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--head", default="auto")
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--search", nargs="+", default=["auto"])
    parser.add_argument("--lm")
    parser.add_argument("--lm-weight", type=float)
    parser.add_argument("--word-lm")
    parser.add_argument("--word-lm-weight", type=float)
    parser.add_argument("--word-bonus", type=float, default=0.0)
    parser.add_argument("--source-lm")
    parser.add_argument("--source-lm-weight", type=float)
    parser.add_argument("--ilm-weight", type=float, default=0.0)
    parser.add_argument("--length-bonus", type=float, default=0.0)
    parser.add_argument("--hotword-letters", type=int)
    parser.add_argument("--hotword-weight", type=float)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    try:
        if args.source_lm is not None and args.lm is None:
            raise zq.ConfigError("--source-lm", "means nothing without --lm", "name that, too")
        rows = measured(args)
    except zq.ZeroqError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = f"{args.model.name}, {args.manifest}, {args.limit or 'all'} utterances\n\n{table(rows)}\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
