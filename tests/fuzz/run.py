"""Runs seeds: builds the whole inputs once, a case a seed, and keeps the account of what was found."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz.harness import OUTCOMES, Ran, broken_rules, command, isolated, snapshot
from fuzz.inputs import MUST_REFUSE, MUST_TELL, NEUTRAL, Case, make
from fuzz.oracle import Explain, explain, found
from fuzz.seeds import OURS, Seeds, build

#: modules with kinds of input, imported for their registration
_KINDS = (
    "checkpoint_inputs",
    "program_inputs",
    "huggingface_inputs",
    "onnx_inputs",
    "speech_inputs",
    "argument_inputs",
)
#: what commands import when they first need it, so that no child has to
_IMPORTS = (
    "onnxruntime",
    "transformers",
    "transformers.models.auto",
    "transformers.models.wav2vec2",
    "transformers.models.parakeet",
    "safetensors.torch",
    "sentencepiece",
    "sentencepiece.sentencepiece_model_pb2",
    "jiwer",
    "torch.export",
    "torch._export.serde.serialize",
    "zeroq_asr.cli",
)


@dataclass
class Finding:
    """What a case did: one line of the log."""

    seed: int
    kind: str
    what: str
    label: str
    argv: list[str]
    code: int | None
    seconds: float
    busy: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)
    #: what it said
    said: str = ""
    #: there is no such input
    impossible: bool = False


def scratch() -> Path:
    """Return a new folder, in memory where there is room."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="zeroq-fuzz-", dir=memory if memory.is_dir() else None))


def preload() -> None:
    """Import all that commands need, in the state in which children begin."""
    os.environ.update(HF_HUB_OFFLINE="0", TERM="dumb", COLUMNS="200", NO_COLOR="1")
    os.environ.pop("FORCE_COLOR", None)
    # otherwise the hub's client asks for them in the real home of the user
    os.environ.setdefault("HF_HOME", "/nonexistent/huggingface")
    warnings.simplefilter("ignore")
    # its thread would be there when children are forked
    importlib.import_module("tqdm").tqdm.monitor_interval = 0
    # transformers compiles a thousand patterns for every folder that it reads
    re._MAXCACHE = 10_000  # type: ignore[attr-defined]  # private
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # once a process
        torch.set_num_interop_threads(1)
    for name in _IMPORTS:
        importlib.import_module(name)
    for name in _KINDS:
        importlib.import_module(f"fuzz.{name}")
    _remember_the_parser()


def _remember_the_parser() -> None:
    """Make the parser of the command line once, which typer makes anew in every run."""
    import typer.main

    from zeroq_asr.cli import app

    made, plain = typer.main.get_command(app), typer.main.get_command
    typer.main.get_command = lambda one: made if one is app else plain(one)


def _warm(folder: Path) -> None:
    """Import what whole inputs make commands import: a child runs them, and says what it has imported."""
    runs: tuple[tuple[str, ...], ...] = (
        ("inspect", "conv.nemo"),
        ("inspect", "bpe.nemo"),
        ("inspect", "hf"),
        ("inspect", "parakeet"),
        ("inspect", "program.pt2", "--config", "model_config.yaml"),
        ("inspect", "nothing"),
        ("verify", "conv.fused.onnx"),
        ("transcribe", "conv.fused.onnx", "a.wav", "stereo.wav", "a.flac"),
        ("transcribe", "hf", "a.wav"),
        ("evaluate", "conv.nemo", "-m", "list.jsonl"),
        ("quantize", "conv.nemo", "--bits", "w99a99"),
        ("quantize", "conv.nemo", "-o", "out.onnx", "--calibration", "features.npz"),
    )

    def look() -> None:
        for argv in runs:
            with contextlib.suppress(SystemExit):
                command(argv)()
        patterns = [(p, int(f)) for kind, p, f in re._cache if kind is str]  # type: ignore[attr-defined]  # private
        # the commands may have done what they like with the streams
        Path("imported.json").write_text(json.dumps([[*sys.modules], patterns]))

    ran = isolated(look, folder, seconds=120)
    told = folder / "work" / "imported.json"
    if not told.exists():
        raise RuntimeError(f"no command runs: {ran.stderr.decode(errors='replace')[-2000:]}")
    modules, patterns = json.loads(told.read_text())
    for pattern, flags in patterns:
        with contextlib.suppress(re.error):
            re.compile(pattern, flags)
    for name in modules:
        if name not in sys.modules and not name.startswith(("__", "fuzz")):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def _warm_here(base: Path) -> None:
    """Fill the caches of torch and sympy that tracing and reading programs take their time for."""
    import zeroq_asr as zq
    from zeroq_asr.capture.capture import capture

    for name, config in (("conv.nemo", None), ("program.pt2", base / "model_config.yaml")):
        model = zq.load_checkpoint(base / name, config=config)
        capture(model.network, model.example_input(), model.name)


