"""Random programs give the same integers in every interpreter, and an utterance the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_graph import decode
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend

from .programs import random_features, random_program
from .sessions import session_of

SEEDS = range(40)
#: (batch, frames) given to one session after another
SHAPES = [(3, 12), (1, 1), (2, 57), (1, 200)]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_interpreter_agrees(seed: int) -> None:
    program = random_program(seed)
    backends = {
        "strict": OnnxStrictBackend(),
        "fused": OnnxFusedBackend(),
    }
    sessions = {name: session_of(program, backend) for name, backend in backends.items()}
    for batch, frames in SHAPES:
        features, lengths = random_features(seed, batch, frames)
        logits, encoded = program.run(NumpyBackend(), features, lengths)
        for name, session in sessions.items():
            found = session.run(["logits", "encoded"], {"audio_signal": features, "length": lengths})
            np.testing.assert_array_equal(found[0], logits, err_msg=name)
            np.testing.assert_array_equal(found[1], encoded, err_msg=name)
        with torch.inference_mode():
            tensors = program.run(
                TorchBackend(int8=True), torch.from_numpy(features), torch.from_numpy(lengths)
            )
        np.testing.assert_array_equal(tensors[0].numpy(), logits)
        np.testing.assert_array_equal(tensors[1].numpy(), encoded)


def test_every_constant_is_stored_once() -> None:
    program = random_program(11)
    for backend in (OnnxStrictBackend(), OnnxFusedBackend()):
        build(backend, program)
        assert set(backend.encodings) == set(program.constants)
        assert {name for name, _ in backend.encodings.values()} == set(program.constants)
        assert set(program.constants) <= set(backend.initializers)


def test_stored_constants_are_read_back_exactly() -> None:
    for seed in range(5):
        program = random_program(seed)
        for backend in (OnnxStrictBackend(), OnnxFusedBackend(), OnnxFusedBackend("x86-vnni")):
            build(backend, program)
            read = {
                constant: decode(numpy_helper.to_array(backend.initializers[name]), encoding)
                for constant, (name, encoding) in backend.encodings.items()
            }
            for name, array in program.constants.items():
                np.testing.assert_array_equal(read[name], array)
                assert read[name].dtype == array.dtype
