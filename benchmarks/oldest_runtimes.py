"""Do files run on the oldest ONNX Runtime that their certificates name, with the same integers?

    python benchmarks/oldest_runtimes.py --work build/oldest

quantizes the small QuartzNet and Conformer that come with the package, in `fused` and `strict`, and stores
what the installed ONNX Runtime computes of three clips.  Then it makes a virtual environment for each
release that a certificate names, runs the same files there, and compares every integer.
It ends with 1, and a line for each file that differs or does not run.  `build/oldest` is kept: what is in it
is not made again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

#: release that a certificate may name → what is installed for it
RELEASES = {"1.20": "1.20.1", "1.21": "1.21.1", "1.22": "1.22.1"}
CLIPS = 3

#: runs in the environment of an old release, which has none of this package: the files, and what they gave
RUN = """
import sys, numpy as np, onnxruntime as ort
wrong = 0
for file in sys.argv[1:]:
    stored = np.load(file + ".npz")
    try:
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
        for k in range(len(stored.files) // 3):
            feed = {"audio_signal": stored[f"features{k}"], "length": stored[f"lengths{k}"]}
            if not np.array_equal(session.run(["logits"], feed)[0], stored[f"logits{k}"]):
                raise RuntimeError(f"clip {k} has other integers")
        print(f"onnxruntime {ort.__version__}: {file.rpartition('/')[2]} gives the same integers")
    except Exception as error:  # exceptions of ONNX Runtime share no base of their own
        wrong = 1
        print(f"onnxruntime {ort.__version__}: {file.rpartition('/')[2]}: {str(error).splitlines()[0]}")
sys.exit(wrong)
"""


def make_files(folder: Path) -> dict[Path, str]:
    """Quantize, and store integers beside; returns the release that each certificate names."""
    import numpy as np
    import onnxruntime
    import soundfile

    import zeroq_asr as zq

    demo, found = zq.embedded_files(), {}
    clips = [u.audio_path for u in zq.read_manifest(demo.test)[:CLIPS]]
    for name, source in (("quartznet", demo.model), ("conformer", demo.conformer)):
        prepared = None
        for dialect in ("fused", "strict"):
            file = folder / f"{name}.{dialect}.onnx"
            if not file.is_file():
                fast = zq.SynthesisSpec.preset("fast")
                prepared = prepared or zq.prepare(zq.load_checkpoint(source), synthesis=fast)
                zq.quantize(prepared, file, dialect=dialect)
            frontend = zq.Frontend(zq.OnnxRecognizer(file).frontend)
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            stored: dict[str, Any] = {}
            for k, clip in enumerate(clips):
                features, lengths = frontend.batch([soundfile.read(clip, dtype="float32")[0]])
                feed = {"audio_signal": features, "length": lengths}
                stored[f"features{k}"], stored[f"lengths{k}"] = features, lengths
                stored[f"logits{k}"] = session.run(["logits"], feed)[0]
            np.savez(f"{file}.npz", **stored)
            found[file] = zq.verify(file).onnxruntime
    return found


def environment(folder: Path, version: str) -> Path:
    """Make an environment with one release of ONNX Runtime; returns its Python."""
    home = folder / f"onnxruntime-{version}"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (home / "whole").is_file():
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps"]
        # what it imports as it runs a file, and no more
        subprocess.run([*install, f"onnxruntime=={version}"], check=True)
        subprocess.run(
            [*install, "numpy", "protobuf", "flatbuffers", "packaging", "coloredlogs", "humanfriendly"]
        )
        (home / "whole").touch()
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/oldest"))
    folder = parser.parse_args().work.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    files = make_files(folder)
    wrong = 0
    for release in sorted({*files.values()}):
        python = environment(folder, RELEASES[release])
        mine = [str(file) for file, needs in files.items() if needs == release]
        wrong |= subprocess.run([str(python), "-c", RUN, *mine], check=False).returncode
    return wrong


if __name__ == "__main__":
    sys.exit(main())
