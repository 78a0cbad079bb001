"""Is a transducer as fast as its encoder promises? The whole recogniser and its encoder, beside float.

    python benchmarks/transducer_speed.py --checkpoint transducer.pt [--seconds 2 10 30] [--cpu-time]

Rows: the forms of ``zeroq-asr bench``, which run in turns in one process on speech that is decoded greedily.
``recogniser`` and ``encoder`` are medians in milliseconds on one thread, the numbers behind them float's time
over this one's; ``kept`` is the recogniser's over the encoder's: 1.00 where decoding gains what the encoder
gains.  ``--cpu-time`` gives the processor's time, which is worth something on a busy machine, too.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime

import zeroq_asr as zq
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.measure.bench.measure import clock
from zeroq_asr.measure.bench.parts import ENCODER, RECOGNISER, spoken
from zeroq_asr.measure.bench.transducers import FLOAT, of_transducer
from zeroq_asr.progress import silent


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    options.add_argument("--checkpoint", default=str(zq.embedded_files().transducer))
    options.add_argument("--seconds", type=float, nargs="+", default=[2.0, 10.0, 30.0])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--cpu-time", action="store_true", help="processor time")
    arguments = options.parse_args()
    model = zq.load_model(arguments.checkpoint, head="transducer")
    assert isinstance(model, zq.TransducerModel)
    with tempfile.TemporaryDirectory() as folder:
        measured(model, Path(folder), arguments)


def measured(model: zq.TransducerModel, folder: Path, arguments: argparse.Namespace) -> None:
    machine = this_machine()
    found = of_transducer(model, machine, folder=folder)
    sets, kind = ", ".join(machine.instruction_sets()), "processor time" if arguments.cpu_time else "time"
    print(f"{machine.processor} ({sets}); ONNX Runtime {onnxruntime.__version__}; one thread; {kind}")
    print(f"{'':<28}{'recogniser':>20}{'encoder':>16}{'kept':>8}")
    for seconds in arguments.seconds:
        features = spoken(model.frontend, seconds)
        medians: dict[str, dict[str, float]] = {}
        for part in (RECOGNISER, ENCODER):
            times, reasons = clock(
                [c for c in found if c.part == part],
                features,
                threads=1,
                rounds=arguments.rounds,
                progress=silent,
                stage="",
                timer=time.process_time if arguments.cpu_time else time.perf_counter,
            )
            assert not reasons, reasons
            medians[part] = {label: statistics.median(values) for label, values in times.items()}
        print(f"{seconds:g} s")
        for label in medians[RECOGNISER]:
            mine = [medians[part][label] for part in (RECOGNISER, ENCODER)]
            ratios = [medians[part][FLOAT] / medians[part][label] for part in (RECOGNISER, ENCODER)]
            cells = "".join(f"{1e3 * t:>10.1f}{r:>6.2f}" for t, r in zip(mine, ratios, strict=True))
            print(f"  {label:<30}{cells}{ratios[0] / ratios[1]:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
