"""What plans of mixed widths lose on recordings, against the bytes that they take.

    python benchmarks/plans.py --checkpoint quartznet15x5.nemo --manifest test-other/manifest.jsonl \
        an4-train/manifest.jsonl --max-loss 0.03 0.06 --max-size 12MB --seeds 0 1 2

A row for every budget and seed: word errors and words that differ from the float network's (%), megabytes,
layers of 8, 4 and 2 bits, what the plan was measured to lose beyond 8 bits on made features (nats a frame),
values that it gave 16 bits and the factor of products that they take, if any, and seconds of the search.
``--max-time`` are the factors that every budget is searched with, 1 by default.  ``--bits`` are those of the
values, as ``quantize`` takes them (8 'NAME=16'), and of the row that no plan changes.
"""

from __future__ import annotations

import dataclasses
import time

from hearing import heard, our_warnings_alone, parser, show_means

import zeroq_asr as zq
from zeroq_asr.cli.training import budget


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--bits", nargs="+", default=["8"])
    options.add_argument("--max-loss", type=float, nargs="*", default=[])
    options.add_argument("--max-size", nargs="*", default=[])
    options.add_argument("--max-time", type=float, nargs="+", default=[1.0])
    arguments = options.parse_args()

    model, hearing = heard(arguments)
    spec = zq.QuantSpec.parse_bits(*arguments.bits)
    few = dataclasses.replace(spec, weight_bits=4)
    budgets: list[tuple[str, dict[str, float | int]]] = []
    budgets += [(f"--max-loss {loss:g}", {"max_loss": loss}) for loss in arguments.max_loss]
    budgets += [(f"--max-size {size}", {"max_size": budget(size)}) for size in arguments.max_size]
    budgets = [
        (name if factor == 1.0 else f"{name} --max-time {factor:g}", {**allowed, "max_time": factor})
        for name, allowed in budgets
        for factor in arguments.max_time
    ]

    def show(label: str, values: list[float], told: str = "") -> None:
        print(f"{label:30} " + " ".join(f"{v:7.2f}" for v in values) + f"   {told}", flush=True)

    print(f"{'':30} {'WER':>7} {'agr':>7} {'MB':>7}", flush=True)
    show("float", [*hearing.float_rates()[:2], model.float_bytes / 1e6])
    rows: dict[str, list[list[float]]] = {}

    def row(name: str, seed: int, made: zq.Quantized, told: str = "") -> None:
        values = [*hearing.rates(made.exported.to_bytes())[:2], made.size / 1e6]
        show(f"{name}, seed {seed}", values, told)
        rows.setdefault(name, []).append(values)

    for seed in arguments.seeds:
        synthesis = zq.SynthesisSpec(seed=seed)
        prepared = zq.prepare(model, spec=spec, also=[few], synthesis=synthesis)
        row(" ".join(arguments.bits), seed, zq.quantize(prepared))
        for name, allowed in budgets:
            start = time.perf_counter()
            found = zq.find_plan(prepared, **allowed)  # type: ignore[arg-type]  # a number a budget
            seconds = time.perf_counter() - start
            widths = "/".join(map(str, found.chosen.layers))
            loss = "not run" if found.chosen.measured is None else f"{found.chosen.measured:+.4f} nats"
            wide = f", {found.wide_values} of 16 bits for {found.products:.2f} times the products"
            wide = wide if found.wide_values else ""
            told = f"{widths} of 8/4/2 bits{wide}, {loss}, {seconds:.0f} s"
            row(name, seed, zq.quantize(prepared, spec=found.plan, search=found.row), told)
    show_means(rows, show)


if __name__ == "__main__":
    our_warnings_alone()
    main()
