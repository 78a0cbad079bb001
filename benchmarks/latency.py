"""Time of the exported graphs against the float form and ONNX Runtime's own static quantization.

    python benchmarks/latency.py --checkpoint quartznet15x5.nemo --seconds 10 --threads 1

Every contender runs in one process, interleaved, on the same features; medians, as ratios to float.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time

import numpy as np
import onnxruntime as ort

import zeroq_asr as zq
from zeroq_asr.capture import capture
from zeroq_asr.export import export
from zeroq_asr.float_onnx import export_float
from zeroq_asr.peers import ort_static


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()

    model = zq.load_checkpoint(arguments.checkpoint)
    frames = round(arguments.seconds * model.frontend.frames_per_second / 16) * 16
    features = (
        np.random.default_rng(0).standard_normal((1, model.frontend.features, frames)).astype(np.float32)
    )
    lengths = np.array([frames], dtype=np.int64)
    noise = zq.CalibrationSpec(source="noise")
    spec = zq.SynthesisSpec(batch=1, frames=256)
    wide = zq.quantize(model, calibration=noise, synthesis=spec)
    narrow = zq.quantize(
        model, calibration=noise, synthesis=spec, spec=zq.QuantSpec(weight_bits=7, target="x86-fast")
    )
    graph = capture(model.network, model.example_input(), model.name)
    contenders = {
        "float (depthwise as 2-D)": export_float(graph, wide.deployment).SerializeToString(),
        "fused W8 u8×u8": wide.exported.to_bytes(),
        "fused W7 u8×s8": narrow.exported.to_bytes(),
        "strict": export(wide.program, wide.deployment, "strict").to_bytes(),
    }
    plain, data = export_float(graph, wide.deployment), [(features, lengths)]
    contenders["ORT static u8u8"] = ort_static(plain, data, qdq=False)
    contenders["ORT static u8s8 per channel"] = ort_static(
        plain, data, signed_weights=True, per_channel=True, qdq=False
    )
    sessions = {}
    for label, data in contenders.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads = arguments.threads
        sessions[label] = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    times: dict[str, list[float]] = {label: [] for label in sessions}
    feed = {"audio_signal": features, "length": lengths}
    for turn in range(arguments.rounds + 2):
        for label, session in sessions.items():
            start = time.perf_counter()
            session.run(None, feed)
            if turn >= 2:  # two rounds of warm-up
                times[label].append(time.perf_counter() - start)
    base = statistics.median(times["float (depthwise as 2-D)"])
    out = io.StringIO()
    print(f"{'':30} {'ms':>8} {'× float':>8} {'spread':>8} {'MB':>8}", file=out)
    for label, values in times.items():
        median = statistics.median(values)
        spread = (max(values) - min(values)) / median
        size = len(contenders[label]) / 1e6
        print(f"{label:30} {1e3 * median:8.1f} {base / median:8.2f} {spread:8.2f} {size:8.2f}", file=out)
    sys.stdout.write(out.getvalue())


if __name__ == "__main__":
    main()
