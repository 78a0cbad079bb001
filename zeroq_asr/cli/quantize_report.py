"""What ``zeroq-asr quantize`` says of what it made."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zeroq_asr as zq
from zeroq_asr.cli.float_parts import show_islands
from zeroq_asr.cli.synthesize import show_statistics
from zeroq_asr.cli.terminal import Terminal
from zeroq_asr.deployment.machine import best_target, this_machine
from zeroq_asr.lines import against_float, size

if TYPE_CHECKING:
    from zeroq_asr.synthesis.features import SyntheticFeatures

#: where ranges come from, in words
_SOURCES = {
    "synthetic": "of features that were made to match what the network stores",
    "speech": "of made speech, through the network's own frontend",
    "both": "of matched features and of made speech",
    "noise": "of noise",
}
#: keys of the ends of a value's range, its own and on made speech
_ENDS = (("low", "high"), ("speech_low", "speech_high"))


def report(
    terminal: Terminal, result: zq.Quantized, path: Path, tokens: Path | None, *, chosen_target: bool
) -> None:
    """Tell what was made, and what to do next."""
    proof, backend = result.proof, result.exported.backend
    times = f", {against_float(result.size, result.float_bytes)}" if result.float_bytes else ""
    rows = [
        ("size", f"{size(result.size)}{times} ({size(result.float_bytes)})"),
        ("dialect", dialect_of(backend.dialect, result.deployment.recipe, chosen_target)),
        ("program", result.program.digest()),
        (
            "proof",
            f"of recordings up to {result.deployment.max_seconds:g} s; "
            f"int32 has {proof.headroom_bits:.1f} bits of headroom",
        ),
        ("ranges", ranges_of(result.deployment.recipe, result.joined_for)),
        *_trained(result.training),
        ("time", seconds(result.seconds)),
    ]
    if tokens is not None:
        rows.insert(0, ("tokens", str(tokens)))
    terminal.title(str(path), "" if not result.islands else "not integer-only")
    terminal.facts(rows)
    show_islands(terminal, result.to_dict()["islands"])
    show_ranges(terminal, result.features, result.to_dict()["shortfall"])
    after = "inspect" if backend.dialect == "qdq" else "verify"
    terminal.next(f"{after} {shlex.quote(str(path))}")


def show_ranges(terminal: Terminal, features: SyntheticFeatures | None, short: dict[str, Any] | None) -> None:
    """Tell how well features match what is stored and, where ranges are blind, what of speech they miss."""
    if features is not None and features.account:
        terminal.text()
        show_statistics(terminal, features.account, worst=3)
    if short is not None and short["blind"]:
        terminal.text()
        terminal.text("Where the ranges fall shortest of what made speech reaches:")
        terminal.table(
            ["value", "reaches", "speech reaches", "missed"], [_missed(one) for one in short["worst"]]
        )


def ranges_of(recipe: dict[str, Any], joined_for: float | None) -> str:
    """Return where ranges come from, in words, and why from two sources if nobody asked for both."""
    told = _SOURCES.get(recipe["calibration"]["source"], "of recordings or saved features")
    if joined_for is None:
        return told
    missed = f"{100 * joined_for:.0f} %"
    return f"{told}: the first alone miss {missed} or more of what speech reaches at half of the values"


def _trained(account: zq.TrainingAccount | None) -> list[tuple[str, str]]:
    """What training did, a row for sections and one for the whole."""
    if account is None:
        return []
    rows = []
    if account.sections:
        fell = [100 * (1 - one.after / one.before) for one in account.sections if one.before > 0]
        better = sum(one.after < one.before for one in account.sections)
        rows.append(
            (
                "weights",
                f"reconstructed in {better} of {len(account.sections)} sections; "
                f"squared error on held-out features fell by {sum(fell) / max(1, len(fell)):.0f} %",
            )
        )
    if (ends := account.clipping) is not None:
        told = f"divergence {ends.before:.3g} → {ends.after:.3g} nats a frame"
        rows.append(("clipping", f"of {ends.values} values, {ends.steps} steps; {told}"))
    for one in account.wider:
        at, steps, after = one.distillation.before, one.distillation.steps, one.distillation.after
        rows.append((f"at {one.bits} bits", f"{steps} steps; divergence {at:.3g} → {after:.3g} nats a frame"))
    if (done := account.distillation) is not None:
        rows.append(
            (
                "training",
                f"{done.steps} steps in {done.seconds:.0f} s; divergence on held-out features "
                f"{done.before:.3g} → {done.after:.3g} nats a frame",
            )
        )
    return rows


def _missed(one: dict[str, Any]) -> list[str]:
    own, speech = (f"{one[low]:.3g} to {one[high]:.3g}" for low, high in _ENDS)
    return [one["name"], own, speech, f"{100 * one['share']:.0f} %"]


def dialect_of(dialect: str, recipe: dict[str, Any], chosen_target: bool) -> str:
    """Return a dialect in words, and why its target was chosen if nobody named it."""
    if dialect == "fused":
        spec = recipe["quantization"]
        reason = best_target(this_machine(), spec["weight_bits"])[1] if chosen_target else ""
        return f"fused, for {spec['target']}" + (f": {reason}" if reason else "")
    return "qdq: float between integers, not exact" if dialect == "qdq" else dialect


def seconds(stages: dict[str, float]) -> str:
    """Return the time of the stages, those below a tenth of a second left out."""
    parts = [f"{name} {value:.1f}" for name, value in stages.items() if value >= 0.05]
    total = f"{sum(stages.values()):.1f} s"
    return f"{total} ({', '.join(parts)})" if parts else total
