"""``zeroq-asr quantize`` of a transducer: what it takes no option for, and what is said of its bundle."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

import zeroq_asr as zq
from zeroq_asr.cli.quantize_report import dialect_of, ranges_of, seconds, show_ranges
from zeroq_asr.cli.synthesize import account
from zeroq_asr.cli.terminal import Terminal
from zeroq_asr.errors import ConfigError
from zeroq_asr.lines import against_float, size


def refuse(model: Path, options: Mapping[str, object]) -> None:
    """Raise ConfigError for the first option that was given, of what a transducer cannot be asked for."""
    given = [name for name, value in options.items() if value]
    if given:
        problem = f"{model} is a transducer, which has one format throughout"
        raise ConfigError(given[0], problem, "leave it out")


def refuse_labels(model: Path, labels: zq.LabelSpec) -> None:
    """Raise ConfigError where labels, which are of transducers, are chosen of a CTC network."""
    if labels != zq.LabelSpec():
        problem = f"changes the labels of a transducer, {model} is a CTC network"
        raise ConfigError("--set", problem, "leave fields of LabelSpec out")


def show_bundle(
    terminal: Terminal,
    result: zq.QuantizedTransducer,
    path: Path,
    tokens: Path | None,
    *,
    chosen_target: bool,
) -> None:
    """Write the tokens if that was asked for, and tell what was made."""
    if tokens is not None:
        result.deployment.tokenizer.write_tokens(tokens)
    features = result.prepared.encoder.features
    told = {"tokens": None if tokens is None else str(tokens), "synthesis": account(features)}
    terminal.result({**result.to_dict(), **told}, str(path))
    if not terminal.talks:
        return
    times = f", {against_float(result.size, result.float_bytes)}"
    proof, recipe = result.proofs[result.nearest], result.deployment.recipe
    exported = next(iter(result.exports.values()))
    terminal.title(str(path), "")
    rows = [
        ("size", f"{size(result.size)}{times} ({size(result.float_bytes)})"),
        ("dialect", dialect_of(exported.backend.dialect, recipe, chosen_target)),
        ("program", result.bundle.digest()),
        (
            "proof",
            f"holds to {result.deployment.max_seconds:g} s, and for labels without end; "
            f"int32 has {proof.headroom_bits:.1f} bits of headroom, in the {result.nearest}",
        ),
        ("ranges", ranges_of(recipe, result.prepared.encoder.joined_for)),
        ("labels", ", ".join(recipe["labels"]["label_sources"])),
        ("time", seconds(result.seconds)),
    ]
    terminal.facts([*([("tokens", str(tokens))] if tokens is not None else []), *rows])
    terminal.text()
    terminal.table(
        ["part", "program", "instructions", "headroom, bits"],
        [
            [part, program.digest(), str(len(program.code)), f"{result.proofs[part].headroom_bits:.1f}"]
            for part, program in result.bundle.programs.items()
        ],
        left=(0, 1),
    )
    show_ranges(terminal, features, result.to_dict()["shortfall"])
    terminal.next(f"verify {shlex.quote(str(path))}")
