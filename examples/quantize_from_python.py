"""Quantize, verify, use and judge a recogniser from Python.

python quantize_from_python.py                 # the model and clips that come with the package
python quantize_from_python.py quartznet.nemo
"""

from __future__ import annotations

import sys

import zeroq_asr as zq


def main(checkpoint: str | None) -> None:
    files = zq.copy_embedded("zeroq-demo")
    model = zq.load_checkpoint(checkpoint or files.model)

    # 1. quantize: no audio anywhere
    result = zq.quantize(model, "recogniser.int8.onnx")
    print(f"{result.float_bytes / 1e6:.1f} MB of float weights became a file of {result.size / 1e6:.1f} MB")

    # 2. verify: rebuilds the integer program from the file and proves it again
    certificate = zq.verify("recogniser.int8.onnx")
    print(f"proven to {certificate.max_seconds:g} s; program {certificate.program_sha256[:16]}")

    # 3. use
    recognizer = zq.open_recognizer("recogniser.int8.onnx")
    clips = zq.read_manifest(files.test)[:3]
    for clip, text in zip(clips, zq.transcribe(recognizer, [c.audio_path for c in clips]), strict=True):
        print(f"said: {clip.text}\nread: {text}")

    # 4. judge: against the text, the float network beside it
    for name, judged in (("float", zq.TorchRecognizer(model)), ("integer", recognizer)):
        print(f"{name} WER on these: {100 * zq.evaluate(judged, clips).words.rate:.0f} %")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
