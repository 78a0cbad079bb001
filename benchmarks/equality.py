"""Compare the integers of every interpreter with those of the reference, numpy, and count them.

    python benchmarks/equality.py --integers 1e8 --seed 0 --jobs 2 --out benchmarks/results/equality.txt
    python benchmarks/equality.py --seed 0 --only "embedded conformer, w4a8" --round 3

Each case is a network in a format: those of ``integers.py`` but for the real ones, a small QuartzNet with
squeeze-and-excitation, and random programs of every instruction.  Each is run on rounds of features
(``adversarial.py``), at least one of every kind of batch, until as many integers as were asked for have been
compared.  torch, strict and fused are compared in all values of the program.  For that the files of strict
and fused get more outputs, which may change what ONNX Runtime fuses; so logits and lengths are compared of
the untouched files too, at every level of optimization, by turns with one thread and two.

What is counted is pairs of an interpreter's integer and the reference's.  Masks, values that are merely
moved and tables are compared and not counted, unless they leave the program.  Frames beyond the end of an
utterance count: they mean nothing, and must be equal all the same.  Float islands and qdq promise no
equality (docs/arithmetic.md), so that they are not here.

Any difference is an exit status of 1, and the second command, which is printed, shows it again.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from adversarial import BATCHES, features
from integers import REAL, formats, networks
from interpreters import Interpreter, Values, interpreters, reference

import zeroq_asr as zq
from zeroq_asr.deployment.export import Deployment
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.integer.backends.base import ROWS
from zeroq_asr.integer.program import Program
from zeroq_asr.registry import OPERATORS

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

RANDOM_PROGRAMS = "random programs"
#: clips that ranges come from, and how many random programs there are
CLIPS, PROGRAMS = 4, 24
#: results of these are not counted: they move integers, or slice a table
MOVES = {i.name for o in OPERATORS.values() for i in o.integers if o.traits.moves or i.bounded}


@dataclass(frozen=True)
class Case:
    network: str
    format: str
    program: Program
    deployment: Deployment
    #: least and most frames of a batch, the kinds of batches, and how many rounds there are at least
    frames: tuple[int, int]
    batches: tuple[int, ...] = BATCHES

    @property
    def name(self) -> str:
        return f"{self.network}, {self.format}"


@dataclass
class Count:
    """Of an interpreter, or of a network."""

    cases: set[str] = field(default_factory=set)
    leaving: int = 0
    integers: int = 0
    differing: int = 0

    def add(self, other: Count) -> None:
        self.cases |= other.cases
        self.leaving += other.leaving
        self.integers += other.integers
        self.differing += other.differing


@dataclass
class Tally:
    by_interpreter: dict[str, Count] = field(default_factory=dict)
    by_network: dict[str, Count] = field(default_factory=dict)
    #: integers of the reference, and rounds, by network
    references: dict[str, int] = field(default_factory=dict)
    rounds: dict[str, int] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    #: what differs, the first first
    differences: list[str] = field(default_factory=list)

    @property
    def total(self) -> Count:
        total = Count()
        for count in self.by_network.values():
            total.add(count)
        return total

    def note(self, case: Case, interpreter: Interpreter, count: Count) -> None:
        self.by_interpreter.setdefault(interpreter.label, Count()).add(count)
        self.by_network.setdefault(case.network, Count()).add(count)

    def add(self, other: Tally) -> None:
        for key, count in other.by_interpreter.items():
            self.by_interpreter.setdefault(key, Count()).add(count)
        self.by_network |= other.by_network
        self.references |= other.references
        self.rounds |= other.rounds
        self.refused += other.refused
        self.differences += other.differences


# -- cases -----------------------------------------------------------------------------------------


def sources() -> dict[str, tuple[str, Callable[[], zq.AsrModel]]]:
    """Name → kind and loader of every network; random programs have neither."""
    from small_networks import small_quartznet

    found = {name: (kind, load) for name, kind, load in networks() if name not in REAL}
    return {**found, "small quartznet": ("conv", small_quartznet)}


def specs(kind: str) -> dict[str, zq.QuantSpec]:
    """Name → format.  Targets are one program in several files, so that they are interpreters."""
    of = zq.QuantSpec.parse_bits
    known = formats(kind, real=False)
    found = {name: known[name] for name in ("8", "w7a8", "w4a8", "6", "layer=16", "polynomial")}
    found |= {
        "w4a4": of("w4a4"),
        "w2a8": of("w2a8"),
        "ternary": of("8", layer_grids=(("*", "ternary"),)),
        "binary": of("8", layer_grids=(("*", "binary"),)),
        "full4": of("8", layer_grids=(("*", "full4"),)),
        "w4a4, polynomial": of("w4a4", nonlinearity="polynomial"),
        "8-bit logits": of("8", logit_bits=8),
        "to the last frame": of("8", max_seconds=0.3),
    }
    if kind != "conv":
        found["in blocks"] = of("8", max_seconds=600.0)
    if kind == "waveform":
        # these tiny networks hardly stride: 8 s are as many frames as others have in minutes
        limits = {"in blocks": 8.0, "to the last frame": 0.3}
        found = {n: replace(one, max_seconds=limits.get(n, 4.0)) for n, one in found.items()}
    return found


def cases(network: str, wanted: Callable[[str], bool], tally: Tally) -> Iterator[tuple[Case, int]]:
    """The cases of a network, each with the number of those that are still to come, itself included."""
    if network == RANDOM_PROGRAMS:
        yield from _random_cases(wanted)
        return
    kind, load = sources()[network]
    chosen = {name: spec for name, spec in specs(kind).items() if wanted(f"{network}, {name}")}
    if not chosen:
        return
    model = load()
    calibration = zq.CalibrationSpec(str(zq.embedded_files().calibration), limit=CLIPS)
    first, *also = chosen.values()
    prepared = zq.prepare(model, spec=first, also=also, calibration=calibration)
    for k, (name, spec) in enumerate(chosen.items()):
        try:
            program = zq.build(prepared, spec)
        except zq.ZeroqError as error:
            tally.refused.append(f"{network}, {name}: {type(error).__name__}: {error.problem}")
            continue
        frames, batches, factor = (1, 24), BATCHES, model.subsampling_factor
        if kind == "waveform":
            frames = (200, 1200)
        if name == "to the last frame":
            frames, batches = (program.max_frames, program.max_frames), (2, 1)
        elif name == "in blocks":
            frames, batches = (factor * (ROWS - 1), factor * (ROWS + 20)), (1, 1)
        yield Case(network, name, program, prepared.deployment(spec), frames, batches), len(chosen) - k


def _random_cases(wanted: Callable[[str], bool]) -> Iterator[tuple[Case, int]]:
    from integer.programs import MAX_FRAMES, MELS, TOKENS, random_program, subsampling_of

    tokens = zq.Tokenizer(tuple("abcdefghij"[: TOKENS - 1]))
    chosen = [seed for seed in range(PROGRAMS) if wanted(f"{RANDOM_PROGRAMS}, {seed}")]
    for k, seed in enumerate(chosen):
        program = random_program(seed)
        around = Deployment(
            "random",
            zq.FrontendConfig(features=MELS),
            tokens,
            MAX_FRAMES / 100 - 0.1,
            subsampling_of(program),
        )
        yield Case(RANDOM_PROGRAMS, str(seed), program, around, (1, 200)), len(chosen) - k


# -- comparing -------------------------------------------------------------------------------------


def first_difference(case: Case, value: str, found: np.ndarray, wanted: np.ndarray) -> tuple[int, str]:
    """How many integers of a value differ, and where first."""
    made = next((i for i in case.program.code if value in i.outs), None)
    where = f"{value!r}" + (f" of {made.op} ({made.where})" if made else "")
    if found.shape != wanted.shape:
        return wanted.size, f"{where} has shape {list(found.shape)}, the reference's {list(wanted.shape)}"
    # a float carries integers in kernels, and only there
    if found.dtype != wanted.dtype and found.dtype != np.float32:
        return wanted.size, f"{where} is {found.dtype}, the reference's {wanted.dtype}"
    different = found != wanted
    count = int(np.count_nonzero(different))
    if not count:
        return 0, ""
    place = tuple(int(k) for k in np.argwhere(different)[0])
    return count, f"{where} {list(place)} is {found[place]}, the reference's {wanted[place]}"


def compare(
    case: Case, interpreter: Interpreter, found: Values, wanted: Values, counted: set[str]
) -> tuple[Count, str]:
    """Compare all that an interpreter gives, in the order of the program; what differs first."""
    leaving, count, first = set(case.program.leaving), Count({case.name}), ""
    for value, reference_value in wanted.items():
        if value not in leaving and not interpreter.inside:
            continue
        if value not in found:
            raise AssertionError(f"{case.name}: {interpreter.name} gives no {value!r}")
        differing, text = first_difference(case, value, found[value], reference_value)
        count.differing += differing
        first = first or text
        count.integers += reference_value.size if value in counted else 0
        count.leaving += reference_value.size if value in leaving else 0
    return count, first


def run_case(case: Case, quota: float, seed: int, only_round: int | None, tally: Tally) -> None:
    """Run rounds of a case, at least one of each kind of batch, until its quota is met."""
    program = case.program
    # a network's rounds do not depend on what else is run
    turn = zlib.crc32(case.name.encode())
    seeds = [seed, turn]
    scale = next(i.attrs["scale"] for i in program.code if i.op == "quantize_input")
    counted = {o for i in program.code if i.op not in MOVES for o in i.outs} | set(program.leaving)
    try:
        running = list(interpreters(program, case.deployment, turn))
    except zq.ZeroqError as error:
        # what is lowered must be proven; what a dialect cannot hold is only said
        found = tally.differences if isinstance(error, zq.ProofError) else tally.refused
        found.append(f"{case.name}: {type(error).__name__}: {error}")
        return
    done = 0
    for number in itertools.count() if only_round is None else (only_round,):
        if only_round is None and number >= len(case.batches) and done >= quota:
            break
        x, lengths, described = features(seeds, number, program.channels, case.frames, scale, case.batches)
        again = f'python benchmarks/equality.py --seed {seed} --only "{case.name}" --round {number}'
        try:
            wanted = reference(program, x, lengths)
        except zq.ZeroqError as error:
            tally.differences.append(f"{case.name}: the reference fails on {described}: {error}; {again}")
            continue
        tally.references[case.network] = tally.references.get(case.network, 0) + sum(
            v.size for name, v in wanted.items() if name in counted
        )
        tally.rounds[case.network] = tally.rounds.get(case.network, 0) + 1
        for one in running:
            try:
                count, first = compare(case, one, one.run(x, lengths), wanted, counted)
            except Exception as error:  # onnxruntime's exceptions share no base of their own
                count, first = Count({case.name}, differing=1), f"fails: {error}"
            tally.note(case, one, count)
            done += count.integers
            if first:
                tally.differences.append(
                    f"{case.name}: {one.label}: {first}; {described}; "
                    f"program {program.digest()[:16]}; {again}"
                )


def run_network(network: str, quota: float, seed: int, only: str, only_round: int | None) -> Tally:
    tally = Tally()
    for case, still in cases(network, lambda name: fnmatch.fnmatch(name, only), tally):
        start, before = time.perf_counter(), tally.total.integers
        run_case(case, (quota - before) / still, seed, only_round, tally)
        compared, seconds = tally.total.integers - before, time.perf_counter() - start
        print(f"{case.name}: {compared:,} in {seconds:.1f} s", file=sys.stderr, flush=True)
    return tally


# -- the account -----------------------------------------------------------------------------------


def account(tally: Tally, seed: int) -> list[str]:
    total = tally.total
    lines = [
        f"{total.integers:,} comparisons of an interpreter's integer with the reference's, of which "
        f"{total.leaving:,} are of logits and lengths: {total.differing:,} differ",
        f"{sum(tally.references.values()):,} integers of the reference, "
        f"{len(total.cases)} programs, {sum(tally.rounds.values())} rounds of features, seed {seed}",
        f"{this_machine().processor} ({', '.join(this_machine().instruction_sets())}), "
        f"ONNX Runtime {onnxruntime.__version__}, PyTorch {torch.__version__}, numpy {np.__version__}",
        "",
    ]
    head = f"{'programs':>9} {'logits, lengths':>16} {'compared':>14} {'differing':>10}"

    def row(label: str, count: Count) -> str:
        return (
            f"{label:50} {len(count.cases):9} {count.leaving:16,} {count.integers:14,} {count.differing:10,}"
        )

    lines.append(f"{'interpreter':50} {head}")
    lines += [row(label, count) for label, count in sorted(tally.by_interpreter.items())]
    lines += ["", f"{'network':50} {head} {'reference':>12} {'rounds':>7}"]
    for network, count in tally.by_network.items():
        lines.append(
            f"{row(network, count)} {tally.references[network]:12,} {tally.rounds[network]:7} "
            f"{'; '.join(sorted(name.removeprefix(f'{network}, ') for name in count.cases))}"
            if network != RANDOM_PROGRAMS
            else f"{row(network, count)} {tally.references[network]:12,} {tally.rounds[network]:7}"
        )
    lines += [f"refused: {one}" for one in tally.refused]
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--integers", type=float, default=1e8, help="how many comparisons at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--only", default="*", help="a glob of cases: 'embedded*', '*, w4a8'")
    parser.add_argument("--round", type=int, help="this round of each case alone")
    parser.add_argument("--out", type=Path, help="where to write the account, too")
    options = parser.parse_args(arguments)
    known: dict[str, Iterable[object]] = {RANDOM_PROGRAMS: range(PROGRAMS)}
    known |= {network: specs(kind) for network, (kind, _) in sources().items()}
    names = [n for n, f in known.items() if any(fnmatch.fnmatch(f"{n}, {k}", options.only) for k in f)]
    work = partial(
        run_network,
        quota=options.integers / max(len(names), 1),
        seed=options.seed,
        only=options.only,
        only_round=options.round,
    )
    tally = Tally()
    if options.jobs > 1:
        with ProcessPoolExecutor(
            options.jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)
        ) as pool:
            for one in pool.map(work, names):
                tally.add(one)
    else:
        for name in names:
            tally.add(work(name))
    lines = account(tally, options.seed)
    if not tally.total.integers:
        lines.append(f"no case matches {options.only!r}")
    elif options.round is None and tally.total.integers < options.integers:
        lines.append(f"fewer than the {options.integers:,.0f} asked for: what is refused compares nothing")
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    if tally.differences:
        print(f"first of {len(tally.differences)} differences: {tally.differences[0]}", file=sys.stderr)
    short = options.round is None and tally.total.integers < options.integers
    return 1 if tally.differences or short or not tally.total.integers else 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
