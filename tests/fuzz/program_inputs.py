"""Programs that ``torch.export.save`` wrote: their graphs, their tensors, their archives."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import torch

from fuzz import mutations as m
from fuzz.checkpoint_inputs import configuration
from fuzz.inputs import MAY, MUST_REFUSE, Case, kind, odd_name, reading, recordings
from fuzz.oracle import Explain
from fuzz.seeds import Seeds

#: operators whose results depend on more than their operands, or that do something else as well
_NEVER = (
    "_print.default",
    "save.default",
    "from_file.default",
    "_reshape_alias.default",
    "as_strided.default",
    "as_strided_.default",
    "set_.source_Tensor",
    "resize_.default",
    "rand_like.default",
    "randn_like.default",
    "bernoulli.default",
    "empty_like.default",
    "new_empty.default",
    "record_stream.default",
    "_assert_async.default",
    "_debug_has_internal_overlap.default",
    "manual_seed.default",
    "set_data.default",
    "normal_.default",
    "uniform_.default",
    "_resize_output_.default",
    "data_ptr.default",
    "empty_strided.default",
)


@functools.cache
def _operators() -> tuple[str, ...]:
    """Every operator of torch.ops.aten with its overloads."""
    schemas = torch._C._jit_get_all_schemas()
    names = {
        (s.name.removeprefix("aten::"), s.overload_name or "default")
        for s in schemas
        if s.name[:6] == "aten::"
    }
    return tuple(sorted(f"{name}.{overload}" for name, overload in names))


def _program_records(seeds: Seeds) -> tuple[str, dict[str, bytes], dict[str, Any]]:
    records = m.unzip(seeds["program.pt2"])
    folder = next(iter(records)).partition("/")[0]
    named = {name.partition("/")[2]: data for name, data in records.items()}
    return folder, named, json.loads(named["models/model.json"])


@kind("exported program", 2.2)
def exported_program(rng: random.Random, seeds: Seeds) -> Case:
    """The graph, the tensors and the archive of a .pt2 file."""
    folder, records, graph = _program_records(seeds)
    label, expected = MAY, "any"
    nodes = graph["graph_module"]["graph"]["nodes"]
    chance = rng.random()
    if chance < 0.3:
        node = rng.choice(nodes)
        if rng.random() < 0.4:
            target, label = rng.choice(_NEVER), MUST_REFUSE
        else:
            target = rng.choice(_operators())
        what = f"{node['target'].removeprefix('torch.ops.aten.')} → {target}"
        node["target"] = f"torch.ops.aten.{target}"
        if rng.random() < 0.15:
            other = ("torch.os.system", "torch.load", "_operator.methodcaller", "torch.ops.prims.x.default")
            node["target"], label = rng.choice(other), MUST_REFUSE
            what = node["target"]
    elif chance < 0.36:
        # operators with views and storage offsets that read what is not theirs
        node = rng.choice(nodes)
        first = next((i for i in node["inputs"] if "as_tensor" in i["arg"]), None)
        size = rng.choice((10, 10**6, 2**40))

        def ints(*values: int) -> dict[str, Any]:
            return {"as_ints": list(values)}

        inputs = [
            ("size", ints(2, 13, size)),
            ("stride", ints(size, size, 1)),
            ("storage_offset", {"as_int": size}),
        ]
        node["target"] = "torch.ops.aten.as_strided.default"
        node["inputs"] = [*([first] if first else []), *({"name": n, "arg": a, "kind": 1} for n, a in inputs)]
        what, label = f"as_strided to {size}", MUST_REFUSE
    elif chance < 0.66:
        change = m.changed(rng, graph)
        graph, what = change.tree, str(change)
    elif chance < 0.72:
        places = [
            (p, v) for p, v in m.nodes(graph) if p and p[-1] in ("as_int", "as_expr", "expr_str", "hint")
        ]
        path, old = rng.choice(places) if places else ((), 0)
        value = rng.choice((-1, 0, 2**31, 2**63 - 1, 2**63, "Symbol('s1')", "9**9**9", {"as_int": -5}))
        if path:
            graph = m.replaced(graph, path, value)
        what = f"{'.'.join(map(str, path))}: {old!r:.40} → {value!r}"
    elif chance < 0.86:
        config = rng.choice(
            ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
        )
        tree = json.loads(records[config])
        if not tree["config"]:
            config = "data/weights/model_weights_config.json"
            tree = json.loads(records[config])
        change = m.changed(rng, tree, only=lambda path: len(path) > 1)
        records[config], what = m.to_json(change.tree), f"{config}: {change}"
    elif chance < 0.93:
        name = rng.choice([name for name in records if name.startswith("data/")])
        records[name], what = m.damaged(rng, records[name]), f"{name} damaged"
    else:
        name = rng.choice([*records])
        del records[name]
        what = f"{name} is gone"
        if rng.random() < 0.4:
            data = m.damaged(rng, seeds["program.pt2"])
            return _program_case(rng, seeds, data, "damaged", MAY, "any")
    if "models/model.json" in records:
        try:
            records["models/model.json"] = m.to_json(graph)
        except (ValueError, RecursionError):
            records["models/model.json"] = b"[" * 10_000
    data = m.to_zip([(f"{folder}/{name}", content) for name, content in records.items()])
    return _program_case(rng, seeds, data, what, label, expected)


def _program_case(
    rng: random.Random, seeds: Seeds, data: bytes, what: str, label: str, expected: str
) -> Case:
    name = odd_name(rng, "model.pt2", 0.05)
    argv, more = reading(rng, name, "--config", "conf.yaml")
    files = {name: data, "conf.yaml": seeds["model_config.yaml"], **recordings(seeds)}
    claim = (
        None if label == MUST_REFUSE else Explain("checkpoint", (name, "conf.yaml"), "program.pt2", expected)
    )
    return Case(what, label, argv, files, explain=claim, **more)


@kind("exported configuration", 0.3)
def exported_configuration(rng: random.Random, seeds: Seeds) -> Case:
    """The configuration beside a .pt2 file."""
    text, what, label, expected = configuration(rng, seeds["model_config.yaml"])
    # the network's own sections are not read: the program is the network
    if what.startswith(("encoder", "decoder")):
        expected = "any"
    argv, more = reading(rng, "model.pt2", "--config", "conf.yaml")
    files = {"model.pt2": seeds["program.pt2"], "conf.yaml": text, **recordings(seeds)}
    claim = Explain("checkpoint", ("model.pt2", "conf.yaml"), "program.pt2", expected)
    return Case(what, label, argv, files, explain=None if label == MUST_REFUSE else claim, **more)
