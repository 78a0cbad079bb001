from __future__ import annotations

import contextlib
import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.checkpoints.exported import _is_size
from zeroq_asr.cli.exits import INPUT, UNSUPPORTED, code_of
from zeroq_asr.errors import CheckpointError, UnsupportedModelError

AUTO = torch.export.Dim.AUTO
#: captured names that no file holds: they are Python's
PYTHON = {"__add__", "__iadd__", "__floordiv__", "neg", "mod", "float", "long", "floordiv", "size"}
DYNAMIC = ({0: AUTO, 2: AUTO}, {0: AUTO})


class Network(nn.Module):
    """A network that is none of this package's."""

    def __init__(self, classes: int = 29, mels: int = 16) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(mels)
        self.conv = nn.Conv1d(mels, classes, 3, stride=4, padding=1)
        self.drop = nn.Dropout(0.5)

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.drop(self.conv(self.norm(features))).transpose(1, 2), (lengths + 3) // 4


def exported(
    network: nn.Module, shapes: Any = DYNAMIC, mels: int = 16, dtype: torch.dtype = torch.int64
) -> bytes:
    example = torch.randn(2, mels, 40), torch.tensor([40, 30], dtype=dtype)
    buffer = io.BytesIO()
    program = torch.export.export(network, example, dynamic_shapes=shapes, strict=False)
    torch.export.save(program, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def archive(network: Network) -> bytes:
    return exported(network)


@pytest.fixture
def load(tmp_path: Path, conv_config: dict[str, Any]) -> Callable[[bytes], Any]:
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(conv_config))

    def read(data: bytes) -> Any:
        path = tmp_path / "program.pt2"
        path.write_bytes(data)
        return load_checkpoint(path, config=tmp_path / "model_config.yaml")

    return read


Load = Callable[[bytes], Any]


def rewritten(archive: bytes, change: Callable[[dict[str, bytes]], object]) -> bytes:
    """Return ``archive`` after ``change`` to its records, named without their folder."""
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        records = {name.partition("/")[2]: source.read(name) for name in source.namelist()}
    change(records)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name, data in records.items():
            target.writestr(f"x/{name}", data)
    return out.getvalue()


