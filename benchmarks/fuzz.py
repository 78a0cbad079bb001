"""Fuzz all that the command reads, and count what must never happen: tracebacks, hangs, silent acceptance, …

    python benchmarks/fuzz.py --cases 10000 --seed 0 --jobs 2 --out benchmarks/results/fuzz.txt
    python benchmarks/fuzz.py --reproduce SEED DIR

The same seeds give the same cases.  Exit code 1 when anything was found.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000, help="how many seeds, from --seed on")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes that run cases")
    parser.add_argument("--only", default="", help="kinds of input whose name holds this")
    parser.add_argument("--out", type=Path, help="write the table and the findings to this file, too")
    parser.add_argument("--log", type=Path, help="append a line of JSON for every case")
    parser.add_argument("--reproduce", nargs=2, metavar=("SEED", "DIR"), help="write and run one seed")
    options = parser.parse_args()

    from fuzz import run

    run.preload()
    folder = run.scratch()
    try:
        seeds = run.prepared(folder)
        for line in seeds.unread:
            print(f"not read: {line}", file=sys.stderr)
        if options.reproduce:
            seed, target = options.reproduce
            one = run.reproduce(int(seed), seeds, Path(target), options.only)
            print(json.dumps(asdict(one), indent=1))
            return int(bool(one.broken))
        found, start = [], time.monotonic()
        numbers = range(options.seed, options.seed + options.cases)
        for one in run.run_all(numbers, seeds, folder, options.jobs, options.only):
            found.append(one)
            if options.log:
                with options.log.open("a") as stream:
                    stream.write(json.dumps(asdict(one)) + "\n")
            for outcome, seen in one.broken.items():
                shown = " ".join(ascii(a)[1:-1][:80] for a in one.argv)
                print(
                    f"{one.seed} {one.kind}: {outcome}: {ascii(seen)[1:-1][:160]} | zeroq-asr {shown}",
                    flush=True,
                )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - start
    found.sort(key=lambda one: one.seed)
    head = f"seeds {options.seed} to {options.seed + options.cases - 1}"
    rate = f"{len(found)} cases in {seconds:.0f} s, {len(found) / seconds:.1f} a second, {options.jobs} jobs"
    bad = any(one.broken for one in found) or sum(one.seed >= 0 for one in found) != options.cases
    text = "\n\n".join([head, run.table(found), run.details(found) or "nothing was found"])
    print(text)
    print(rate)
    if options.out:
        options.out.write_text(f"{text}\n\n{rate}\n")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
