"""A program of its own: load ONNX files in a fresh process, run them, print seconds and bytes as JSON.

    python probe.py FILE|FOLDER THREADS [MELS FRAMES]

Of a folder all models are loaded, and the one that takes features runs.  Without features it only loads.

In a fresh process, because neither the time of a first load nor a high-water mark of memory can be had
twice in one.  It imports no more than it measures.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
import onnxruntime


def memory(field: str) -> int | None:
    """Return bytes that this process holds ("VmRSS") or ever held ("VmHWM"); None where nobody tells.

    Where Linux's own figures are missing, both are the high-water mark that getrusage gives.
    """
    try:
        with open("/proc/self/status") as stream:
            line = next(line for line in stream if line.startswith(f"{field}:"))
        return 1024 * int(line.split()[1])
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Measure, and print one line of JSON."""
    path, threads, *shape = sys.argv[1], *map(int, sys.argv[2:])
    files = [path]
    if os.path.isdir(path):
        # what ends otherwise are weights, which lie beside a model that names them
        names = sorted(name for name in os.listdir(path) if name.endswith((".onnx", ".ort")))
        files = [os.path.join(path, name) for name in names]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    before = memory("VmRSS")
    start, busy = time.perf_counter(), time.process_time()
    sessions = [onnxruntime.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for f in files]
    load, worked = time.perf_counter() - start, time.process_time() - busy
    if shape:
        features = np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)
        feed = {"audio_signal": features, "length": np.array(shape[-1:])}
        for session in sessions:
            names = [value.name for value in session.get_inputs()]
            if "audio_signal" in names:
                session.run(None, {name: feed[name] for name in names})
    after = memory("VmHWM")
    added = None if before is None or after is None else after - before
    print(json.dumps({"load_seconds": load, "load_processor_seconds": worked, "peak_bytes": added}))


if __name__ == "__main__":
    main()
