"""Word error rate, size, time and memory of a data-free integer file against its float checkpoint.

    python benchmarks/accuracy.py --checkpoint quartznet15x5.nemo --manifest test-other/manifest.jsonl

The checkpoint is quantized with each of the given settings through the command line, in a process of its own,
so that time and peak memory are its own.  The result and the float network are evaluated on the same
recordings.  ``--calibration`` among the settings of a row takes ranges from noise, features or real audio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zeroq_asr as zq


def _quantize(checkpoint: str, folder: Path, options: list[str]) -> tuple[Path, float, float]:
    """File, seconds and peak gigabytes of one run of the command."""
    output = folder / "model.onnx"
    command = [sys.executable, "-m", "zeroq_asr", "quantize", checkpoint, "-o", str(output), "--quiet"]
    start = time.perf_counter()
    child = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"quantize {' '.join(options)} failed")
    return output, time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument(
        "--settings",
        nargs="+",
        default=["--bits 8", "--bits 8 --calibration noise", "--bits w7a8", "--bits w4a8"],
        help="options of `zeroq-asr quantize`, one string a row",
    )
    parser.add_argument("--json", help="also write the rows to this file")
    arguments = parser.parse_args()

    utterances = zq.read_manifest(arguments.manifest)
    model = zq.load_checkpoint(arguments.checkpoint)
    reference = zq.evaluate(zq.TorchRecognizer(model), utterances)
    texts = [t.hypothesis for t in reference.transcripts]
    rows = [{"settings": "float", **_rates(reference), "agreement": 0.0}]
    print(f"{'settings':44} {'WER %':>7} {'S/D/I':>12} {'agree %':>8} {'MB':>7} {'s':>6} {'GB':>6}")
    _print(rows[-1])
    for settings in arguments.settings:
        with tempfile.TemporaryDirectory() as name:
            path, seconds, gigabytes = _quantize(arguments.checkpoint, Path(name), settings.split())
            result = zq.evaluate(zq.OnnxRecognizer(path), utterances)
            size = path.stat().st_size / 1e6
        agreement = _agreement(texts, [t.hypothesis for t in result.transcripts])
        rows.append(
            {
                "settings": settings,
                **_rates(result),
                "agreement": agreement,
                "megabytes": size,
                "seconds": seconds,
                "gigabytes": gigabytes,
            }
        )
        _print(rows[-1])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


def _rates(evaluation: zq.Evaluation) -> dict[str, object]:
    words = evaluation.words
    return {
        "wer": 100 * (words.rate or 0.0),
        "sdi": f"{words.substitutions}/{words.deletions}/{words.insertions}",
    }


def _agreement(reference: list[str], found: list[str]) -> float:
    """Word error rate against the float transcript, in percent."""
    from zeroq_asr.measure.evaluate import count_errors

    return 100 * (count_errors(reference, found)[0].rate or 0.0)


def _print(row: dict[str, object]) -> None:
    def number(key: str, digits: int) -> str:
        return f"{row[key]:.{digits}f}" if key in row else ""

    print(
        f"{row['settings']:44} {number('wer', 2):>7} {row['sdi']:>12} {number('agreement', 2):>8}"
        f" {number('megabytes', 2):>7} {number('seconds', 0):>6} {number('gigabytes', 2):>6}",
        flush=True,
    )


if __name__ == "__main__":
    main()
