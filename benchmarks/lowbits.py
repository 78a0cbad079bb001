"""What files of few bits lose on recordings: word error rate, agreement with float, size, time.

    python benchmarks/lowbits.py --checkpoint quartznet15x5.nemo --manifest test-other/manifest.jsonl \
        an4-train/manifest.jsonl --bits w4a8 w2a8 --seeds 0 1 2 --recordings train-clean-100/manifest.jsonl

Each format has a row a seed for every way to round its weights (``--ways``): to nearest, by feedback,
reconstructed section by section; so and then trained for ``--train`` seconds or ``--train-steps``; trained at
once (distilled), and stepping down from wider weights (progressive); all without data; and a row of the last
of them that takes ranges, covariances and training from unlabelled ``--recordings``; below the means stand
differences of word error rates, and their intervals of 95 %, by a paired bootstrap.  ``--peers`` adds the
float network with its matrix products in ONNX Runtime's own 4-bit weights (MatMulNBits, blocks of 32, int8
activations), where it has any.  Without ``--manifest`` the embedded test clips are heard.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import onnx
from hearing import heard, our_warnings_alone, parser, show_means
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

import zeroq_asr as zq
from zeroq_asr.config.training import WIDTHS
from zeroq_asr.operators.convolution import feedback

WAYS = ("nearest", "feedback", "reconstructed", "trained", "distilled", "progressive")
#: those that train the whole network, and of these the one that reconstructs sections first
_WHOLE, _BOTH = ("trained", "distilled", "progressive"), "trained"


def with_nbits(exact: onnx.ModelProto) -> bytes | None:
    """Return a float model with its matrix products in 4-bit weights; None where it has none."""
    logging.disable(logging.INFO)
    copy = onnx.ModelProto()
    copy.CopyFrom(exact)
    quantizer = MatMulNBitsQuantizer(copy, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    done = quantizer.model.model
    if all(node.op_type != "MatMulNBits" for node in done.graph.node):
        return None
    data: bytes = done.SerializeToString()
    return data


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--recordings", help="unlabelled, for a row of each format")
    options.add_argument("--recordings-limit", type=int, default=16)
    options.add_argument("--bits", nargs="+", default=["w4a8", "w4a4", "w2a8", "w1a8"])
    options.add_argument("--ways", nargs="+", choices=WAYS, default=["feedback", "reconstructed"])
    options.add_argument("--train", type=float, default=1800.0, help="seconds, for ways that train")
    options.add_argument("--train-steps", type=int, default=0, help="steps, in place of seconds")
    options.add_argument("--clipping-steps", type=int, default=0, help="of every way, for values of 4 bits")
    options.add_argument("--damping", type=float, help="of rounding by feedback, in place of its own")
    options.add_argument("--peers", action="store_true", help="a row of ONNX Runtime's 4-bit weights")
    options.add_argument("--steps", type=int, default=zq.TrainingSpec.section_steps)
    options.add_argument("--speakers", type=int, default=zq.TrainingSpec.training_speakers)
    arguments = options.parse_args()

    if arguments.damping is not None:
        feedback.DAMPING = arguments.damping
    model, hearing = heard(arguments)

    def show(label: str, values: list[float]) -> None:
        print(f"{label:44} " + " ".join(f"{v:7.2f}" for v in values[:3]) + f" {values[3]:6.0f}", flush=True)

    def training(way: str) -> zq.TrainingSpec:
        return zq.TrainingSpec(
            reconstruction="on" if way in ("reconstructed", _BOTH) else "off",
            section_steps=arguments.steps,
            training_speakers=arguments.speakers,
            distillation=arguments.train if way in _WHOLE else 0.0,
            distillation_steps=arguments.train_steps if way in _WHOLE else 0,
            clipping_steps=arguments.clipping_steps,
            progressive=WIDTHS if way == "progressive" else (),
        )

    print(f"{'':44} {'WER':>7} {'agr':>7} {'MB':>7} {'s':>6}", flush=True)
    show("float", [*hearing.float_rates()[:2], model.float_bytes / 1e6, 0.0])
    if arguments.peers and (peer := with_nbits(hearing.float_onnx)) is not None:
        show("ORT MatMulNBits, 4 bits", [*hearing.rates(peer)[:2], len(peer) / 1e6, 0.0])
    specs = {
        (bits, way): zq.QuantSpec.parse_bits(bits, rounding="nearest" if way == "nearest" else "auto")
        for bits in arguments.bits
        for way in arguments.ways
    }
    sources = [("", "auto", arguments.seeds)]
    if arguments.recordings:
        sources.append((", recordings", arguments.recordings, arguments.seeds[:1]))
    rows: dict[str, list[list[float]]] = {}
    texts: dict[str, list[list[str]]] = {}
    for label, source, seeds in sources:
        limit = arguments.recordings_limit if label else None
        for seed in seeds:
            start = time.perf_counter()
            prepared = zq.prepare(
                model,
                spec=next(iter(specs.values())),
                also=[*specs.values()],
                synthesis=zq.SynthesisSpec(seed=seed),
                calibration=zq.CalibrationSpec(source, limit=limit),
            )
            before = time.perf_counter() - start
            for (bits, way), spec in specs.items():
                if label and way != arguments.ways[-1]:
                    continue
                start = time.perf_counter()
                with tempfile.TemporaryDirectory() as folder:
                    made = zq.quantize(prepared, Path(folder) / "x.onnx", spec=spec, training=training(way))
                seconds = before + time.perf_counter() - start
                found = hearing.texts(made.exported.to_bytes())
                row = [*hearing.rates_of(found)[:2], made.size / 1e6, seconds]
                name = f"{bits}, {way}{label}"
                texts.setdefault(name, []).append(found)
                show(f"{name}, seed {seed}", row)
                rows.setdefault(name, []).append(row)
    show_means(rows, show)

    def show_difference(name: str, other: str, others: list[list[str]]) -> None:
        gap = hearing.difference(texts[name], others)
        interval = f"{100 * gap.low:+.2f} … {100 * gap.high:+.2f}"
        print(f"{f'{name} − {other}':44} {100 * gap.value:+7.2f} {interval:>17}", flush=True)

    for name in texts:
        show_difference(name, "float", [hearing.truth])
        if (twin := f"{name}, recordings") in texts:
            show_difference(name, "recordings", texts[twin])


if __name__ == "__main__":
    our_warnings_alone()
    main()
