"""How fast our files are beside the float file of the same network: every figure of it by one command.

    python benchmarks/speed.py --models FOLDER [--cpu-time] [--only conformer quartznet …]

FOLDER holds `conformer_ctc_small.nemo` and `quartznet15x5.nemo`; FastConformer-L and wav2vec 2.0 base have
random weights.  Ranges come from noise, which takes no part in times.  Of each network the files run in
turns in one process, in an order that is drawn anew each round: ``ms`` is the median of a run, ``× speed``
the median of float over it, ``spread`` between quartiles.  ``load`` is the median of the time to create a
session, each in a fresh process, also of what `export --optimized` makes of a fused file (``.ort``).

Times are refused, with exit code 3, unless the machine is quiet: other processes may use a tenth of a core,
before it all and while each block of rows is measured, of which a block gets three chances.  ``--cpu-time``
gives processor times of one thread instead, which are worth something on a busy machine, too.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from quiet import NoisyMachineError, foreign, look, require_quiet

import zeroq_asr as zq
from zeroq_asr.architectures.conformer import ConformerCtc
from zeroq_asr.capture.capture import capture
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.machine import this_machine
from zeroq_asr.deployment.optimized import optimized
from zeroq_asr.integer.backends.onnx_loops import every_node
from zeroq_asr.measure.bench.contenders import Contender, noise, of_onnx
from zeroq_asr.measure.bench.measure import clock, load_seconds
from zeroq_asr.measure.onnxruntime_quantizers import ort_static, preprocess
from zeroq_asr.model import AsrModel
from zeroq_asr.progress import silent
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

FLOAT = "float"
#: exit code of a refusal
NOISY = 3
TRIES = 3
LOADS = 7


@dataclass(frozen=True)
class Case:
    """A network, and what is measured of it."""

    title: str
    load: Callable[[Path], AsrModel]
    seconds: tuple[float, ...] = (10.0,)
    threads: tuple[int, ...] = (1, 2)
    strict: bool = True
    #: whether ONNX Runtime's own quantizer, and weights of full range where they are exact, run beside it
    others: bool = False
    rounds: int = 15


def fastconformer_large() -> AsrModel:
    """FastConformer-L as NeMo's configuration of 120 M parameters has it, of random weights."""
    torch.manual_seed(0)
    tokens = [f"▁{n}" for n in range(1024)]
    encoder = {
        **{"feat_in": 80, "n_layers": 17, "d_model": 512, "n_heads": 8, "conv_kernel_size": 9},
        **{"subsampling": "dw_striding", "subsampling_factor": 8, "subsampling_conv_channels": 256},
        "xscaling": False,
    }
    decoder = {"feat_in": 512, "num_classes": len(tokens), "vocabulary": tokens}
    network = ConformerCtc({"encoder": encoder, "decoder": decoder}).eval().requires_grad_(False)
    frontend = FrontendConfig(features=80, window_size=0.025, n_fft=512, pad_to=0)
    return AsrModel(
        network,
        frontend,
        Tokenizer(tuple(tokens), "sentencepiece"),
        "fastconformer_large",
        subsampling_factor=8,
    )


def wav2vec2_base() -> AsrModel:
    """The recogniser of wav2vec 2.0 base, of random weights."""
    from waveform_transformers import random_model

    with tempfile.TemporaryDirectory() as folder:
        return random_model("wav2vec2", Path(folder))


CASES = {
    "conformer": Case(
        "Conformer-CTC small",
        lambda models: zq.load_checkpoint(models / "conformer_ctc_small.nemo"),
        seconds=(2.0, 10.0, 30.0),
        others=True,
    ),
    "quartznet": Case(
        "QuartzNet15x5", lambda models: zq.load_checkpoint(models / "quartznet15x5.nemo"), others=True
    ),
    "fastconformer": Case(
        "FastConformer-L, random weights", lambda _: fastconformer_large(), strict=False, rounds=9
    ),
    "wav2vec2": Case("wav2vec 2.0 base, random weights", lambda _: wav2vec2_base(), strict=False, rounds=7),
}


def contenders(case: Case, model: AsrModel) -> list[Contender]:
    """The float file, ours, and others."""
    graph = capture(model.network, model.example_input(), model.name)
    eight = zq.QuantSpec(weight_bits=8, target="x86-any")
    full = replace(eight, target="x86-vnni")
    specs = [eight, full] if case.others and this_machine().exact_at_full_range else [eight]
    prepared = zq.prepare(
        model,
        spec=specs[0],
        also=specs[1:],
        calibration=zq.CalibrationSpec(source="noise"),
        synthesis=zq.SynthesisSpec(batch=1, frames=16 if model.frontend.is_waveform else 256),
        graph=graph,
        check_ranges=False,
    )
    deployment = prepared.deployment()
    found = [of_onnx(FLOAT, "float", export_float(graph, deployment).SerializeToString())]
    programs = [zq.build(prepared, spec) for spec in specs]
    for spec, program in zip(specs, programs, strict=True):
        made = export(program, deployment, "fused", spec.target).to_bytes()
        found.append(of_onnx(f"fused W8, {spec.target}", "fused", made))
    if case.strict:
        made = export(programs[0], deployment, "strict", "x86-any").to_bytes()
        found.append(of_onnx("strict W8", "strict", made))
    if case.others:
        ready = preprocess(export_float(graph, deployment, quantizable=True))
        data = [(noise(model.frontend.features, 256, 1), np.array([256], dtype=np.int64))]
        static = ort_static(ready, data, signed_weights=True, per_channel=True)
        found.append(of_onnx("ORT static, u8 × s8", "ort static", static))
    return found


