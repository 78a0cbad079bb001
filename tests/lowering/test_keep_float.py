"""Float islands: from an operator that nothing covers, or a layer that is named, to the certificate."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeroq_asr as zq
from zeroq_asr.calibration.calibrate import calibrate
from zeroq_asr.capture.capture import capture, prepared_graph
from zeroq_asr.deployment.export import Deployment, export
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.verify import load_onnx, verify
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.float_parts import islands
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.keep_float import with_islands
from zeroq_asr.lowering.lower import lower
from zeroq_asr.pipeline import quantize
from zeroq_asr.speech.frontend import FrontendConfig

MELS, HIDDEN, FRAMES = 16, 12, 30
LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz'")
FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
Body = Callable[[Any, Tensor], Tensor]


class Odd(nn.Module):
    """Two convolutions with normalizations, and ``body`` [B, C, T] → [B, C', T] between them."""

    def __init__(self, body: Body, out: int = HIDDEN, **layers: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv1d(MELS, HIDDEN, 5, stride=2, padding=2)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.middle = nn.Conv1d(out, HIDDEN, 3, padding=1)
        self.last = nn.Conv1d(HIDDEN, len(LETTERS) + 1, 1)
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.body = body

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        y = self.body(self, self.norm(self.first(x)))
        return self.last(torch.relu(self.middle(y))).transpose(1, 2), (lengths - 1) // 2 + 1


def model_of(network: nn.Module) -> zq.AsrModel:
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.uniform_(0.5, 2)
    return zq.AsrModel(
        network=network.eval().requires_grad_(False),
        frontend=FrontendConfig(features=MELS),
        tokenizer=zq.Tokenizer(LETTERS, "characters"),
        name="odd",
        architecture="",
        config={},
        subsampling_factor=2,
    )


def batch(seed: int = 0, mels: int = MELS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, mels, FRAMES, generator=generator), torch.tensor([FRAMES, 17, 5])


def frames_first(function: Callable[[Tensor], Tensor]) -> Body:
    return lambda self, x: function(x.transpose(1, 2)).transpose(1, 2)


#: what no handler covers → (how it is used, channels that it gives)
ODD: dict[str, tuple[Body, int, dict[str, nn.Module]]] = {
    "mish": (lambda self, x: self.act(x), HIDDEN, {"act": nn.Mish()}),
    "softplus": (lambda self, x: F.softplus(x, beta=2.0), HIDDEN, {}),
    "sin, frames first": (frames_first(torch.sin), HIDDEN, {}),
    "gelu by tanh": (lambda self, x: F.gelu(x, approximate="tanh"), HIDDEN, {}),
    "prelu": (lambda self, x: self.act(x), HIDDEN, {"act": nn.PReLU(HIDDEN)}),
    "cumsum": (lambda self, x: torch.cumsum(x * 0.1, 2), HIDDEN, {}),
    "cumsum, frames first": (frames_first(lambda x: torch.cumsum(x * 0.1, 1)), HIDDEN, {}),
    "softmax of channels": (lambda self, x: torch.softmax(x, 1), HIDDEN, {}),
    "largest channel": (lambda self, x: x.amax(1, keepdim=True).exp(), 1, {}),
    "difference": (lambda self, x: x - torch.sin(x), HIDDEN, {}),
    "other channels": (lambda self, x: torch.cat([x, torch.cos(x)], 1), 2 * HIDDEN, {}),
    "rms norm": (
        frames_first(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
        HIDDEN,
        {},
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_an_unsupported_operator_is_captured_as_it_is(name: str) -> None:
    pytest.importorskip("onnxscript")
    body, out, layers = ODD[name]
    model = model_of(Odd(body, out, **layers))
    with pytest.raises(zq.UnsupportedOperatorError, match="--allow-float"):
        capture(model.network, model.example_input())
    graph = capture(model.network, model.example_input(), allow_float=True)
    assert any(node.op == "aten" for node in graph.nodes)
    for seed in range(2):
        x, lengths = batch(seed)
        wanted, encoded = model.network(x, lengths)
        found, also = graph.run(x, lengths)
        assert torch.equal(also, encoded)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    grouped = with_islands(graph)
    assert not any(node.op == "aten" for node in grouped.nodes)
    torch.testing.assert_close(grouped.run(x, lengths)[0], found, rtol=0, atol=0)


#: what may not be kept → why
REFUSED: dict[str, tuple[Body, str]] = {
    "softmax over time": (lambda self, x: torch.softmax(x, 2), "looks at frames to come"),
    "pooled": (lambda self, x: F.avg_pool1d(x, 3, 1, 1), "looks at frames to come"),
    "over utterances": (lambda self, x: torch.cumsum(x, 0), "mixes utterances"),
    "random": (lambda self, x: torch.rand_like(x) * x, "is random"),
    "sorted": (lambda self, x: torch.sort(x, 1)[0], "no float32 activation"),
    "compared": (lambda self, x: torch.where(x > 0, x, 0.1), "no float32 activation"),
    "flattened": (lambda self, x: torch.sin(x[:, :, :-1]), "no float32 activation|more than"),
    "shortened": (lambda self, x: F.max_pool1d(x, 2), "no float32 activation"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_may_not_be_kept_says_why(name: str) -> None:
    pytest.importorskip("onnxscript")
    body, reason = REFUSED[name]
    model = model_of(Odd(body))
    with pytest.raises(zq.UnsupportedOperatorError, match=f"cannot be kept in float: .*({reason})") as caught:
        capture(model.network, model.example_input(), allow_float=True)
    assert "\n" not in str(caught.value)


def test_without_the_exporter_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    model = model_of(Odd(ODD["mish"][0], act=nn.Mish()))
    with pytest.raises(zq.ConfigError, match=r"pip install 'zeroq-asr\[float\]'"):
        capture(model.network, model.example_input(), allow_float=True)


def logits(session: onnxruntime.InferenceSession, x: Tensor, lengths: Tensor) -> list[np.ndarray]:
    feed = {"audio_signal": x.numpy(), "length": lengths.numpy()}
    return session.run(["logits", "encoded_lengths", "logprobs"], feed)


def session_of(path: Path | bytes, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    source = path if isinstance(path, bytes) else str(path)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def agree(program: Program, data: bytes, x: Tensor, lengths: Tensor) -> None:
    """Numpy and torch, which have one evaluator, are equal; in the file the first island may differ by 1."""
    first, observed = islands(program)[0].name, {}

    def observe(instruction: Any, value: np.ndarray) -> None:
        observed[instruction.out] = value

    wanted, encoded = program.run(NumpyBackend(), x.numpy(), lengths.numpy(), observe=observe)
    with torch.inference_mode():
        simulated, _ = program.run(TorchBackend(), x, lengths)
    np.testing.assert_array_equal(simulated.numpy(), wanted)
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):
        model = onnx.load_model_from_string(data)
        model.graph.output.append(onnx.ValueInfoProto(name=first))
        session = session_of(model.SerializeToString(), level)
        np.testing.assert_array_equal(logits(session, x, lengths)[1], encoded)
        found = session.run([first], {"audio_signal": x.numpy(), "length": lengths.numpy()})[0]
        assert found.dtype == observed[first].dtype
        difference = np.abs(found.astype(np.int64) - observed[first])
        assert difference.max() <= 1, level
        assert difference.mean() < 0.01, level


@pytest.mark.parametrize("name", ["mish", "sin, frames first", "cumsum", "rms norm"])
def test_an_odd_network_is_quantized_and_verified(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    body, out, layers = ODD[name]
    model, path = model_of(Odd(body, out, **layers)), tmp_path / "odd.onnx"
    made = quantize(model, path, spec=zq.QuantSpec(allow_float=True), synthesis=FAST)
    assert made.path == path
    assert made.islands
    certificate = verify(path)
    assert not certificate.integer_only
    assert certificate.islands == made.islands
    assert certificate.float_tensors == []
    agree(made.program, path.read_bytes(), *batch())
    # as near to the float network as bytes elsewhere allow
    x, lengths = batch(3)
    real = torch.log_softmax(model.network(x, lengths)[0], -1).numpy()
    found = logits(session_of(path), x, lengths)[2]
    assert np.abs(found - real).max() < 0.1
    # the first utterance does not depend on what it is batched with, nor on padding
    shorter = lengths[1:2]
    alone, count, _ = logits(session_of(path), x[1:2, :, : int(shorter[0])], shorter)
    together = logits(session_of(path), x, lengths)[0]
    inner = int(count[0]) - 2  # convolutions without masks see two frames of padding
    np.testing.assert_array_equal(alone[0, :inner], together[1, :inner])


@pytest.fixture(scope="module")
def conformer() -> tuple[zq.AsrModel, FloatGraph]:
    """The Conformer that comes with the package, and its graph."""
    model = zq.load_checkpoint(zq.embedded_files().conformer)
    return model, prepared_graph(capture(model.network, model.example_input(), model.name))


def layers_of(graph: FloatGraph, op: str) -> list[str]:
    return [node.where for node in graph.nodes if node.op == op]


def run_alike(graph: FloatGraph, grouped: FloatGraph, mels: int) -> None:
    x, lengths = batch(1, mels)
    x, lengths = x.repeat(1, 1, 4), lengths * 4
    for found, wanted in zip(grouped.run(x, lengths), graph.run(x, lengths), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_neighbours_join_and_everything_is_computed_once(conformer: tuple[zq.AsrModel, FloatGraph]) -> None:
    model, graph = conformer
    grouped = with_islands(graph, ["encoder.layers.1*"])
    (island,) = [node for node in grouped.nodes if node.op == "float_island"]
    inside = {node.out for node in island.attrs["nodes"]}
    outside = {node.out for node in grouped.nodes} - {island.out}
    tables = {node.out for node in graph.nodes if node.op == "positions" or "distances" in node.out}
    assert not (inside & outside) - tables
    assert inside | outside >= {node.out for node in graph.nodes} - tables
    # one value comes in beside the lengths, one goes out
    assert len([name for name in island.ins if not name.startswith("length")]) == 1
    run_alike(graph, grouped, model.frontend.features)


@pytest.mark.parametrize("pattern", ["encoder.layers.0.self_attn", "*norm*", "encoder.pre_encode*", "*"])
def test_whatever_is_kept_computes_the_same(pattern: str, conformer: tuple[zq.AsrModel, FloatGraph]) -> None:
    model, graph = conformer
    grouped = with_islands(graph, [pattern])
    assert any(node.op == "float_island" for node in grouped.nodes)
    run_alike(graph, grouped, model.frontend.features)


def test_islands_give_one_value_and_no_path_leaves_and_returns() -> None:
    relu = {"clamp": (0.0, None)}
    nodes = [
        FloatNode("sigmoid", "a", ("audio_signal",), {}, "a"),
        FloatNode("tanh", "b", ("a",), {}, "b"),
        FloatNode("silu", "c", ("a",), {}, "c"),
        FloatNode("mul", "d", ("b", "c"), relu, "d"),
        FloatNode("transpose", "e", ("d",), {"perm": (0, 2, 1)}, "logits"),
    ]
    graph = FloatGraph(("audio_signal", "length"), ("e", "length"), nodes)

    def cones(*keep: str) -> list[list[str]]:
        grouped = with_islands(graph, keep)
        return [[n.out for n in i.attrs["nodes"]] for i in grouped.nodes if i.op == "float_island"]

    # c, which is none, reads a
    assert cones("a", "b") == [["a"], ["b"]]
    assert cones("b", "d") == [["b", "d"]]
    # what is light and lies between joins
    assert cones("a", "d") == cones("a", "b", "c", "d") == [["a", "b", "c", "d"]]
    assert cones() == []
    assert with_islands(graph) is graph


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("encoder.layerz.1", "near it: encoder.layers.1"),
        ("logits", "rounds nothing by itself"),
        ("*:distances", "stays with it"),
    ],
)
def test_a_pattern_of_nothing_is_an_error(
    pattern: str, words: str, conformer: tuple[zq.AsrModel, FloatGraph]
) -> None:
    with pytest.raises(zq.ConfigError, match=words):
        with_islands(conformer[1], [pattern])


@pytest.mark.parametrize(
    ("keep", "layer_bits"),
    [
        (("encoder.layers.0.self_attn*",), ()),
        (("encoder.layers.1*", "decoder*"), ()),
        (("encoder.pre_encode.conv*",), (("encoder.pre_encode.conv.0", 16),)),
    ],
)
def test_layers_of_the_conformer_stay_in_float(
    keep: tuple[str, ...],
    layer_bits: tuple[tuple[str, int], ...],
    conformer: tuple[zq.AsrModel, FloatGraph],
    tmp_path: Path,
) -> None:
    (model, graph), path = conformer, tmp_path / "kept.onnx"
    x, lengths = batch(2, model.frontend.features)
    x, lengths = x.repeat(1, 1, 4), lengths * 4
    ranges = calibrate(graph, x, zq.CalibrationSpec("noise")).ranges
    deployment = Deployment(model.name, model.frontend, model.tokenizer, 4.0, model.subsampling_factor)

    def lowered(**fields: Any) -> Program:
        spec = zq.QuantSpec(max_seconds=4.0, **fields)
        return lower(graph, ranges, spec, channels=x.shape[1], max_frames=deployment.max_frames)

    if layer_bits:
        with pytest.raises(zq.ConfigError, match="lies inside of what is kept"):
            lowered(keep_float=keep, layer_bits=layer_bits)
    program, plain = lowered(keep_float=keep), lowered()
    path.write_bytes(export(program, deployment, "fused").to_bytes())
    certificate = verify(path)
    assert certificate.islands == islands(program) != ()
    assert certificate.program_sha256 == program.digest()
    # what the stream is made of keeps its format, whatever of it runs in float
    for name in program.values.keys() & plain.values.keys():
        assert program.values[name].type == plain.values[name].type or name.endswith(":bytes")
    agree(program, path.read_bytes(), x, lengths)
    for dialect in ("strict", "qdq"):
        with pytest.raises(zq.ExportError, match=f"{certificate.islands[0].name}.*{dialect} cannot hold"):
            export(program, deployment, dialect)


def test_a_file_may_hold_nothing_but_what_it_exports(tmp_path: Path, small_model: zq.AsrModel) -> None:
    path = tmp_path / "kept.onnx"
    spec = zq.QuantSpec(keep_float=("encoder.encoder.1*",), max_seconds=4.0)
    quantize(small_model, path, spec=spec, synthesis=FAST)
    (island,) = verify(path).islands
    weights = [t for t in load_onnx(path).graph.initializer if t.name.startswith(f"{island.name}:weight")]
    assert weights
    assert {t.data_type for t in weights} == {onnx.TensorProto.FLOAT}

    def changed(edit: Callable[[onnx.ModelProto], Any], reason: str) -> None:
        model = load_onnx(path)
        edit(model)
        other = tmp_path / "other.onnx"
        other.write_bytes(model.SerializeToString(deterministic=True))
        with pytest.raises(zq.VerificationError, match=reason):
            verify(other)

    def nudge(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == weights[0].name)
        array = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    def another(model: onnx.ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "IsNaN")
        node.op_type = "IsInf"

    changed(nudge, "hash does not match")
    changed(another, "is not the export of its program")


def test_float_export_spells_operators_that_nothing_covers() -> None:
    pytest.importorskip("onnxscript")
    for name in ("prelu", "rms norm"):
        body, out, layers = ODD[name]
        model = model_of(Odd(body, out, **layers))
        graph = capture(model.network, model.example_input(), allow_float=True)
        deployment = quantize(model_of(Odd(lambda self, x: x)), synthesis=FAST).deployment
        made = export_float(graph, deployment)
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        x, lengths = batch()
        found = session.run(["logprobs"], {"audio_signal": x.numpy(), "length": lengths.numpy()})[0]
        wanted = torch.log_softmax(graph.run(x, lengths)[0], -1).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_specifications_survive_json() -> None:
    spec = zq.QuantSpec(keep_float=("a", "b.*"), allow_float=True)
    assert zq.QuantSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    for wrong in ("a", (1,), ("",)):
        with pytest.raises(zq.ConfigError, match="keep_float"):
            zq.QuantSpec(keep_float=wrong)  # type: ignore[arg-type]  # wrong types are the point
    with pytest.raises(zq.ConfigError, match="allow_float must be"):
        zq.QuantSpec(allow_float=1)  # type: ignore[arg-type]  # wrong types are the point


def test_sensitivity_and_report_know_what_is_kept(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    body, out, layers = ODD["mish"]
    model, path = model_of(Odd(body, out, **layers)), tmp_path / "odd.onnx"
    spec = zq.QuantSpec(allow_float=True, keep_float=("middle",))
    quantize(model, path, spec=spec, synthesis=FAST)
    found = {(layer.name, layer.kind) for layer in zq.sensitivity(model, spec, FAST).layers}
    assert ("middle", "result") in found
    assert ("middle", "weights") not in found
    assert ("act", "result") in {
        (layer.name, layer.kind) for layer in zq.sensitivity(model, replace(spec, keep_float=()), FAST).layers
    }
    assert zq.report(model, path, FAST).divergence < 0.05


def test_every_node_can_be_kept_by_itself(small_model: zq.AsrModel) -> None:
    graph = capture(small_model.network, small_model.example_input())
    x, lengths = batch(4, small_model.frontend.features)
    ranges = calibrate(graph, x, zq.CalibrationSpec("noise")).ranges
    deployment = Deployment(
        "small", small_model.frontend, small_model.tokenizer, 1.0, small_model.subsampling_factor
    )
    kept = 0
    for node in graph.nodes:
        spec = zq.QuantSpec(keep_float=(node.out,), max_seconds=1.0)
        if node.op in ("mask_time", "transpose", "length_step", "take_channels"):
            with pytest.raises(zq.ConfigError, match="rounds nothing by itself"):
                with_islands(graph, spec.keep_float)
            continue
        program = lower(graph, ranges, spec, channels=MELS, max_frames=deployment.max_frames)
        assert [i.out for i in program.code if i.op == "float_island"] == [node.out]
        prove(program)
        agree(program, export(program, deployment, "fused").to_bytes(), x, lengths)
        kept += 1
    assert kept > 10


def test_compare_measures_what_is_kept() -> None:
    pytest.importorskip("onnxscript")
    body, out, layers = ODD["mish"]
    model = model_of(Odd(body, out, **layers))
    found = zq.compare(model, spec=zq.QuantSpec(allow_float=True), synthesis=FAST)
    assert {row.label for row in found.rows} == {"float", "data-free", "ORT dynamic", "noise"}
    assert found.rows[1].divergence < 0.05
