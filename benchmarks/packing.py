"""What weights of fewer bits take in a file, and what they cost when it is loaded and run.

    python benchmarks/packing.py --checkpoint quartznet15x5.nemo

Weights are rounded to nearest and ranges come from noise: neither has a part in size or time.  ``all`` has
every layer on the grid; ``inner`` keeps depthwise convolutions, the first and the last layer on int8.  Files
are of the fused dialect.  ``× float`` is the ratio of the bytes of float32 parameters to those of the file.
Loads are of fresh sessions of one thread, in turns, and ``load`` and ``run`` are medians of processor time in
ms; ``× int8`` compares with the file of int8: of loads the time, of runs the speed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import zeroq_asr as zq

GRIDS = ("int8", "int4", "logistic4", "ternary", "logistic2", "binary")


def kept(prepared: Any) -> list[str]:
    """Values that depthwise convolutions, the first and the last layer give."""
    layers = [node for node in prepared.graph.nodes if "weight" in node.attrs]
    depthwise = [node for node in layers if node.attrs["weight"].shape[1] == 1 < node.attrs.get("groups", 1)]
    return [node.out for node in (layers[0], *depthwise, layers[-1])]


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def parts(path: Path) -> str:
    """The bytes of a file by what they are of."""
    model = onnx.load(path)
    counts: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        weight = tensor.name.endswith(":weight")
        counts["weights" if weight else "biases and multipliers"] += len(tensor.raw_data)
    counts["nodes"] = sum(node.ByteSize() for node in model.graph.node)
    counts["metadata"] = sum(one.ByteSize() for one in model.metadata_props)
    counts["names and shapes"] = path.stat().st_size - counts.total()
    return ", ".join(f"{kind} {size / 1000:.1f}" for kind, size in counts.most_common())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    model = zq.load_checkpoint(options.checkpoint)
    float_bytes = 4 * sum(p.numel() for p in model.network.parameters())
    prepared = zq.prepare(model, calibration=zq.CalibrationSpec("noise"))
    exempt = tuple((name, "int8") for name in kept(prepared))
    with tempfile.TemporaryDirectory() as folder:
        files: dict[tuple[str, str], Path] = {}
        for grid in GRIDS:
            for where in ("all", "inner") if grid != GRIDS[0] else ("all",):
                path = files[grid, where] = Path(folder, f"{grid}-{where}.onnx")
                grids = (("*", grid), *(exempt if where == "inner" else ()))
                zq.quantize(prepared, path, spec=zq.QuantSpec(layer_grids=grids, rounding="nearest"))
        times = measured([*files.values()], options.repeats)
        base = times[files[GRIDS[0], "all"]]
        print(f"{model.name}: {float_bytes / 1e6:.2f} MB of float32 parameters")
        print(f"ONNX Runtime {onnxruntime.__version__}, one thread, {options.repeats} turns")
        print("grid      layers       MB  × float   load  × int8    run  × int8")
        for (grid, where), path in files.items():
            size, (load, run) = path.stat().st_size, times[path]
            print(
                f"{grid:9} {where:7} {size / 1e6:7.2f} {float_bytes / size:8.2f} {load:6.0f} "
                f"{load / base[0]:7.2f} {run:6.1f} {base[1] / run:7.3f}"
            )
        print("\nkB by part:")
        for (grid, where), path in files.items():
            print(f"{grid:9} {where:7} {parts(path)}")


def measured(paths: list[Path], repeats: int) -> dict[Path, tuple[float, float]]:
    """Medians of loads and of runs of 10 s of features, in ms of processor time, in turns."""
    sessions = {path: session(path) for path in paths}
    mels = sessions[paths[0]].get_inputs()[0].shape[1]
    features = np.random.default_rng(0).standard_normal((1, mels, 1000)).astype(np.float32)
    feed = {"audio_signal": features, "length": np.array([1000])}
    loads: dict[Path, list[float]] = {path: [] for path in paths}
    runs: dict[Path, list[float]] = {path: [] for path in paths}
    for turn in range(repeats):
        for path in paths if turn % 2 else paths[::-1]:
            start = time.process_time()
            fresh = session(path)
            loads[path].append(time.process_time() - start)
            del fresh
            for _ in range(3):
                start = time.process_time()
                sessions[path].run(["logits"], feed)
                runs[path].append(time.process_time() - start)
    return {path: (1e3 * float(np.median(loads[path])), 1e3 * float(np.median(runs[path]))) for path in paths}


if __name__ == "__main__":
    main()
