"""Random programs give the same integers in every interpreter, and an utterance the same in any batch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.program import Program

from .programs import MELS, random_features, random_program

SEEDS = range(40)
#: (batch, frames) given to one session after another
SHAPES = [(3, 12), (1, 1), (2, 57), (1, 200)]


def session_of(program: Program, backend: OnnxStrictBackend) -> onnxruntime.InferenceSession:
    logits, encoded = build(backend, program)
    nodes = list(backend.nodes)
    for source, name in ((logits.name, "logits"), (encoded.name, "encoded")):
        nodes.append(helper.make_node("Identity", [source], [name]))
    graph = helper.make_graph(
        nodes,
        "program",
        [
            helper.make_tensor_value_info("audio_signal", TensorProto.FLOAT, ["batch", MELS, "frames"]),
            helper.make_tensor_value_info("length", TensorProto.INT64, ["batch"]),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.INT32, ["batch", None, None]),
            helper.make_tensor_value_info("encoded", TensorProto.INT64, ["batch"]),
        ],
        list(backend.initializers.values()),
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_every_interpreter_agrees(seed: int) -> None:
    program = random_program(seed)
    backends = {
        "strict": OnnxStrictBackend(),
        "fused": OnnxFusedBackend(),
        "fused signed weights": OnnxFusedBackend("x86-fast"),
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
            tensors = program.run(TorchBackend(), torch.from_numpy(features), torch.from_numpy(lengths))
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
    from onnx import numpy_helper

    from zeroq_asr.integer.backends.onnx_strict import decode

    for seed in range(5):
        program = random_program(seed)
        for backend in (OnnxStrictBackend(), OnnxFusedBackend(), OnnxFusedBackend("x86-fast")):
            build(backend, program)
            read = {
                constant: decode(numpy_helper.to_array(backend.initializers[name]), encoding)
                for constant, (name, encoding) in backend.encodings.items()
            }
            for name, array in program.constants.items():
                np.testing.assert_array_equal(read[name], array)
                assert read[name].dtype == array.dtype
