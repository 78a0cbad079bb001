"""The whole job on the model that comes with the package, in seconds:

`make check` runs it at every change.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

import zeroq_asr as zq
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.speech.audio import load_audio


def test_a_checkpoint_becomes_a_proven_file_that_hears(tmp_path: Path) -> None:
    model = zq.embedded_model()
    clip = zq.read_manifest(zq.embedded_files().test)[0]
    prepared = zq.prepare(model, synthesis=zq.SynthesisSpec.preset("fast"))
    program = zq.build(prepared)
    frontend = zq.Frontend(model.frontend)
    features, lengths = frontend.batch([load_audio(clip.audio_path, model.frontend.sample_rate)], ["clip"])
    wanted = program.run(NumpyBackend(), features, lengths)[0]
    real = zq.TorchRecognizer(model).log_probs(features, lengths)[0]
    agree = (real.argmax(-1) == wanted.argmax(-1)).mean()
    assert agree > 0.9
    for dialect in ("fused", "strict"):
        path = tmp_path / f"{dialect}.onnx"
        made = zq.quantize(prepared, path, dialect=dialect)
        assert made.program.digest() == program.digest()
        certificate = zq.verify(path)
        assert certificate.integer_only
        found, _ = zq.OnnxRecognizer(path).log_probs(features, lengths)
        assert (found.argmax(-1) == wanted.argmax(-1)).all()
    assert np.isfinite(found).all()
