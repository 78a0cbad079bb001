"""Sweeps: every cell once, whatever becomes of a worker; results that are there are kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.cli import app
from zeroq_asr.errors import ConfigError, ZeroqWarning
from zeroq_asr.measure import sweep as module
from zeroq_asr.measure.sweep.cells import cells_of, tasks_of
from zeroq_asr.measure.sweep.folder import ResultFolder

#: little work: few features, weights to nearest, which need no speech
SET = {"batch": 2, "frames": 64, "iterations": 1, "rounding": "nearest"}
LOADER = "sweep_loader:load"


@pytest.fixture(scope="module")
def work(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two checkpoints and a list of two clips."""
    folder = tmp_path_factory.mktemp("sweep")
    for name in ("one", "two", "deadly", "slow"):
        zq.save_checkpoint(replace(small_model, name=name), folder / f"{name}.pt")
    rows = [
        {"audio_filepath": str(u.audio_path), "text": u.text}
        for u in zq.read_manifest(zq.embedded_files().test)[:2]
    ]
    (folder / "l.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plan(work: Path, *models: str, **keys: Any) -> Path:
    """Write the file of a sweep over models that are read by ``LOADER``."""
    data = {
        "models": [{"path": f"{name}.pt", "loader": LOADER} for name in models],
        "calibration": "noise",
        "manifests": ["l.jsonl"],
        "set": SET,
        **keys,
    }
    path = work / f"{'-'.join(models)}.yaml"
    path.write_text(json.dumps(data))  # JSON is YAML
    return path


@pytest.fixture(scope="module")
def swept(work: Path) -> tuple[zq.SweepSpec, Path, zq.Sweep, list[str]]:
    """Twelve cells on two workers, one of which is killed; the notes of what was done."""
    spec = zq.read_sweep(plan(work, "one", "two", bits=[8, 7, 6], seeds=[0, 1]))
    # both float networks are read, then a group of cells, then this one
    (work / "kill.txt").write_text("4")
    notes: list[str] = []

    def progress(stage: str, done: int, total: int, note: str = "") -> None:
        if note:
            notes.append(note)

    found = zq.sweep(spec, work / "results", jobs=2, progress=progress)
    (work / "kill.txt").unlink()
    return spec, work / "results", found, notes


def test_a_killed_worker_loses_nothing(work: Path, swept: Any) -> None:
    _, folder, found, notes = swept
    loads = (work / "loads.txt").read_text().splitlines()
    # 2 float networks and 4 groups, and again what was lost: its first cell, and those behind it
    assert len(loads) == 8
    assert len({line.split()[1] for line in loads}) == 3
    assert (found.failed, found.computed, found.kept) == (0, 14, 0)
    assert set(Counter(notes).values()) == {1}
    assert len(notes) == 14
    cells = [path for path in folder.glob("*.json") if path.name != "sweep.json"]
    assert sorted(cells) == sorted(row.file for row in found.rows)
    assert len([path for path in cells if not path.name.startswith("float-")]) == 12
    combinations = {(r.cell.model.path, r.cell.formats.bits, r.cell.formats.seed) for r in found.rows[2:]}
    assert len(combinations) == 12
    assert {path.name for path in folder.iterdir()} == {p.name for p in cells} | {"sweep.json", ".lock"}


def test_a_cell_is_what_quantize_and_evaluate_give(work: Path, swept: Any) -> None:
    spec, _, found, _ = swept
    row = next(r for r in found.rows[2:] if (r.cell.formats.bits, r.cell.formats.seed) == ("7", 1))
    quant, synthesis, calibration, training = spec.specs("7", "noise", 1)
    made = zq.quantize(
        work / "one.pt", spec=quant, synthesis=synthesis, calibration=calibration, training=training
    )
    assert row.result["program_sha256"] == made.program.digest()
    assert row.result["bytes"] == made.size
    heard = zq.read_manifest(work / "l.jsonl")
    assert row.result["words"] == zq.evaluate(made.recognizer(1), heard).words.to_dict()
    floats = zq.transcribe(zq.TorchRecognizer(zq.load_checkpoint(work / "one.pt")), heard)
    ours = zq.transcribe(made.recognizer(1), heard)
    from zeroq_asr.measure.evaluate import count_errors

    assert row.result["agreement"] == count_errors(floats, ours)[0].to_dict()


def test_what_is_there_is_not_computed_again(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, folder, found, _ = swept
    before = {row.file: row.file.stat().st_mtime_ns for row in found.rows}

    def nobody(jobs: int) -> None:
        raise AssertionError("there is nothing to compute")

    monkeypatch.setattr(module, "LocalRunner", nobody)
    again = zq.sweep(spec, folder, jobs=2)
    assert (again.computed, again.kept) == (0, 14)
    assert [row.result for row in again.rows] == [row.result for row in found.rows]
    assert {row.file: row.file.stat().st_mtime_ns for row in again.rows} == before


def test_what_is_missing_or_damaged_is_computed_again(swept: Any) -> None:
    spec, folder, found, _ = swept
    missing, damaged, *others = [row.file for row in found.rows[2:]]
    before = {file: file.stat().st_mtime_ns for file in others}
    results = [row.result["program_sha256"] for row in found.rows[2:]]
    missing.unlink()
    text = damaged.read_text()
    damaged.write_text(text.replace('"bytes": ', '"bytes": 1'))
    with pytest.warns(ZeroqWarning, match=rf"{damaged.name}: is damaged, .* computed again"):
        again = zq.sweep(spec, folder)
    assert (again.computed, again.kept, again.failed) == (2, 12, 0)
    assert [row.result["program_sha256"] for row in again.rows[2:]] == results
    assert {file: file.stat().st_mtime_ns for file in others} == before


def test_a_result_under_another_name_is_found_out(swept: Any) -> None:
    spec, folder, _, _ = swept
    _, cells = cells_of(spec)
    kept = ResultFolder(folder)
    assert kept.read(cells[0]) is not None
    own = kept.file(cells[0].name).read_bytes()
    try:
        for content in (b"", b"[]", b"{}", own[:-20], kept.file(cells[1].name).read_bytes()):
            kept.file(cells[0].name).write_bytes(content)
            with pytest.warns(ZeroqWarning, match="is damaged, or no result of this cell"):
                assert kept.read(cells[0]) is None
    finally:
        kept.file(cells[0].name).write_bytes(own)


def test_a_cell_is_named_by_all_it_depends_on(work: Path, tmp_path: Path, small_model: Any) -> None:
    copy = tmp_path / "l.jsonl"
    copy.write_bytes((work / "l.jsonl").read_bytes())
    zq.save_checkpoint(small_model, tmp_path / "one.pt")

    def names(**keys: Any) -> set[str]:
        floats, cells = cells_of(zq.read_sweep(plan(tmp_path, "one", **{"bits": [8], **keys})))
        return {cell.name for cell in (*floats, *cells)}

    first = names()
    assert names() == first
    for keys in ({"bits": [7]}, {"seeds": [1]}, {"set": {**SET, "batch": 4}}, {"dialect": "strict"}):
        assert len(names(**keys) - first) == 1, keys
    copy.write_text(copy.read_text().replace('"text": "', '"text": "oh '))
    second = names()
    assert not second & first
    zq.save_checkpoint(replace(small_model, name="another"), tmp_path / "one.pt")
    assert not names() & second


def test_tasks_share_what_is_slow(work: Path) -> None:
    spec = zq.read_sweep(plan(work, "one", "two", bits=[8, 7, 6], seeds=[0, 1]))
    floats, cells = cells_of(spec)
    assert [len(task.cells) for task in tasks_of(floats, 2)] == [1, 1]
    assert [len(task.cells) for task in tasks_of(cells, 2)] == [3, 3, 3, 3]
    assert [len(task.cells) for task in tasks_of(cells, 8)] == [2, 1] * 4
    assert [len(task.cells) for task in tasks_of(cells, 100)] == [1] * 12
    parted = [cell.name for task in tasks_of(cells, 8) for cell in task.cells]
    assert sorted(parted) == sorted(cell.name for cell in cells)


def test_a_failing_cell_is_a_row(work: Path, tmp_path: Path) -> None:
    path = plan(work, "deadly", "absent", "one", bits=[8])
    table = tmp_path / "t.md"
    command = ["sweep", str(path), "--out", str(tmp_path / "r"), "--markdown", str(table), "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 7, result.output
    document = json.loads(result.stdout)
    assert (document["failed"], document["computed"], document["kept"]) == (4, 6, 0)
    rows = {(Path(row["model"]).stem, row["bits"]): row for row in document["rows"]}
    died = rows["deadly", "float"]["error"]
    assert died == {"kind": "Died", "problem": "its process was killed (SIGKILL), 2 times"}
    assert "the float network failed: its process was killed" in rows["deadly", "8"]["error"]["problem"]
    assert rows["absent", "8"]["error"]["kind"] == "CheckpointError"
    assert "no such file" in rows["absent", "8"]["error"]["problem"]
    assert rows["one", "8"]["error"] is None
    assert rows["one", "8"]["program_sha256"]
    loads = (work / "loads.txt").read_text().splitlines()
    assert sum(line.startswith("deadly ") for line in loads) == 2
    lines = table.read_text().splitlines()
    assert len(lines) == 8
    assert lines[0].endswith("| program | error |")
    assert len([*(tmp_path / "r").glob("*.json")]) == 3
    # what failed is tried again, and nothing else; the table is replaced, for it is ours
    again = CliRunner().invoke(app, [*command[:-1], "--quiet"])
    assert again.exit_code == 7
    assert "4 of 6 cells failed" in again.stderr
    assert len(again.stdout.splitlines()) == 6


def test_ctrl_c_leaves_a_folder_to_go_on_with(work: Path, tmp_path: Path) -> None:
    path, folder = plan(work, "one", "slow", bits=[8]), tmp_path / "r"
    command = [sys.executable, "-m", "zeroq_asr", "sweep", str(path), "--out", str(folder), "--jobs", "2"]
    tests = str(Path(__file__).parents[1])
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([tests, os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command,
        env=variables,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # a shell starts what runs in the background with SIGINT ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        until = time.monotonic() + 120
        while not [*folder.glob("float-*.json")] and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)
        out, told = process.communicate(timeout=60)
    finally:
        process.kill()
    errors = [line for line in told.splitlines() if not line.startswith(("float: ", "a loader may"))]
    assert (process.returncode, out, errors) == (130, "", ["error: interrupted"])
    names = {file.name for file in folder.iterdir()}
    floats = {name for name in names if name.startswith("float-")}
    assert (len(floats), names - floats) == (1, {"sweep.json", ".lock"})
    # no process is left of it
    pids = [int(line.split()[1]) for line in (work / "loads.txt").read_text().splitlines()]
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    done = zq.read_sweep(plan(work, "one", bits=[8]))
    found = zq.sweep(done, folder)
    assert (found.computed, found.kept, found.failed) == (1, 1, 0)


def test_a_folder_belongs_to_one_sweep(work: Path, tmp_path: Path) -> None:
    spec = zq.read_sweep(plan(work, "one", bits=[8]))
    held = ResultFolder(tmp_path / "r")
    with held.opened(spec), pytest.raises(ConfigError, match="written by another sweep"):
        zq.sweep(spec, tmp_path / "r")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    for folder, words in (
        ("other", "holds something else"),
        ("other/thesis.txt", "cannot be used as a folder"),
        ("absent/r", "cannot be used as a folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            zq.sweep(spec, tmp_path / folder)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "years of work"


def test_ray_is_refused_where_it_is_not(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    path = plan(work, "one", bits=[8])
    result = CliRunner().invoke(app, ["sweep", str(path), "--out", str(tmp_path / "r"), "--on", "ray"])
    assert result.exit_code == 2
    remedy = "pip install 'zeroq-asr[ray]', or leave --on out"
    assert result.stderr == f"error: --on ray: Ray is not installed; {remedy}\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_ray_computes_the_same_cells(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'zeroq-asr[ray]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([p for p in sys.path if p]))
    (work / "loads.txt").unlink(missing_ok=True)
    (work / "kill.txt").write_text("2")  # whichever task of Ray reads a network second
    try:
        found = zq.sweep(zq.read_sweep(plan(work, "one", "deadly", bits=[8, 7])), tmp_path / "ray", on="ray")
    finally:
        (work / "kill.txt").unlink()
    rows = {
        (Path(row.cell.model.path).stem, row.cell.formats and row.cell.formats.bits): row
        for row in found.rows
    }
    assert all("its process was lost" in str(rows["deadly", bits].error) for bits in (None, "8", "7"))
    local = zq.sweep(zq.read_sweep(plan(work, "one", bits=[8, 7])), tmp_path / "local")
    for row in local.rows:
        other = rows["one", row.cell.formats and row.cell.formats.bits]
        assert other.file is not None
        assert other.file.name == row.file.name if row.file else False
        for name in ("program_sha256", "words", "agreement", "bytes"):
            assert other.result.get(name) == row.result.get(name)
