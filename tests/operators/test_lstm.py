"""The LSTM: recognised, lowered, proven by induction, and the same integers everywhere, step after step."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lstm_networks import MELS, Recognizer, example, recognizer, step_graph
from onnx import TensorProto, helper
from torch import Tensor

import zeroq_asr as zq
from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import capture
from zeroq_asr.config import CalibrationSpec, QuantSpec
from zeroq_asr.deployment.export import export
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.errors import ConfigError
from zeroq_asr.graph.float_graph import FloatGraph
from zeroq_asr.integer.apart import reads_behind
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_fused import OnnxFusedBackend
from zeroq_asr.integer.backends.onnx_strict import OnnxStrictBackend, build
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.pair_saturation import saturates
from zeroq_asr.integer.program import Instruction, Port, Program
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.lower import lower
from zeroq_asr.lowering.plan import Plan
from zeroq_asr.operators.lstm.cell import SIGMOID_PLACES, Format, gate_index, lstm_step, updated
from zeroq_asr.operators.lstm.lowered import GATE_PLACES, cell_format, sigmoid_table, tanh_table
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.speech.tokenizer import Tokenizer

INPUTS, UNITS, LAYERS, STEPS = 10, 12, 2, 1000

# -- capture ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("time_major", [False, True], ids=["batch-first", "time-major"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both-ways"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_every_layer_and_direction_is_captured(layers: int, bidirectional: bool, time_major: bool) -> None:
    network = recognizer(num_layers=layers, bidirectional=bidirectional, time_major=time_major)
    # the capture itself compares the graph with the module
    graph = capture(network, example())
    found = [node for node in graph.nodes if node.op == "lstm"]
    assert [node.attrs["backwards"] for node in found] == [False, True][: 1 + bidirectional] * layers
    assert sum(node.op == "join" for node in graph.nodes) == layers * bidirectional


def test_an_lstm_without_biases_is_captured() -> None:
    (node,) = (n for n in capture(recognizer(bias=False), example(batch=3)).nodes if n.op == "lstm")
    assert not node.attrs["bias"].any()


class _Begun(Recognizer):
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = self.before(features.transpose(1, 2))
        h = torch.ones(1, features.shape[0], self.lstm.hidden_size)
        return self.after(self.lstm(x, (h, h))[0]), lengths


class _Last(Recognizer):
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        y, (h, _) = self.lstm(self.before(features.transpose(1, 2)))
        return self.after(y + h.transpose(0, 1)), lengths


class _WrongWay(Recognizer):
    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.after(self.lstm(self.before(features.transpose(1, 2)))[0]), lengths


def test_what_has_no_integer_form_is_refused_by_name() -> None:
    with pytest.raises(zq.UnsupportedOperatorError, match=r"lstm: .*projection"):
        capture(recognizer(proj_size=3), example())
    with pytest.raises(zq.UnsupportedOperatorError, match=r"begins in another state than zero"):
        capture(_Begun().eval(), example())
    with pytest.raises(zq.UnsupportedOperatorError, match="add"):
        capture(_Last().eval(), example())
    # over the batch in place of time
    with pytest.raises(zq.UnsupportedOperatorError, match="lstm"):
        capture(_WrongWay(time_major=True).eval(), example(batch=2))


# -- a whole network -------------------------------------------------------------------------------


@cache
def quantized() -> tuple[zq.AsrModel, Any]:
    letters = tuple("abcd")
    model = zq.AsrModel(
        network=recognizer(num_layers=2, bidirectional=True),
        frontend=FrontendConfig(features=MELS),
        tokenizer=Tokenizer(letters, "characters"),
        name="recurrent",
        architecture="lstm",
        config={},
        subsampling_factor=1,
    )
    spec = zq.QuantSpec(max_seconds=1.0)
    return model, zq.quantize(model, spec=spec, calibration=zq.CalibrationSpec("noise", limit=2))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_lstm_is_not_kept_in_float(bidirectional: bool) -> None:
    graph = capture(recognizer(bidirectional=bidirectional), example(), "recurrent")
    with pytest.raises(ConfigError, match=r"'lstm' names .*lstm.*, which cannot be kept in float"):
        with_islands(graph, ("lstm",))


def test_a_plan_gives_an_lstm_its_grid() -> None:
    graph = capture(recognizer(), example(), "recurrent")
    plan = Plan.of(zq.QuantSpec(layer_grids=(("lstm", "int4"),))).resolve(graph)
    lstm = next(node for node in graph.nodes if node.op == "lstm")
    assert plan.grid(lstm).name == "int4"
    assert {plan.grid(node).name for node in graph.nodes if node.op != "lstm"} == {"int8"}


def test_a_network_gives_the_same_integers_everywhere(tmp_path: Any) -> None:
    model, made = quantized()
    features, lengths = (tensor.numpy() for tensor in example(37, batch=3))
    wanted, _ = made.program.run(NumpyBackend(), features, lengths)
    with torch.inference_mode():
        simulated, _ = made.program.run(TorchBackend(), *map(torch.from_numpy, (features, lengths)))
    np.testing.assert_array_equal(simulated.numpy(), wanted)
    for dialect in ("fused", "strict"):
        path = tmp_path / f"{dialect}.onnx"
        path.write_bytes(export(made.program, made.deployment, dialect).to_bytes())
        certificate = zq.verify(path)
        assert certificate.integer_only
        for threads in (1, 2):
            session = _session(path.read_bytes(), threads)
            (found,) = session.run(["logits"], {"audio_signal": features, "length": lengths})
            np.testing.assert_array_equal(found, wanted)
    scale = made.program.values["logits"].scale
    with torch.inference_mode():
        real = model.network(*map(torch.from_numpy, (features, lengths)))[0].numpy()
    assert np.abs(wanted * scale - real).max() < 0.05 * np.abs(real).max()


def test_the_float_file_gives_what_the_module_gives(tmp_path: Any) -> None:
    model, made = quantized()
    features, lengths = example(23)
    graph = capture(model.network, example())
    session = _session(export_float(graph, made.deployment).SerializeToString(), 1)
    (found,) = session.run(["logprobs"], {"audio_signal": features.numpy(), "length": lengths.numpy()})
    with torch.inference_mode():
        wanted = model.network(features, lengths)[0].log_softmax(-1)
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-4)


def _session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# -- one step, whose states are carried ------------------------------------------------------------


def _inputs(steps: int, batch: int, seed: int = 0) -> np.ndarray:
    """Loud and quiet stretches, so that cells grow and forget."""
    generator = np.random.default_rng(seed)
    loud = np.where(np.arange(steps) // 50 % 2, 0.2, 2.0)[:, None, None, None]
    return (loud * generator.standard_normal((steps, batch, INPUTS, 1)) + 0.3).astype(np.float32)


def _float_steps(graph: FloatGraph, inputs: np.ndarray) -> tuple[list[tuple[Tensor, ...]], np.ndarray]:
    """What each step of the float graph is given, and every result [N, B, H, 1]."""
    states = [torch.zeros(inputs.shape[1], UNITS, 1) for _ in graph.states]
    given_, made = [], []
    for x in inputs:
        given_.append((torch.from_numpy(x), *states))
        y, *states = graph.run(*given_[-1])
        made.append(y.numpy())
    return given_, np.stack(made)


@cache
def stepping(gain: float = 3.0) -> tuple[FloatGraph, Program]:
    graph = step_graph(LAYERS, INPUTS, UNITS, gain=gain)
    seen, _ = _float_steps(graph, _inputs(200, 2, seed=7))
    found = calibrate(graph, seen, CalibrationSpec("minmax", margin=1.1))
    program = lower(graph, found.ranges, QuantSpec(), channels=INPUTS, max_frames=1)
    return graph, program


@pytest.mark.parametrize("inputs", [7, 8])
def test_neighbours_of_neither_product_saturate(inputs: int) -> None:
    graph = step_graph(1, inputs, UNITS)
    # the first two of every four are large, and of one sign
    large = torch.tensor([1.0, 1.0, 0.01, 0.01]).repeat(UNITS)
    (node,) = (node for node in graph.nodes if node.op == "lstm_step")
    for name, size in (("weight", inputs), ("recurrent", UNITS)):
        node.attrs[name] = large[:size].repeat(4 * UNITS, 1) * (0.01 if name == "weight" else 1.0)
    given_ = torch.from_numpy(_inputs(1, 2)[0, :, :inputs])
    states = [torch.zeros(2, UNITS, 1) for _ in graph.states]
    found = calibrate(graph, [(given_, *states)], CalibrationSpec("minmax"))
    program = lower(graph, found.ranges, QuantSpec(), channels=inputs, max_frames=1)
    for name in ("weight", "recurrent"):
        (array,) = (array for key, array in program.constants.items() if key.endswith(f":{name}"))
        assert not saturates(array, 255)


def test_the_states_of_a_step_are_ports_of_known_formats() -> None:
    _, program = stepping()
    kinds = {state.name: (state.type, state.lo, state.hi, state.initial) for state in program.states}
    assert kinds == {
        name: ("uint8", 0, 255, 128) if name[0] == "h" else ("int32", -32767, 32767, 0)
        for name in ("h0", "c0", "h1", "c1")
    }
    assert [port.dims for port in program.inputs] == [("batch", INPUTS, 1)]
    assert [port.dims for port in program.outputs] == [("batch", UNITS, 1)]


def test_a_step_is_proven_by_induction() -> None:
    _, program = stepping()
    assert prove(program).peak < 1 << 31
    for place, state in enumerate(program.states):
        if state.name[0] == "c":
            states = [*program.states]
            states[place] = dataclasses.replace(state, lo=-20000, hi=20000)
            problem = rf"state {state.name}: what leaves .* what may enter int32 in \[-20000, 20000\]"
            with pytest.raises(zq.ProofError, match=problem):
                prove(dataclasses.replace(program, states=tuple(states)))


def test_a_cell_that_is_not_clamped_to_its_bounds_is_not_proven() -> None:
    _, program = stepping()
    code = [
        dataclasses.replace(i, attrs={**i.attrs, "cell": 32000}) if i.op == "lstm_step" else i
        for i in program.code
    ]
    # what leaves lies in narrower bounds than what enters: that is an induction
    prove(dataclasses.replace(program, code=code))
    states = tuple(
        dataclasses.replace(s, lo=-31000, hi=31000) if s.name[0] == "c" else s for s in program.states
    )
    with pytest.raises(zq.ProofError, match=r"what may enter int32 in \[-31000, 31000\]"):
        prove(dataclasses.replace(program, code=code, states=states))


def _step_session(program: Program, dialect: str, threads: int) -> onnxruntime.InferenceSession:
    backend = (OnnxFusedBackend if dialect == "fused" else OnnxStrictBackend)("x86-any")
    results = build(backend, program)
    if dialect == "fused":
        assert backend.spellings["lstm_step"] == {"LSTM by matrix products": LAYERS}
    types = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}
    ports = [*program.inputs, *program.states]
    leaving = [*program.outputs, *program.states]
    names = [f"result{k}" for k in range(len(results))]
    last = [helper.make_node("Identity", [v.name], [n]) for v, n in zip(results, names, strict=True)]
    graph = helper.make_graph(
        [*backend.nodes, *last],
        "step",
        [helper.make_tensor_value_info(port.name, types[port.type], port.dims) for port in ports],
        [
            helper.make_tensor_value_info(name, types[port.type], port.dims)
            for name, port in zip(names, leaving, strict=True)
        ],
        [*backend.initializers.values()],
        value_info=backend.value_infos(),
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    return _session(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString(), threads)


@pytest.mark.parametrize(("batch", "steps"), [(1, 150), (3, STEPS), (16, 150)])
def test_a_thousand_steps_give_the_same_integers_everywhere(batch: int, steps: int) -> None:
    _, program = stepping()
    inputs = _inputs(steps, batch)
    kinds = (("fused", 1), ("fused", 2), ("strict", 2))
    sessions = [_step_session(program, dialect, threads) for dialect, threads in kinds]
    held: tuple[np.ndarray, ...] = program.initial_states(batch=batch)
    simulated = tuple(torch.from_numpy(v) for v in held)
    carried = [[*held] for _ in sessions]
    torch_backend, names, moved = TorchBackend(), [s.name for s in program.states], set()
    for x in inputs:
        y, *rest = program.run(NumpyBackend(), x, *held)
        held = tuple(rest)
        with torch.inference_mode():
            z, *after = program.run(torch_backend, torch.from_numpy(x), *simulated)
        simulated = tuple(after)
        for ours, theirs in zip((y, *held), (z, *simulated), strict=True):
            np.testing.assert_array_equal(theirs.numpy(), ours)
        for k, session in enumerate(sessions):
            w, *carried[k] = session.run(None, {"x": x, **dict(zip(names, carried[k], strict=True))})
            for ours, theirs in zip((y, *held), (w, *carried[k]), strict=True):
                np.testing.assert_array_equal(theirs, ours)
        moved.add(y.tobytes())
    assert len(moved) == steps, "the states never moved"


def test_steps_stay_close_to_the_float_lstm() -> None:
    # as PyTorch begins; with larger weights a network has states that it falls into or not
    graph, program = stepping(gain=1.0)
    inputs = _inputs(STEPS, 2)
    _, wanted = _float_steps(graph, inputs)
    states: tuple[np.ndarray, ...] = program.initial_states(batch=2)
    made = []
    for x in inputs:
        y, *rest = program.run(NumpyBackend(), x, *states)
        states = tuple(rest)
        made.append(y)
    info = program.values[program.outputs[0].value]
    distance = np.abs(np.stack(made).astype(np.float64) - info.zero_point - wanted / info.scale)
    # weights, inputs and hidden states of 8 bits, behind two layers: mean and largest, in steps of 1/127.5
    assert 0.1 < distance.mean() < 0.4
    assert distance.max() < 2


def test_a_sequence_is_its_steps() -> None:
    _, program = stepping()
    step = next(i for i in program.code if i.op == "lstm_step")
    attrs, frames = {**step.attrs, "backwards": False}, 30
    x = np.random.default_rng(3).integers(0, 256, (2, INPUTS, frames)).astype(np.uint8)
    known = [program.constants[name] for name in step.ins[3:]]
    run = Program(
        (Port("x", "x", "uint8", ("batch", INPUTS, "frames"), 0, 255),),
        (Port("y", "y", "uint8", ("batch", UNITS, "frames")),),
        [Instruction("lstm", "y", ("x", *step.ins[3:]), attrs, "layer", ("cells",))],
        {name: program.constants[name] for name in step.ins[3:]},
        {},
        frames,
    )
    prove(run)
    (found,) = run.run(NumpyBackend(), x)
    backwards = dataclasses.replace(
        run, code=[dataclasses.replace(run.code[0], attrs={**attrs, "backwards": True})]
    )
    (turned,) = backwards.run(NumpyBackend(), np.ascontiguousarray(x[:, :, ::-1]))
    np.testing.assert_array_equal(turned[:, :, ::-1], found)
    # which then begins in the padding of the shorter utterances of a batch
    assert reads_behind(run) == ""
    assert reads_behind(backwards) == "y (lstm)"
    h = np.full((2, UNITS, 1), 128, np.uint8)
    c = np.zeros((2, UNITS, 1), np.int32)
    for t in range(frames):
        h, c = lstm_step(NumpyBackend(), x[:, :, t : t + 1], h, c, *known, **step.attrs)
        np.testing.assert_array_equal(h[:, :, 0], found[:, :, t])


# -- the arithmetic of the cell --------------------------------------------------------------------

gate = st.integers(0, 1 << SIGMOID_PLACES)


@given(gate, gate, gate, gate, st.integers(-32767, 32767), st.integers(0, 13))
def test_a_cell_is_rounded_once(i: int, keep: int, o: int, g: int, c: int, places: int) -> None:
    scale = 2 / 255
    table, cut = tanh_table(places, scale)
    form = Format(8, places, 32767, cut, 128, 0, 255)
    operands = [np.full((1, 1, 1), v, np.int32) for v in (i, keep, o, g)]
    h, after = updated(NumpyBackend(), tuple(operands), np.full((1, 1, 1), c, np.int32), table, form)
    one = 1 << SIGMOID_PLACES
    exact = Fraction(keep * c, one) + Fraction(i * (2 * g - one), one * one) * (1 << places)
    assert int(after[0, 0, 0]) == max(-32767, min(32767, (exact + Fraction(1, 2)).__floor__()))
    # half a step of rounding, and what both tables lack
    real = o / one * np.tanh(int(after[0, 0, 0]) / 2**places)
    assert abs(int(h[0, 0, 0]) - min(255.0, real / scale + 128)) <= 0.5 + 0.01
    assert h.dtype == np.uint8


@given(st.integers(-(1 << 30), 1 << 30), st.integers(0, 8))
def test_a_gate_is_its_entry_of_the_table(total: int, c: int) -> None:
    table = sigmoid_table()
    (index,) = gate_index(NumpyBackend(), np.array([total], np.int32), table, c)
    real = total / 2.0 ** (c + GATE_PLACES)
    found = table[index] / 2.0**SIGMOID_PLACES
    # half a step of the gate where σ is steepest, and half one of the table
    real_sigmoid = 0.5 + 0.5 * np.tanh(real / 2)
    bound = 0.25 * 2.0 ** -(GATE_PLACES + 1) + 2.0 ** -(SIGMOID_PLACES + 1)
    assert abs(found - real_sigmoid) <= bound


@given(st.floats(1e-3, 16000))
def test_a_cell_has_a_bit_to_spare(peak: float) -> None:
    info = cell_format("layer", -peak, peak / 2)
    assert 2 * peak <= info.hi * info.scale
    assert info.scale == 2.0 ** round(np.log2(info.scale))
    # no more than is needed, up to the finest there is
    assert 4 * peak > info.hi * info.scale or info.scale == 2.0**-13


def test_a_cell_beyond_16_bits_is_refused() -> None:
    with pytest.raises(zq.CalibrationError, match="layer: its cell reaches 2e"):
        cell_format("layer", -20000, 0)


def test_what_leaves_the_weights_of_an_lstm_says_so() -> None:
    """First of all: these warnings are raised here."""
    model, _ = quantized()
    noise = zq.CalibrationSpec("noise", limit=2)
    spec = zq.QuantSpec(weight_bits=4, sensitive_bits=4, max_seconds=1.0)
    with pytest.raises(zq.ZeroqWarning, match="the weights of its lstm are not among the ranked"):
        zq.sensitivity(model, spec, calibration=noise)
    prepared = zq.prepare(model, spec=spec, calibration=noise)
    with pytest.raises(zq.ZeroqWarning, match="the weights of its lstm are left at 8 bits by the search"):
        zq.find_plan(prepared, max_loss=1.0)
    training = zq.TrainingSpec(reconstruction="on")
    with pytest.raises(zq.ZeroqWarning, match="the weights of its lstm are not trained"):
        zq.quantize(prepared, training=training)