def prepared(folder: Path) -> Seeds:
    """Build the whole inputs in a child, find out what they compute, and return them."""
    base = folder / "seeds"
    base.mkdir(parents=True)
    ran = isolated(functools.partial(build, base), folder / "build", seconds=300)
    if ran.code != 0:
        raise RuntimeError(f"the inputs cannot be built: {ran.stderr.decode(errors='replace')[-3000:]}")
    seeds = Seeds(base)
    here = folder / "facts"
    (here / "work").mkdir(parents=True)
    shutil.copytree(base, here / "work", dirs_exist_ok=True)
    for name in ("conv", "conformer", "bpe"):
        unpacked = here / "work" / f"{name}.folder"
        unpacked.mkdir()
        from fuzz.mutations import untar

        for member, data in untar(seeds[f"{name}.nemo"]).items():
            (unpacked / member).write_bytes(data)
    rows = (
        '{"audio_filepath": "a.wav", "text": "a b", "duration": 0.25, "offset": 0.1}\n'
        '{"audio_filepath": "b.wav", "text": "c\'d", "duration": 0.3, "offset": 0.15, "speaker": 5}\n'
    )
    (here / "work" / "list.jsonl").write_text(rows)
    _warm(here)
    alone = {
        name: (name,) for name in ("conv.nemo", "conformer.nemo", "bpe.nemo", "own.pt", "hf", "parakeet")
    }
    alone |= {f"folder {name}.nemo": (f"{name}.folder",) for name in ("conv", "conformer", "bpe")}
    beside = {name: (name, "model_config.yaml") for name in ("state.ckpt", "program.pt2")}
    for key, arguments in {**alone, **beside}.items():
        seeds.facts[key] = found(Explain("checkpoint", arguments), here)
    _warm_here(base)
    heard = ("evaluate", "conv.nemo", "-m", "list.jsonl", "--json", "-o", "out.jsonl")
    listened = isolated(command(heard), here)
    if listened.code == 0:
        seeds.facts["manifest"] = found(Explain("printed"), here, listened.stdout)
    for name in OURS:
        problem = found(Explain("program", (name,)), here).get("problem", "")
        if problem:
            seeds.broken[name] = problem
    broken = [f"{key}: {fact['problem']}" for key, fact in seeds.facts.items() if fact.get("problem")]
    # an input that this version does not read may be changed as one likes
    seeds.facts = {key: fact for key, fact in seeds.facts.items() if not fact.get("problem")}
    seeds.unread = [line for line in broken if not line.startswith("folder")]
    shutil.rmtree(here)
    return seeds


def run_seed(seed: int, seeds: Seeds, folder: Path, only: str = "") -> Finding:
    """Run the case of a seed in ``folder``, which is emptied."""
    kind, case = make(seed, seeds, only)
    finding = Finding(seed, kind, case.what, case.label, [*case.argv], None, 0.0)
    _empty(folder)
    for name in ("work", "tmp", "home", "canary"):
        (folder / name).mkdir(parents=True)
    case.write(folder / "work")
    if case.prepare is not None:
        made = isolated(functools.partial(case.prepare, folder / "work"), folder, seconds=60)
        note = folder / "work" / "what.txt"
        if note.exists():
            finding.what += f": {note.read_text()}"
            note.unlink()
        if made.code != 0:
            finding.impossible = True
            return finding
    before = snapshot(folder)
    ran = isolated(command(case.argv), folder)
    as_json = "--json" in case.argv and case.argv[0] in ("inspect", "verify", "transcribe", "evaluate")
    broken = broken_rules(ran, before, snapshot(folder), outputs=case.outputs, as_json=as_json)
    finding.code, finding.seconds, finding.busy = ran.code, ran.seconds, ran.busy
    finding.said = (ran.stderr or ran.stdout).decode("utf-8", "replace").strip()[-400:]
    if ran.code == 0 and (silence := _silence(case, seeds, folder, ran)):
        broken["silent"] = silence
    finding.broken = broken
    return finding


def _silence(case: Case, seeds: Seeds, folder: Path, ran: Ran) -> str:
    """Return how a run that ended well passed over what was changed, or nothing."""
    told = b"warning:" in ran.stderr
    if case.label == MUST_REFUSE:
        return "accepted what it must refuse"
    if case.label == MUST_TELL and not told:
        return "accepted without a word what it must refuse, or warn of"
    if case.explain is None or (told and case.explain.expected == "differ"):
        return ""
    return explain(case.explain, seeds, folder, ran.stdout)


def _empty(folder: Path) -> None:
    if folder.exists():
        for root, folders, _ in os.walk(folder):
            for name in folders:
                with contextlib.suppress(OSError):
                    os.chmod(os.path.join(root, name), 0o700)
        shutil.rmtree(os.fsencode(folder))


# -- many seeds ------------------------------------------------------------------------------------------


