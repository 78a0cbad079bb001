"""Alter small programs at random, write them again with right hashes, and hold `verify` to what it accepts.

    python benchmarks/crafted.py [COUNT] [SEED] [--seconds 300]

Families are convolutions, attention with positions, rotations, images, 16 bits, normalizations, states and
float islands; a file has one or two alterations.  What is accepted must load in ONNX Runtime, give the
integers of the reference for several lengths and batches, and say how many frames there are.  Prints one
line; exits with 1, and a line for each, where a file does not.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from integer.crafted import outcome


def main() -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", nargs="?", type=int, default=2000)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=300.0, help="stop after so long")
    options = parser.parse_args()
    found: collections.Counter[str] = collections.Counter()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.count):
            generator = np.random.default_rng((options.seed, number))
            try:
                found[outcome(generator, Path(folder))] += 1
            except Exception as error:  # whatever it is, it is what is looked for
                found["wrong"] += 1
                print(
                    f"{options.seed} {number}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
                )
            if time.monotonic() - begun > options.seconds:
                break
    total = sum(found.values())
    print(
        f"{total} files of seed {options.seed}: {found['refused']} refused, "
        f"{found['accepted']} accepted and run, "
        f"{found['large']} accepted and too large to run here, {found['unwritten']} that no file can hold, "
        f"{found['wrong']} accepted and wrong"
    )
    return int(found["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