@dataclass
class Watch:
    """Runs blocks, and again where others disturbed them."""

    cpu_time: bool

    def start(self) -> None:
        """Refuse a machine that is busy already."""
        if not self.cpu_time:
            look()

    def __call__(self, what: str, run: Callable[[], None]) -> None:
        """Run until nobody disturbs; raises NoisyMachineError where somebody does each time."""
        if self.cpu_time:
            run()
            return
        for attempt in range(TRIES):
            cores = foreign(run)
            try:
                require_quiet(f"while {what} was measured", cores)
                return
            except NoisyMachineError as error:
                if attempt == TRIES - 1:
                    raise
                print(f"again: {error}", file=sys.stderr)


def timed(
    found: Sequence[Contender], case: Case, model: AsrModel, seconds: float, threads: int, options: Options
) -> list[str]:
    """Measure a block of rows."""
    features = noise(model.frontend.features, seconds, model.frontend.frames_per_second)
    times: dict[str, list[float]] = {}
    reasons: dict[str, str] = {}

    def run() -> None:
        made = clock(
            found,
            features,
            threads=threads,
            rounds=options.rounds or case.rounds,
            progress=silent,
            stage="",
            timer=time.process_time if options.cpu_time else time.perf_counter,
        )
        times.update(made[0])
        reasons.update(made[1])

    options.watch(f"{case.title}, {seconds:g} s, {threads} threads", run)
    base = statistics.median(times[FLOAT])
    rows = [f"  {seconds:g} s, {threads} thread{'s' if threads > 1 else ''}"]
    for c in found:
        if c.label in reasons:
            rows.append(f"    {c.label:24} {reasons[c.label]}")
            continue
        median = statistics.median(times[c.label])
        low, _, high = statistics.quantiles(times[c.label], n=4, method="inclusive")
        spread = 100 * (high - low) / median
        rows.append(f"    {c.label:24} {1e3 * median:8.1f} {base / median:8.2f} {spread:6.0f} %")
    return rows


def loads(found: Sequence[Contender], case: Case, options: Options) -> list[str]:
    """Measure how long sessions take to create, each in a fresh process."""
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {c.label: Path(folder, f"{k}.onnx") for k, c in enumerate(found)}
        for c in found:
            files[c.label].write_bytes(c.data)
            if c.dialect == "fused":
                ahead = files[c.label].with_suffix(".ort")
                ahead.write_bytes(
                    optimized(onnx.load_from_string(c.data), hashlib.sha256(c.data).hexdigest())
                )
                files[f"{c.label}, .ort"] = ahead
        sizes = {label: path.stat().st_size for label, path in files.items()}

        def run() -> None:
            taken.update({label: [] for label in files})
            for _ in range(options.loads):
                for label, path in files.items():
                    taken[label].append(load_seconds(path, processor=options.cpu_time))

        options.watch(f"the loading of {case.title}", run)
    rows = [f"  {'load':26} {'ms':>8} {'nodes':>8} {'MB':>8}"]
    counts = {c.label: len(every_node(onnx.load_from_string(c.data).graph)) for c in found}
    for label, seconds in taken.items():
        # of the other format the onnx package knows no nodes
        nodes = counts.get(label, "–")
        median = 1e3 * statistics.median(seconds)
        rows.append(f"    {label:24} {median:8.0f} {nodes:>8} {sizes[label] / 1e6:8.1f}")
    return rows


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    cpu_time: bool
    rounds: int | None
    loads: int
    watch: Watch


def report(case: Case, models: Path, options: Options) -> list[str]:
    """Measure a network; returns lines."""
    print(f"building {case.title}", file=sys.stderr, flush=True)
    model = case.load(models)
    found = contenders(case, model)
    rows = [f"{case.title}", f"    {'':24} {'ms':>8} {'× speed':>8} {'spread':>8}"]
    # the memory of what was built would else be given back while others are timed
    for seconds in case.seconds:
        for threads in (1,) if options.cpu_time else case.threads:
            print(f"measuring {case.title}, {seconds:g} s", file=sys.stderr, flush=True)
            rows += timed(found, case, model, seconds, threads, options)
    return rows + loads(found, case, options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[*CASES], default=[*CASES])
    parser.add_argument("--cpu-time", action="store_true", help="processor time, of one thread")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--loads", type=int, default=LOADS)
    given = parser.parse_args(arguments)
    watch = Watch(given.cpu_time)
    options = Options(given.cpu_time, given.rounds, given.loads, watch)
    rows = []
    try:
        watch.start()
        for name in given.only:
            rows += report(CASES[name], given.models, options)
    except NoisyMachineError as error:
        print(f"error: {error}: nothing is reported; --cpu-time would do", file=sys.stderr)
        return NOISY
    machine = this_machine()
    kind = "processor time, which other work on the machine blurs" if given.cpu_time else "time"
    sets = ", ".join(machine.instruction_sets())
    print(f"{machine.processor} ({sets}); ONNX Runtime {onnxruntime.__version__}; {kind}")
    print("\n".join(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
