"""How near sherpa-onnx and onnx-asr come to our own transcripts, of the networks that come with the package.

    python benchmarks/runtimes.py > benchmarks/results/runtimes.txt

Every network is quantized without data with a frame every 10 ms, the only step that sherpa-onnx makes, and
its folder for each runtime is run by the runtime itself on the embedded test clips.  sherpa-onnx makes its
own features; onnx-asr, with filters for 80 and 128 mels alone, is given ours.  Columns: the transcripts that
are our own, of how many, and how many letters in a hundred of ours differ.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_asr.models.nemo as nemo
import sherpa_onnx
import soundfile
from hearing import our_warnings_alone
from jiwer import cer

import zeroq_asr as zq

NETWORKS = ("quartznet", "conformer", "transducer")
Hear = Callable[[npt.NDArray[np.float32]], str]


def written(name: str, folder: Path) -> Path:
    """Quantize a network with a frame every 10 ms, and return what was written."""
    model = zq.embedded_model(name)
    frontend = dataclasses.replace(model.frontend, window_stride=0.01)
    slow: Any = dataclasses.replace(model, frontend=frontend)
    if isinstance(model, zq.TransducerModel):
        zq.quantize_transducer(slow, folder / "bundle")
        return folder / "bundle"
    zq.quantize(slow, folder / "model.onnx")
    return folder / "model.onnx"


def sherpa(source: Path, folder: Path, mels: int) -> Hear:
    """sherpa-onnx on a folder of its own."""
    zq.runtime_folder(source, "sherpa-onnx").write(folder)
    kinds = sherpa_onnx.OfflineRecognizer
    tokens = str(folder / "tokens.txt")
    if source.is_dir():
        parts = (str(folder / f"{part}.onnx") for part in ("encoder", "decoder", "joiner"))
        recognizer = kinds.from_transducer(*parts, tokens, feature_dim=mels, model_type="nemo_transducer")
    else:
        recognizer = kinds.from_nemo_ctc(str(folder / "model.onnx"), tokens, feature_dim=mels)

    def hear(clip: npt.NDArray[np.float32]) -> str:
        stream = recognizer.create_stream()
        stream.accept_waveform(16000, clip)
        recognizer.decode_stream(stream)
        text: str = stream.result.text
        return text.strip()

    return hear


def given(source: Path, folder: Path, frontend: zq.Frontend) -> Hear:
    """onnx-asr on a folder of its own, given the features of a frontend."""
    zq.runtime_folder(source, "onnx-asr", own_features=True).write(folder)
    names = {"model": "model.onnx"}
    kind: Any = nemo.NemoConformerCtc
    if source.is_dir():
        names = {"encoder": "encoder-model.onnx", "decoder_joint": "decoder_joint-model.onnx"}
        kind = nemo.NemoConformerRnnt
    names |= {"vocab": "vocab.txt", "config": "config.json"}
    paths = {key: folder / name for key, name in names.items()}
    network = kind(paths, lambda name: lambda x, n: frontend.batch([*x]), {})
    return lambda clip: str(next(network.recognize_batch(clip[None], np.array([len(clip)]))).text)


def main() -> None:
    our_warnings_alone()
    paths = [u.audio_path for u in zq.read_manifest(zq.embedded_files().test)]
    clips = [soundfile.read(path, dtype="float32")[0] for path in paths]
    print(f"{'network':<12}{'runtime':<14}{'alike':>8}{'letters':>9}")
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            source = written(name, Path(folder))
            recognizer = zq.open_recognizer(source)
            wanted = [str(text) for text in zq.transcribe(recognizer, paths)]
            runtimes = {
                "sherpa-onnx": sherpa(source, Path(folder) / "sherpa", recognizer.frontend.features),
                "onnx-asr": given(source, Path(folder) / "asr", zq.Frontend(recognizer.frontend)),
            }
            for runtime, hear in runtimes.items():
                found = [hear(clip) for clip in clips]
                alike = sum(a == b for a, b in zip(wanted, found, strict=True))
                row = f"{alike}/{len(clips)}", f"{100 * cer(wanted, found):.1f}"
                print(f"{name:<12}{runtime:<14}{row[0]:>8}{row[1]:>9}", flush=True)


if __name__ == "__main__":
    main()
