"""A report as one page of HTML: whole in itself, readable without scripts, in light and in dark.

Nothing is loaded from anywhere, and a policy in the page forbids it.  Names, tokens and transcripts are
strangers' text: all of it goes through ``zeroq_asr.measure.page_svg.escaped``.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeroq_asr._version import __version__
from zeroq_asr.config.choices import CTC, RUNTIMES
from zeroq_asr.deployment.certificate import Certificate
from zeroq_asr.deployment.inspection import inspect_file
from zeroq_asr.deployment.parts import PARTS
from zeroq_asr.deployment.runtime_folders import runtime_folder
from zeroq_asr.deployment.verify import verify
from zeroq_asr.errors import ConfigError, ExportError
from zeroq_asr.files import atomic_write_bytes
from zeroq_asr.lines import size
from zeroq_asr.measure.page_recipe import notes, quantize_command
from zeroq_asr.measure.page_style import STYLE
from zeroq_asr.measure.page_svg import Bar, bars, depth, escaped, plans, statistics
from zeroq_asr.measure.page_words import Heard, words
from zeroq_asr.measure.report import QualityReport

FORMATS = (".html", ".htm")
#: bytes of a page at most, but for its head: sections beyond are left out, the largest first
_MOST = 950_000
#: characters of a recipe, of a command, and of a problem that are shown
_RECIPE, _COMMAND, _PROBLEM = 60_000, 4_000, 400
#: what is counted of a transducer
_STEPS = (
    "Steps: of the path of the float network’s own greedy decoding, each a frame behind what it has said by "
    "then. The confidence is of the encoder, which alone hears features."
)


@dataclass(frozen=True)
class Account:
    """What a page tells of a file beside its report."""

    #: as ``inspect_file`` gives it
    file: dict[str, Any]
    #: None where the dialect has none
    certificate: Certificate | None
    #: bytes of the float network's parameters and buffers
    float_bytes: int
    #: runtime → what it does otherwise; or why it does not take the file
    runtimes: dict[str, tuple[str, ...] | str]
    #: the checkpoint's name: of a file without its folders
    model: str


def check(path: Path) -> None:
    """Raise ConfigError, before any work, unless ``path`` is named like a page."""
    if path.suffix.lower() not in FORMATS:
        kind = path.suffix or "a file without ending"
        raise ConfigError("--html", f"cannot write {kind}", f"use {' or '.join(FORMATS)}")


def named(model: Path) -> str:
    """Return how a page names a checkpoint: a file by its name alone, one of the hub by its whole name."""
    return model.name if model.exists() else str(model)


def account_of(file: Path, model: Path, float_bytes: int) -> Account:
    """Inspect and verify a file of ``quantize``, and ask which runtimes take it.

    Raises VerificationError for a file that does not verify.
    """
    found = inspect_file(file)
    certificate = None if found["dialect"] == "qdq" else verify(file)
    runtimes: dict[str, tuple[str, ...] | str] = {}
    for runtime in RUNTIMES:
        try:
            runtimes[runtime] = runtime_folder(file, runtime).differences
        except ExportError as error:
            runtimes[runtime] = error.problem
    return Account(found, certificate, float_bytes, runtimes, named(model))


def write_page(
    path: Path,
    found: QualityReport,
    account: Account,
    heard: Heard | None = None,
    commands: Sequence[str] = (),
) -> None:
    """Write a report as a page, whole or not at all; ConfigError where it cannot be written.

    ``heard``: recordings that both recognised; ``commands``: command lines to be shown beside that which
    makes the file again.
    """
    atomic_write_bytes(path, page(found, account, heard, commands).encode())


def page(
    found: QualityReport, account: Account, heard: Heard | None = None, commands: Sequence[str] = ()
) -> str:
    """Return the HTML of a report: at most 1 MB, whatever the network."""
    file = escaped(Path(os.path.abspath(found.file)).name)
    sections = [
        ("Verdict", _verdict(found, account)),
        ("Parts", _parts(found, account)),
        ("Size", _sizes(account)),
        ("Noise by depth", _depth(found)),
        ("Statistics", _statistics(found)),
        ("Words", "" if heard is None else words(heard)),
        ("Plans", "" if found.search is None else _plans(found)),
        ("Make it again", _recipe(found, account, commands)),
    ]
    while sum(len(content.encode()) for _, content in sections) > _MOST:
        place = max(range(len(sections)), key=lambda k: len(sections[k][1]))
        title, content = sections[place]
        told = f"Left out, for it would take {size(len(content.encode()))}."
        sections[place] = title, f"<p class=note>{told}</p>"
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="generator" content="zeroq-asr {__version__}">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{file} – report</title><style>{STYLE}</style></head>"
        f"<body><main><header><h1>{escaped(found.name)}</h1>"
        f"<p>{file}, against {escaped(account.model)}</p></header>{body}"
        f"<footer>zeroq-asr {__version__}</footer></main></body></html>\n"
    )


# -- sections --------------------------------------------------------------------------------------


def _verdict(found: QualityReport, account: Account) -> str:
    file, certificate = account.file, account.certificate
    if certificate is None:
        headline, kind = "Not exact: the qdq spelling has no certificate", "bad"
    elif certificate.integer_only:
        headline, kind = "Proven, integer-only", "good"
    else:
        headline, kind = f"Proven but for {len(certificate.islands)} float islands", "middling"
    times = account.float_bytes / max(file["bytes"], 1)
    noun = "frames" if found.head == CTC else "steps"
    facts = [
        ("size", f"{size(file['bytes'])}; {size(account.float_bytes)} in float, {times:.1f} times as much"),
        *_proof(certificate),
        (
            "dialect",
            str(file["dialect"])
            + (f" for {certificate.target}" if certificate is not None and certificate.target_bound else ""),
        ),
        ("program", _digest(account)),
        ("runs on", f"ONNX Runtime {file['onnxruntime']} or later"),
        *((runtime, _fits(answer)) for runtime, answer in account.runtimes.items()),
        (noun, f"{100 * found.frames:.2f} % have another best token than the float network's"),
        ("KL", f"{found.divergence:.3g} nats a {noun[:-1]}, on held-out made features"),
        ("confidence", _confidence(found)),
    ]
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text, _PROBLEM)}</dd>" for name, text in facts)
    told = "" if found.head == CTC else f"<p class=note>{_STEPS}</p>"
    return (
        f'<p class="headline {kind}-text">{headline}</p><dl>{rows}</dl>'
        f"{told}<p class=note>Made features are not speech: {noun} and KL rank files, "
        "they are no error rates.</p>"
    )


def _proof(certificate: Certificate | None) -> list[tuple[str, str]]:
    if certificate is None:
        return []
    proof = certificate.proof
    told = f"no int32 exceeds {proof.peak:,} in magnitude: {proof.headroom_bits:.1f} bits of headroom"
    reach = f"whatever is said, to {certificate.max_seconds:g} s"
    return [("proof", f"{told}, {reach}; {proof.instructions} instructions")]


def _fits(answer: tuple[str, ...] | str) -> str:
    if isinstance(answer, str):
        return f"does not take it: {answer}"
    return "takes it" + (f"; differs: {'; '.join(answer)}" if answer else ", as it is")


def _confidence(found: QualityReport) -> str:
    if not found.blind:
        return "high: ranges and held-out features reach as far as made speech does"
    share = max(found.ranges_miss, found.features_miss)
    return f"low: half of the values miss {100 * share:.0f} % or more of what made speech reaches"


def _sizes(account: Account) -> str:
    rows = [
        Bar("float", account.float_bytes, size(account.float_bytes)),
        Bar("integers", account.file["bytes"], size(account.file["bytes"]), "integer"),
    ]
    parts = account.file.get("parts", {})
    rows += [
        Bar(part, parts[part]["bytes"], size(parts[part]["bytes"]), "integer")
        for part in PARTS
        if part in parts
    ]
    return bars(rows, "bytes of the float network and of the file")


def _parts(found: QualityReport, account: Account) -> str:
    """A table of what is in the files of a bundle; "" of one file."""
    certificate = account.certificate
    if certificate is None or not certificate.parts:
        return ""
    rows = ""
    for part in PARTS:
        one = certificate.parts[part]
        noises = [value.sqnr for value in found.values if value.name.startswith(f"{part}.")]
        worst = f"{min(noises):.1f}" if noises else "–"
        cells = (
            part,
            one.program_sha256[:16],
            size(account.file["parts"][part]["bytes"]),
            str(one.proof.instructions),
            f"{one.proof.headroom_bits:.1f}",
            worst,
        )
        rows += f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in cells)}</tr>"
    heads = ("part", "program", "size", "instructions", "headroom, bits", "least SQNR, dB")
    told = "".join(f"<th>{head}</th>" for head in heads)
    return (
        "<p>The encoder runs once a recording, the predictor once a label, the joiner once for every score. "
        "They hand each other integers of one grid, and the predictor’s proof holds for labels without end."
        "</p>"
        f'<div class="scroll"><table><tr>{told}</tr>{rows}</table></div>'
    )


def _digest(account: Account) -> str:
    """The hash of the program, or of all programs of a bundle."""
    certificate = account.certificate
    return str(account.file["program_sha256"] if certificate is None else certificate.program_sha256)


def _depth(found: QualityReport) -> str:
    if not found.values:
        return ""
    worst = sorted(found.values, key=lambda value: value.sqnr)[:10]
    rows = "".join(
        f"<tr><td>{escaped(value.name)}</td><td>{value.sqnr:.1f}</td><td>{value.low:.3g}</td>"
        f"<td>{value.high:.3g}</td><td>{100 * value.reach:.0f} %</td>"
        f"<td>{100 * value.clipped:.2g} %</td></tr>"
        for value in worst
    )
    heads = "".join(f"<th>{head}</th>" for head in ("value", "SQNR dB", "from", "to", "reached", "clipped"))
    return (
        "<p>Above: signal over quantization noise of every value, the noise of all before it included. "
        'Below: each value’s calibrated range, <span class="key reached-key">what is reached of it</span>, '
        'and <span class="key clipped-key">what is clipped</span>.</p>'
        f'<div class="scroll">{depth(found.values)}</div>'
        f"<details><summary>The {len(worst)} values with the most noise</summary>"
        f'<div class="scroll"><table><tr>{heads}</tr>{rows}</table></div>'
        "</details>"
    )


def _statistics(found: QualityReport) -> str:
    if not found.statistics:
        return ""
    return (
        "<p>How far the held-out features’ moments are from those that each normalization stores, in nats: "
        '<span class="key before-key">of the noise that they began as</span>, and '
        '<span class="key good-key">as they are</span>.</p>'
        f'<div class="scroll">{statistics(found.statistics)}</div>'
    )


def _plans(found: QualityReport) -> str:
    assert found.search is not None
    return (
        "<p>Nats a frame that each plan of the search loses, against the bytes of its file: "
        '<span class="key float-key">the sum of its layers alone</span>, '
        '<span class="key bad-key">measured of the whole, beyond 8 bits</span>; ringed: the chosen one.'
        f"{f' {found.search.of_values}.' if found.search.wide_values else ''}</p>"
        f'<div class="scroll">{plans(found.search)}</div>'
    )


def _recipe(found: QualityReport, account: Account, commands: Sequence[str]) -> str:
    recipe = account.file["recipe"]
    file = Path(os.path.abspath(found.file)).name
    made = quantize_command(recipe, account.model, file, str(account.file["dialect"]), head=found.head)
    digest = _digest(account)[:16]
    if account.certificate is not None:
        commands = (shlex.join(["zeroq-asr", "verify", file, "--hash", digest]), *commands)
    lines = "\n".join(escaped(line, _COMMAND) for line in (made, *commands))
    plan = recipe.get("plan", {}).get("yaml", "")
    shown = {name: part for name, part in recipe.items() if name not in ("plan", "search")}
    told = "".join(f"<p>{note}</p>" for note in notes(recipe))
    text = json.dumps(shown, indent=1, sort_keys=True)
    parts = [f"<pre>{lines}</pre>{told}", _folded("The recipe that the file keeps", text)]
    if plan:
        parts.append(_folded("Its plan", plan))
    return "".join(parts)


def _folded(title: str, text: str) -> str:
    # line by line: an end of a line is none of a stranger's
    kept = text if len(text) <= _RECIPE else f"{text[:_RECIPE]}\n…"
    lines = "\n".join(escaped(line, _PROBLEM) for line in kept.split("\n"))
    return f"<details><summary>{title}</summary><pre>{lines}</pre></details>"