def edited(archive: bytes, record: str, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return ``archive`` after ``change`` to the JSON of one record."""

    def apply(records: dict[str, bytes]) -> None:
        content = json.loads(records[record])
        change(content)
        records[record] = json.dumps(content).encode()

    return rewritten(archive, apply)


def test_reads_a_network_it_does_not_know(load: Load, archive: bytes, network: Network) -> None:
    model = load(archive)
    assert (model.architecture, model.subsampling_factor, model.name) == ("", 4, "program")
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not any(m.training for m in model.network.modules())
    for frames in (16, 77):
        features, lengths = model.example_input(frames)
        for ours, theirs in zip(network(features, lengths), model.network(features, lengths), strict=True):
            torch.testing.assert_close(theirs, ours)
    again = torch.export.export(model.network, model.example_input(), dynamic_shapes=DYNAMIC, strict=False)
    assert any(node.target is torch.ops.aten.conv1d.default for node in again.graph.nodes)


def test_reads_this_package_s_own_networks(
    load: Load, conv_config: dict[str, Any], conv_state: dict[str, torch.Tensor]
) -> None:
    from zeroq_asr.architectures.quartznet import ConvCtc

    own = ConvCtc(conv_config)
    own.load_state_dict(conv_state)
    model = load(exported(own.eval()))
    assert model.subsampling_factor == 2
    features, lengths = model.example_input()
    torch.testing.assert_close(model.network(features, lengths)[0], own(features, lengths)[0])


def test_needs_a_configuration(tmp_path: Path, archive: bytes) -> None:
    (tmp_path / "program.pt2").write_bytes(archive)
    with pytest.raises(CheckpointError, match=r"pass --config model_config\.yaml"):
        load_checkpoint(tmp_path / "program.pt2")


class OneOutput(Network):
    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # modules may take what they like
        return super().forward(features, lengths)[0]


PROGRAMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "fixed time": (lambda: exported(Network().eval(), ({0: AUTO}, {0: AUTO})), "time axis is fixed at 40"),
    "fixed batch": (lambda: exported(Network().eval(), ({2: AUTO}, None)), "batch axis is fixed at 2"),
    "training": (lambda: exported(Network().train()), "training mode"),
    "classes": (lambda: exported(Network(classes=30).eval()), "30 classes, the configuration has 29"),
    "mels": (lambda: exported(Network(mels=8).eval(), mels=8), "8 mels, the configuration makes 16"),
    "lengths": (lambda: exported(Network().eval(), dtype=torch.int32), "expected float32 and int64"),
    "one output": (lambda: exported(OneOutput().eval()), r"does not return logits \[B, S, V\]"),
    "not finite": (lambda: exported(_with_nan()), "NaN or infinity: conv.weight"),
}


def _with_nan() -> nn.Module:
    network = Network().eval()
    network.conv.weight.data[0, 0, 0] = torch.nan
    return network


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_do_not_fit_say_why(load: Load, name: str) -> None:
    make, message = PROGRAMS[name]
    data = make()
    with pytest.raises(CheckpointError, match=message):
        load(data)


def first_node(model: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = model["graph_module"]["graph"]["nodes"][0]
    return node


def rename_target(target: str) -> Callable[[dict[str, Any]], object]:
    return lambda model: first_node(model).update(target=target)


def put_expression(text: str) -> Callable[[dict[str, Any]], object]:
    def change(model: dict[str, Any]) -> None:
        def walk(item: Any) -> bool:
            if isinstance(item, dict):
                if "expr_str" in item:
                    item["expr_str"] = text
                    return True
                return any(walk(value) for value in item.values())
            return isinstance(item, list) and any(walk(value) for value in item)

        assert walk(model)

    return change


def spec_of(kind: str, context: str) -> Callable[[dict[str, Any]], object]:
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf, leaf]}])
    return lambda m: m["graph_module"]["module_call_graph"][0]["signature"].update(out_spec=spec)


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"
ATTACKS: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "any function of torch": (MODEL, rename_target("torch.os.system"), r"calls torch\.os\.system"),
    "torch.load": (MODEL, rename_target("torch.load"), r"calls torch\.load"),
    "operator": (MODEL, rename_target("_operator.methodcaller"), "methodcaller"),
    "another library": (MODEL, rename_target("torch.ops.mylib.run.default"), "mylib"),
    "below aten": (MODEL, rename_target("torch.ops.aten.add.Tensor.__class__"), "no tensor operator"),
    "files": (MODEL, rename_target("torch.ops.aten.from_file.default"), "from_file"),
    "expression": (MODEL, put_expression("__import__('os').system('true')"), "holds the expression"),
    "expression name": (MODEL, put_expression("Symbol('s1').func"), "holds the expression"),
    "power tower": (MODEL, put_expression("Pow(Integer(9), Integer(9999999))"), "holds the expression"),
    "powers": (MODEL, put_expression("9**9**9"), "holds the expression"),
    "text": (MODEL, put_expression("Symbol('s1;')"), "holds the expression"),
    "symbol": (
        MODEL,
        lambda m: m["range_constraints"].update({"os": {"min_val": 0, "max_val": 1}}),
        "no symbol",
    ),
    "container": (
        MODEL,
        spec_of("collections.defaultdict", "[]"),
        "takes or returns 'collections.defaultdict'",
    ),
    "context": (MODEL, spec_of("builtins.dict", '[{"__enum__": true}]'), "takes or returns"),
    "no graph": (MODEL, lambda m: m.clear(), "holds no graph"),
    "pickled weight": (
        WEIGHTS,
        lambda c: c["config"]["conv.weight"].update(use_pickle=True),
        "conv.weight is a pickled object",
    ),
    "other record": (
        WEIGHTS,
        lambda c: c["config"]["conv.weight"].update(path_name="../../x"),
        "conv.weight is a pickled object",
    ),
    "missing record": (
        WEIGHTS,
        lambda c: c["config"]["conv.weight"].update(path_name="weight_99"),
        "bytes of conv.weight are missing",
    ),
}


@pytest.mark.parametrize(
    "target",
    [
        "_reshape_alias.default",
        "as_strided.default",
        "_print.default",
        "save.default",
        "from_file.default",
        "set_.source_Tensor",
        "resize_.default",
        "empty.memory_format",
        "_unsafe_index.Tensor",
        "native_batch_norm.default",
        "rand.default",
        "view.dtype",
        "add.out",
        "mul.left_t",
    ],
)
def test_operators_that_are_not_listed(load: Load, archive: bytes, target: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"calls the operator aten.{re.escape(target)}") as caught:
        load(edited(archive, MODEL, rename_target(f"torch.ops.aten.{target}")))
    assert "--loader" in str(caught.value)
    assert code_of(caught.value) == UNSUPPORTED


def call(target: str, name: str, *arguments: dict[str, Any], keywords: dict[str, Any] = {}) -> dict[str, Any]:  # noqa: B006
    """A call as the format writes it, whose result takes the place of the tensor ``name``."""
    schema = operator_named(target)._schema
    inputs = [
        {"name": a.name, "arg": g, "kind": 1} for a, g in zip(schema.arguments, arguments, strict=False)
    ]
    inputs += [{"name": k, "arg": g, "kind": 2} for k, g in keywords.items()]
    return {
        "target": f"torch.ops.aten.{target}",
        "inputs": inputs,
        "outputs": [{"as_tensor": {"name": name}}],
        "metadata": {},
        "is_hop_single_tensor_return": None,
        "name": name,
    }


def operator_named(target: str) -> Any:
    name, overload = target.split(".")
    return getattr(getattr(torch.ops.aten, name), overload)


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def instead(node: dict[str, Any], at: int = 2) -> Callable[[dict[str, Any]], object]:
    """Put a call in the place of the dropout, or of another node: its result has that one's name."""

    def change(model: dict[str, Any]) -> None:
        nodes = model["graph_module"]["graph"]["nodes"]
        name = nodes[at]["outputs"][0]["as_tensor"]["name"]
        nodes[at] = {**node, "name": name, "outputs": [tensor(name)]}

    return change


X = tensor("conv1d")
HUGE: dict[str, Any] = {"as_ints": [10**6, 10**6]}
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    # the number of a type: the kernel looks it up in a table
    "a type of none": (
        call("softmax.int", "", X, {"as_int": 1}, {"as_int": -1}),
        "dtype = -1 is no ScalarType",
    ),
    "a terabyte": (call("zeros.default", "", HUGE), "makes 4000000000000 bytes"),
    "a petabyte of views": (
        call("expand.default", "", tensor("p_norm_weight"), {"as_ints": [2**46, 16]}),
        "bytes|range",
    ),
    "endless pieces": (
        call("unbind.int", "", tensor("arange"), {"as_int": 0}),
        "pieces|does not run|readable",
    ),
    "no stride": (
        call("avg_pool1d.default", "", X, {"as_ints": [2]}, {"as_ints": [0]}),
        r"stride = 0 is out of range",
    ),
    "an axis far away": (call("softmax.int", "", X, {"as_int": 2**30}), "is no axis"),
    "the lowest integer by -1": (
        call("floor_divide.default", "", tensor("lengths"), {"as_int": -1}),
        "divides integers by what may be zero or negative",
    ),
    "norms of another width": (
        call(
            "_native_batch_norm_legit_no_training.default",
            "",
            X,
            *(tensor(f"p_norm_{n}") for n in ("weight", "bias")),
            *(tensor(f"b_norm_running_{n}") for n in ("mean", "var")),
            {"as_float": 0.1},
            {"as_float": 1e-5},
        ),
        "its weight has the wrong shape",
    ),
    "a weight that it writes": (
        call("relu_.default", "", tensor("p_conv_weight")),
        "writes into an input or a weight",
    ),
    "a view of a weight that it writes": (
        call("relu_.default", "", tensor("features")),
        "writes into an input or a weight",
    ),
    "other devices": (
        call("to.device", "", X, {"as_device": {"type": "cuda", "index": 0}}, {"as_scalar_type": 7}),
        r"device\(type='cuda', index=0\) is not supported",
    ),
    "quantized": (call("to.dtype", "", X, {"as_scalar_type": 10}), "is not supported"),
    "an index beyond": (call("slice.Tensor", "", X, {"as_int": 1}, {"as_int": 2**63}), "readable|range|run"),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_no_kernel_should_see(load: Load, archive: bytes, name: str) -> None:
    node, message = CALLS[name]
    with pytest.raises(CheckpointError, match=message) as caught:
        load(edited(archive, MODEL, instead(node)))
    assert "\n" not in str(caught.value)
    assert code_of(caught.value) == INPUT


def of_weight(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda c: c["config"]["conv.weight"]["tensor_meta"].update(changes)


def whole(*numbers: int) -> list[dict[str, int]]:
    return [{"as_int": n} for n in numbers]


#: of 29 · 16 · 3 floats
METAS: dict[str, dict[str, Any]] = {
    "beyond": {"sizes": whole(29, 16, 4)},
    "far": {"strides": whole(48, 3, 2**40)},
    "behind": {"storage_offset": {"as_int": 1}},
    "before": {"storage_offset": {"as_int": -1}},
    "backwards": {"strides": whole(48, 3, -1)},
    "many of one": {"sizes": whole(2**20, 2**20, 3), "strides": whole(0, 0, 0)},
    "wider": {"dtype": 8},
    "of no type": {"dtype": 99},
    "sparse": {"layout": 1},
    "axes": {"strides": whole(1)},
    "a symbol": {"sizes": [{"as_expr": {"expr_str": "Symbol('s0')"}}] * 3},
    "no number": {"sizes": [{"as_int": "3"}] * 3},
}


@pytest.mark.parametrize("name", METAS)
def test_weights_lie_within_their_bytes(load: Load, archive: bytes, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"conv\.weight (reaches|has|is larger)"):
        load(edited(archive, WEIGHTS, of_weight(**METAS[name])))


def test_signatures_that_write(load: Load, archive: bytes) -> None:
    def change(model: dict[str, Any]) -> None:
        specs = model["graph_module"]["signature"]["output_specs"]
        specs.append({"buffer_mutation": {"arg": {"name": "transpose"}, "buffer_name": "norm.running_mean"}})

    with pytest.raises(CheckpointError, match="its output_specs hold 'buffer_mutation'"):
        load(edited(archive, MODEL, change))


def test_every_operator_that_is_captured_may_be_called() -> None:
    import zeroq_asr.operators  # noqa: F401
    from zeroq_asr.capture import dispatch
    from zeroq_asr.capture.aten import SPELLINGS
    from zeroq_asr.checkpoints.aten import allowed

    names = {n for name in dispatch._names() for n in (name, *SPELLINGS.get(name, ()))}
    # Python's own operators, and names of ours
    packets = {
        n: getattr(torch.ops.aten, n) for n in names if n in dir(torch.ops.aten) or hasattr(torch.ops.aten, n)
    }
    kept = {n: [o for o in p.overloads() if allowed(getattr(p, o))] for n, p in packets.items()}
    # kernels of LSTMs take weights as a list whose shapes nobody is known to check before memory is read
    assert {n for n, overloads in kept.items() if not overloads} <= {*PYTHON, "lstm"}
    assert len(kept) > 60


@pytest.mark.parametrize("seed", range(12))
def test_mutated_graphs_load_or_are_refused(load: Load, archive: bytes, seed: int) -> None:
    generator = random.Random(seed)

    def change(model: dict[str, Any]) -> None:
        places: list[tuple[Any, Any]] = []

        def walk(item: Any) -> None:
            for key, value in item.items() if isinstance(item, dict) else enumerate(item):
                if isinstance(value, (dict, list)):
                    walk(value)
                elif type(value) is int:
                    places.append((item, key))

        walk(model["graph_module"])
        item, key = generator.choice(places)
        item[key] = generator.choice([0, -1, 2**31, 2**62, 2**63 - 1, -(2**63), 7])

    # whatever else is raised, or a crash, fails
    with contextlib.suppress(CheckpointError):
        assert load(edited(archive, MODEL, change)).subsampling_factor in (1, 2, 4, 8)


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_but_a_graph_of_tensors_is_read(load: Load, archive: bytes, name: str) -> None:
    record, change, message = ATTACKS[name]
    with pytest.raises(CheckpointError, match=message):
        load(edited(archive, record, change))


def test_a_damaged_graph_is_one_line(
    load: Load, archive: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = edited(archive, MODEL, lambda m: m["graph_module"]["graph"].update(outputs=[]))
    with pytest.raises(CheckpointError) as caught:
        load(damaged)
    assert "\n" not in str(caught.value)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def test_named_dimensions(load: Load, network: Network) -> None:
    batch, time = torch.export.Dim("batch", max=64), torch.export.Dim("time", min=8, max=6000)
    model = load(exported(network, ({0: batch, 2: time}, {0: batch})))
    features, lengths = model.example_input(100)
    torch.testing.assert_close(model.network(features, lengths)[0], network(features, lengths)[0])


def test_guard_code_is_dropped_and_not_run(load: Load, archive: bytes, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    code = f"open({str(marker)!r}, 'w') is None"
    model = load(edited(archive, MODEL, lambda m: m.update(guards_code=[code])))
    model.network(*model.example_input())
    assert not marker.exists()


class Touch:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (exec, (f"open({str(self.marker)!r}, 'w').close()",))


@pytest.mark.parametrize("old_format", [False, True])
def test_pickled_sample_inputs_are_not_run(
    load: Load, archive: bytes, tmp_path: Path, old_format: bool
) -> None:
    marker, buffer = tmp_path / "ran", io.BytesIO()
    torch.save(Touch(marker), buffer, _use_new_zipfile_serialization=not old_format)
    evil = rewritten(archive, lambda r: r.update({"data/sample_inputs/model.pt": buffer.getvalue()}))
    with pytest.raises(CheckpointError, match="exec"):
        load(evil)
    assert not marker.exists()


@pytest.mark.parametrize("record", [MODEL, WEIGHTS, "data/sample_inputs/model.pt", "archive_format"])
def test_incomplete_archives(load: Load, archive: bytes, record: str) -> None:
    def drop(records: dict[str, bytes]) -> None:
        del records[record]

    with pytest.raises(CheckpointError):
        load(rewritten(archive, drop))
    with pytest.raises(CheckpointError):
        load(rewritten(archive, lambda r: r.update({record: b"{damaged"})))


def test_truncated(load: Load, archive: bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(archive[: len(archive) // 2])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "Add(FloorDiv(Add(Symbol('s55', positive=True, integer=True), Integer(-1)), Integer(2)), Integer(1))",
        "Pow(Symbol('s55', integer=True), Integer(2))",
        # the area of an attention's scores
        "Mul(Integer(4), Pow(Add(FloorDiv(Symbol('s5', integer=True), Integer(2)), Integer(1)), Integer(2)))",
        "Max(Integer(1), Symbol('u0', integer=True))",
    ],
)
def test_sizes_are_expressions(text: str) -> None:
    assert _is_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "Pow(Pow(Integer(9), Integer(9)), Integer(9))",
        "Pow(Integer(2), Symbol('s55'))",
        "Pow(Symbol('s55'), Integer(99))",
        "Pow(Symbol('s55'), Integer(2)",
    ],
)
def test_sizes_are_not_towers_of_powers(text: str) -> None:
    assert not _is_size(text)
