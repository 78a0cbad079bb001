"""What --json prints is what docs/json.md says, field by field; and errors are JSON, too."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.cli.commands import COMMANDS

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
FAST = ("--batch", "2", "--frames", "64", "--iterations", "1")


def sections() -> dict[str, dict[str, str]]:
    """Heading → field → what the page says of it."""
    found: dict[str, dict[str, str]] = {}
    heading = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif match := re.match(r"\| `([^`]+)` \| (.*) \|$", line):
            found.setdefault(heading, {})[match[1]] = match[2]
    return found


SECTIONS = sections()


def documented(heading: str) -> set[str]:
    """Every field of a section, those of the parts that it links to among them."""
    found = set()
    for field, text in SECTIONS[heading].items():
        part = re.search(r"\(#([a-z-]+)\)", text)
        if part is None:
            found.add(field)
            continue
        # a part may be absent, or a list of them empty
        found.add(field.removesuffix("[]"))
        found |= {f"{field}.{inner}" for inner in documented(part[1].replace("-", " "))}
    return found


def printed(value: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Every field of a document, and whether there is nothing in it."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from printed(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from printed(item, f"{path}[]")
    else:
        yield path, value in (None, [], {})


def compare_with_page(document: dict[str, Any], heading: str) -> None:
    assert document.pop("schema") == 1
    page = documented(heading)
    free = {field.removesuffix(".*") for field in page if field.endswith(".*")}
    empty = set()
    for path, nothing in printed(document):
        covered = any(path == name or path.startswith(f"{name}.") for name in free)
        assert covered or path in page or (nothing and any(f.startswith(path) for f in page)), path
        if nothing:
            empty.add(path)
    there = {path for path, _ in printed(document)}
    for field in page:
        name = field.removesuffix(".*")
        inside = [path for path in there if path == name or path.startswith((f"{name}.", f"{name}[]"))]
        absent = any(name == path or name.startswith((f"{path}.", f"{path}[]")) for path in empty)
        assert inside or absent, f"{field} of {heading} is not printed"


def run(*args: object, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def work(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, its file, and a list of two clips."""
    folder = tmp_path_factory.mktemp("json")
    zq.save_checkpoint(small_model, folder / "m.pt")
    run("quantize", folder / "m.pt", "-o", folder / "m.onnx", *FAST, "--json")
    utterances = zq.read_manifest(zq.embedded_files().test)[:2]
    rows = [{"audio_filepath": str(u.audio_path), "text": u.text} for u in utterances]
    (folder / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    keys = {"models": ["m.pt", "absent.pt"], "bits": 8, "calibration": "noise", "manifests": "l.jsonl"}
    fast = {"batch": 2, "frames": 64, "iterations": 1}
    (folder / "s.yaml").write_text(json.dumps({**keys, "set": fast}))
    return folder


#: section of the page → arguments; m.pt, m.onnx and l.jsonl are in the folder
RUNS: dict[str, tuple[str, ...]] = {
    "quantize": ("quantize", "m.pt", "-o", "x.onnx", *FAST),
    "verify": ("verify", "m.onnx"),
    "transcribe": ("transcribe", "m.onnx", "l.jsonl"),
    "evaluate": ("evaluate", "m.onnx", "-m", "l.jsonl"),
    "bench": ("bench", "m.onnx", "--rounds", "1", "--seconds", "1"),
    "compare": ("compare", "m.pt", "-m", "l.jsonl", "--no-time", *FAST),
    "sweep": ("sweep", "s.yaml", "--out", "swept"),
    "report": ("report", "m.pt", "m.onnx", *FAST),
    "inspect of a checkpoint": ("inspect", "m.pt"),
    "inspect of a quantized file": ("inspect", "m.onnx"),
    "inspect --sensitivity": ("inspect", "m.pt", "--sensitivity", "--calibration", "noise"),
    "synthesize": ("synthesize", "m.pt", *FAST),
    "doctor": ("doctor",),
    "export": ("export", "m.onnx", "--optimized", "-o", "a.ort"),
    "bundle": ("bundle", "m.onnx", "--for", "onnx-asr", "--own-features", "-o", "folder"),
}


@pytest.mark.parametrize("heading", [*RUNS])
def test_the_page_has_every_field(work: Path, monkeypatch: pytest.MonkeyPatch, heading: str) -> None:
    monkeypatch.chdir(work)
    forced = ("--force",) if heading == "quantize" else ()
    # one of the sweep's models is absent
    code = 7 if heading == "sweep" else 0
    compare_with_page(run(*RUNS[heading], "--json", *forced, code=code), heading)


def test_the_page_has_every_command() -> None:
    assert {heading.split()[0] for heading in SECTIONS} >= {*COMMANDS}
    assert {RUNS[heading][0] for heading in RUNS} | {"demo"} == {*COMMANDS}


def test_islands(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    kept = ("--keep-float", "*.mconv.0.conv", *FAST, "--force")
    document = run("quantize", "m.pt", "-o", "island.onnx", *kept, "--json")
    assert document["islands"]
    compare_with_page(document, "quantize")


def test_a_search_for_a_plan(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    searched = ("--max-loss", "1", "--max-time", "1000", *FAST, "--force")
    document = run("quantize", "m.pt", "-o", "plan.onnx", *searched, "--json")
    search = document["search"]
    assert search["wide_values"] > 0
    assert 1.0 < search["products"] <= 1000.0
    compare_with_page(document, "quantize")
    kept = run("inspect", "plan.onnx", "--json")["recipe"]["search"]
    assert kept["points"][kept["chosen"]] == search["chosen"]
    document = run("report", "m.pt", "plan.onnx", *FAST, "--json")
    assert document["search"] == kept
    assert (kept["wide_values"], kept["products"]) == (search["wide_values"], search["products"])
    compare_with_page(document, "report")
    shown = CliRunner().invoke(app, ["report", "m.pt", "plan.onnx", *FAST], env={"COLUMNS": "200"})
    told = f"{search['wide_values']} values have 16 bits by the search: {search['products']:.2f} times"
    assert told in shown.stdout


def test_another_onnx_file(work: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    compare_with_page(run("inspect", tmp_path / "other.onnx", "--json"), "inspect of another ONNX file")


@pytest.mark.parametrize(
    ("args", "code", "kind", "where", "problem"),
    [
        (("verify", "absent.onnx"), 3, "CheckpointError", "absent.onnx", "no such file"),
        (("verify", "m.pt"), 5, "VerificationError", "m.pt", "an ONNX file was expected"),
        (("transcribe", "m.onnx", "l.jsonl", "--channel", "x"), 2, "ConfigError", "--channel", "got 'x'"),
        (("transcribe", "m.onnx", "l.jsonl", "--format", "doc"), 2, "ConfigError", "transcribe", "'doc'"),
        (("dance",), 2, "ConfigError", "zeroq-asr", "No such command 'dance'"),
    ],
)
def test_errors_are_json(
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    code: int,
    kind: str,
    where: str,
    problem: str,
) -> None:
    monkeypatch.chdir(work)
    result = CliRunner().invoke(app, [*args, "--json"], prog_name="zeroq-asr")
    assert result.exit_code == code
    document = json.loads(result.stdout)
    error = document["error"]
    assert (error["kind"], error["exit_code"]) == (kind, code)
    assert where in error["where"]
    assert problem in error["problem"]
    assert error["problem"] in result.stderr
    compare_with_page(document, "Errors")
    # without --json the line alone
    plain = CliRunner().invoke(app, [*args], prog_name="zeroq-asr")
    assert (plain.exit_code, plain.stdout) == (code, "")
