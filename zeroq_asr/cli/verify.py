"""``zeroq-asr verify``: what a file is proven to be, in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

import zeroq_asr as zq
from zeroq_asr.cli.float_parts import show_islands
from zeroq_asr.cli.options import All, AsJson, Developer, Quiet
from zeroq_asr.cli.runs_on import runs_on
from zeroq_asr.cli.terminal import Terminal, session

#: operators that are named in the sentence on what is float
_MAKERS = 4


def verify(
    ctx: typer.Context,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="An ONNX file that `quantize` wrote, or a bundle's folder of them."
        ),
    ],
    expected: Annotated[
        str | None,
        typer.Option(
            "--hash",
            metavar="SHA256",
            help="What the hash of its program or of the whole file must begin with; 8 digits do.",
        ),
    ] = None,
    everything: All = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    developer: Developer = False,
) -> None:
    """Verify that FILE is the proven integer program that it says it is; exit code 5 if not.

    What was kept in float is listed; a file with such islands is not integer-only.

    Example: zeroq-asr verify quartznet.int8.onnx
    """
    with session(ctx, as_json=as_json, quiet=quiet, developer=developer) as terminal:
        wanted = None if expected is None else _hash(expected)
        with terminal.progress() as progress:
            progress("verify", 0, 1)
            certificate = zq.verify(file)
            progress("verify", 1, 1)
        found = certificate.program_sha256
        if wanted is not None and not any(h.startswith(wanted) for h in (found, certificate.file_sha256)):
            raise zq.VerificationError(
                file,
                f"holds another program: its hash is {found}, that of the file {certificate.file_sha256}, "
                f"expected {wanted}",
                "ask who made the file",
            )
        terminal.result(certificate.to_dict(names=everything), found)
        if terminal.talks:
            _report(terminal, certificate, everything)
            if not everything and certificate.kernels:
                terminal.text()
                command = shlex.join(["verify", str(file), "--all"])
                terminal.text(f"The conditions, and every name: zeroq-asr {command}", "dim")


def _hash(text: str) -> str:
    digits = text.strip().lower()
    if not 8 <= len(digits) <= 64 or set(digits) - set("0123456789abcdef"):
        raise zq.ConfigError("--hash", f"{text!r} is no SHA-256", "give 8 to 64 hexadecimal digits of it")
    return digits


def _apart(where: str) -> list[tuple[str, str]]:
    """The instruction, if there is one, by which an utterance may give in a batch what it does not alone."""
    told = f"of one length: {where} may read frames behind the end of a shorter one"
    return [("batches", told)] if where else []


def _frames(certificate: zq.Certificate) -> str:
    proof = certificate.proof
    least = "" if proof.least_frames == 1 else f"{proof.least_frames} to "
    return f"{least}{proof.max_frames} frames"


def _listed(nodes: Mapping[str, int]) -> str:
    """The operators that most nodes have, and how many have others."""
    counts = [*nodes.items()]
    shown = [f"{name} × {count:,}" for name, count in counts[:_MAKERS]]
    others = sum(count for _, count in counts[_MAKERS:])
    return ", ".join(shown + ([f"others × {others:,}"] if others else []))


def _carriers(certificate: zq.Certificate) -> str:
    """What floats there are outside of kernels, in a sentence."""
    return (
        f"{len(certificate.float_tensors):,} tensors, all within these kernels, made by "
        f"{_listed(certificate.float_makers)}; "
        "by conditions that hold for each kernel, its result is the integer that the rule gives"
    )


def _frontend(certificate: zq.Certificate) -> str:
    """What stands in front of the program, in a sentence."""
    return (
        f"in the file, in float, in front of the program: {_listed(certificate.frontend)}; nothing is proven "
        "of the features that it makes, and the program is proven for any"
    )


def _ports(certificate: zq.Certificate) -> str:
    """What the ports of another runtime are, in a sentence."""
    return (
        f"float32, as {certificate.runtime} has them: {_listed(certificate.ports)}; every integer crosses "
        "as it is, states less what they are at first, and scores at their scale, in the same order"
    )


def _conditions(terminal: Terminal, certificate: zq.Certificate) -> None:
    """Why every kernel gives the integers that its instruction defines."""
    for kernel, conditions in certificate.kernels.items():
        terminal.text(f"  {kernel}, equal to the integer rule, since for each:")
        for condition in conditions:
            terminal.text(f"    - {condition}")


def _report(terminal: Terminal, certificate: zq.Certificate, everything: bool) -> None:
    proof = certificate.proof
    whole = certificate.integer_only
    terminal.title(certificate.file, "verified" if whole else "verified; not integer-only")
    terminal.text()
    if whole:
        terminal.text("1. The integer program is proven.", "bold green")
    else:
        terminal.text("1. Not integer-only. All that lies outside of float islands is proven.", "bold yellow")
    terminal.facts(
        [
            ("program", certificate.program_sha256),
            ("file", f"{certificate.file_sha256} (its tokens and frontend too)"),
            (
                "input",
                f"any of at most {certificate.max_seconds:g} s ({_frames(certificate)}), "
                + ("alone" if certificate.reads_behind else "in any batch"),
            ),
            *_apart(certificate.reads_behind),
            ("runs on", runs_on(certificate.to_dict())),
            (
                "peak",
                f"no int32 exceeds {proof.peak:,} in magnitude: {proof.headroom_bits:.1f} bits of headroom",
            ),
            ("at", proof.peak_at),
            ("checked", f"{proof.instructions} instructions; the graph equals their export byte for byte"),
        ]
    )
    if certificate.parts:
        terminal.text()
        terminal.table(
            ["part", "program", "instructions", "headroom, bits"],
            [
                [
                    name,
                    part.program_sha256,
                    str(part.proof.instructions),
                    f"{part.proof.headroom_bits:.1f}",
                ]
                for name, part in certificate.parts.items()
            ],
            left=(0, 1),
        )
    show_islands(terminal, certificate.to_dict()["islands"])
    terminal.text()
    terminal.text(f"2. {_dialect(certificate)}", "bold green")
    if certificate.kernels:
        # some are several nodes, and some nodes are no kernels
        counts = {
            kernel: sum(spelled.get(kernel, 0) for spelled in certificate.spellings.values())
            for kernel in certificate.kernels
        }
        terminal.facts([("kernels", ", ".join(f"{kernel} × {count}" for kernel, count in counts.items()))])
        if everything:
            _conditions(terminal, certificate)
    if certificate.float_tensors:
        terminal.facts([("floats", _carriers(certificate))])
        for name in certificate.float_tensors if everything else ():
            terminal.text(f"    {name}")
    if certificate.frontend:
        terminal.facts([("frontend", _frontend(certificate))])
    if certificate.ports:
        terminal.facts([("ports", _ports(certificate))])
    if certificate.target_bound:
        terminal.facts([("target", f"{certificate.target}: {certificate.target_bound}")])


def _dialect(certificate: zq.Certificate) -> str:
    if certificate.dialect == "strict":
        besides = "; its frontend is float" if certificate.frontend else ""
        besides += f", but for the ports of {certificate.runtime}" if certificate.runtime else ""
        return f"The dialect is strict: no float type between the input quantizer and the logits{besides}."
    beside = "" if certificate.integer_only else " beside the islands"
    if not (certificate.kernels or certificate.float_tensors):
        return f"The dialect is fused, and the file holds no float kernel{beside}."
    return f"The dialect is fused:{beside} float only inside these kernels, which are exact."