def run_all(
    numbers: Iterable[int], seeds: Seeds, folder: Path, jobs: int, only: str = ""
) -> Iterator[Finding]:
    """Yield what the cases of the seeds did, run by ``jobs`` workers, in the order in which they end.

    Whole inputs that break a rule come first, numbered from -1 down.
    """
    for number, (name, problem) in enumerate(seeds.broken.items(), start=1):
        argv = ["verify", name]
        yield Finding(-number, "whole inputs", name, NEUTRAL, argv, 0, 0.0, broken={"silent": problem})
    todo = [*numbers]
    gc.collect()
    gc.freeze()
    reading, writing = os.pipe()
    workers = []
    for job in range(jobs):
        worker = os.fork()
        if worker == 0:
            os.close(reading)
            code = 1
            try:
                with open(writing, "wb", buffering=0) as stream:
                    for seed in todo[job::jobs]:
                        try:
                            found_ = run_seed(seed, seeds, folder / f"job{job}", only)
                        except Exception:  # a defect of the fuzzer, which must not end the others
                            text = traceback.format_exc()
                            found_ = Finding(
                                seed, "fuzzer", text, "", [], None, 0.0, broken={"fuzzer": text[-400:]}
                            )
                        # a pipe takes so much at once, whole
                        line = json.dumps(asdict(found_)).encode()[: 2**15]
                        if len(line) > 4000:
                            found_.what, found_.said, found_.argv = found_.what[:300], "", found_.argv[:3]
                            found_.argv = [a[:100] for a in found_.argv]
                            line = json.dumps(asdict(found_)).encode()
                        stream.write(line + b"\n")
                code = 0
            finally:
                os._exit(code)
        workers.append(worker)
    os.close(writing)
    with open(reading, "rb") as stream:
        for line in stream:
            yield Finding(**json.loads(line))
    for worker in workers:
        os.waitpid(worker, 0)


def table(findings: Iterable[Finding]) -> str:
    """Return the account by kind of input."""
    rows: dict[str, Counter[str]] = {}
    for one in findings:
        row = rows.setdefault(one.kind, Counter())
        row["cases"] += 1
        if one.impossible:
            row["no file"] += 1
        elif one.code is not None:
            row["accepted" if one.code == 0 else f"exit {one.code}"] += 1
        if one.label == NEUTRAL and one.code not in (0, None):
            row["strict"] += 1
        for name in one.broken:
            row[name] += 1
    total: Counter[str] = sum(rows.values(), Counter())
    columns = ["cases", "no file", "accepted", *(f"exit {n}" for n in (2, 3, 4, 5, 6)), "strict"]
    columns += [*OUTCOMES, *(["fuzzer"] if total["fuzzer"] else [])]
    width = max([len(name) for name in rows] + [5])
    lines = [" ".join([" " * width, *(name.rjust(max(6, len(name))) for name in columns)])]
    for name, row in [*sorted(rows.items()), ("all", total)]:
        cells = [str(row[c] or "-").rjust(max(6, len(c))) for c in columns]
        lines.append(" ".join([name.ljust(width), *cells]))
    return "\n".join(lines)


def signature(one: Finding, outcome: str) -> str:
    """Return what findings of one cause have in common, roughly."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\d[\d.e+-]*|0x[0-9a-f]+", "…", one.broken[outcome])[:90]
    return f"{one.kind} | {outcome} | {text}"


def details(findings: Iterable[Finding], most: int = 400) -> str:
    """Return a line or two for every cause: seed, command line, and what was seen."""
    causes: dict[str, list[Finding]] = {}
    for one in findings:
        for outcome in one.broken:
            causes.setdefault(signature(one, outcome), []).append(one)
    lines = []
    for name, found_ in sorted(causes.items(), key=lambda item: -len(item[1]))[:most]:
        one = min(found_, key=lambda f: f.seed)
        outcome = name.split(" | ")[1]
        shown = " ".join(ascii(a)[1:-1][:60] for a in one.argv)
        numbers = ", ".join(str(f.seed) for f in sorted(found_, key=lambda f: f.seed)[:6])
        lines.append(f"{len(found_)} × {one.kind}: {outcome}: {ascii(one.broken[outcome])[1:-1][:220]}")
        lines.append(f"    seeds {numbers}; {one.seed}: {ascii(one.what)[1:-1][:160]} [{one.label}]")
        lines.append(f"    zeroq-asr {shown}")
    return "\n".join(lines)


def reproduce(seed: int, seeds: Seeds, folder: Path, only: str = "") -> Finding:
    """Write the input of a seed to ``folder``/work and run it there."""
    folder.mkdir(parents=True, exist_ok=True)
    one = run_seed(seed, seeds, folder.resolve(), only)
    # the command may have changed it: as it was
    _, case = make(seed, seeds, only)
    if case.prepare is None:
        shutil.rmtree(folder / "work")
        (folder / "work").mkdir()
        case.write(folder / "work")
    return one


def forked_seed(number: int) -> int:
    """Return a seed far from its neighbours."""
    return random.Random(number).getrandbits(31)


assert sys.platform != "win32", "children are forked"
