"""A report as a page: what it shows, that it is whole in itself, and that a stranger's text stays text."""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import zeroq_asr as zq
from zeroq_asr.config.plan_row import PlanPoint, PlanRow
from zeroq_asr.measure import page_svg
from zeroq_asr.measure.evaluate import Evaluation, Transcript, count_errors
from zeroq_asr.measure.page import Account, account_of, check, named, page, write_page
from zeroq_asr.measure.page_recipe import changed, quantize_command
from zeroq_asr.measure.page_words import Heard, words
from zeroq_asr.measure.qualities import ValueQuality
from zeroq_asr.measure.report import QualityReport
from zeroq_asr.synthesis.features import LayerAccount

FAST = zq.SynthesisSpec(batch=2, frames=64, iterations=1)
EVIL = "<script>alert('x')</script>\"><img src=x onerror=y> ]]> & \x00\x1b[31m\u202e\ud800\ufffe\n<q>"
#: elements that have no end
VOID = {"meta", "br"}


class Elements(HTMLParser):
    """Every element of a page; fails where an end does not match the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def elements(text: str) -> Elements:
    """Parse a page, and each of its pictures as XML; check that nothing in it runs or is loaded."""
    found = Elements()
    found.feed(text)
    found.close()
    assert found.open == []
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(picture)
    tags = {tag for tag, _ in found.seen}
    assert not tags & {"script", "img", "link", "iframe", "object", "image", "use", "a", "b:b"}
    names = {name for _, attributes in found.seen for name in attributes}
    assert not {name for name in names if name.startswith("on")} | names & {"src", "href", "style"}
    return found


@pytest.fixture(scope="module")
def checkpoint(small_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "small.pt"
    zq.save_checkpoint(small_model, path)
    return path


@pytest.fixture(scope="module")
def file(small_model: Any, checkpoint: Path) -> Path:
    """The small model, quantized with little work."""
    path = checkpoint.with_suffix(".onnx")
    zq.quantize(small_model, path, synthesis=FAST)
    return path


@pytest.fixture(scope="module")
def found(small_model: Any, file: Path) -> QualityReport:
    return zq.report(small_model, file, FAST)


@pytest.fixture(scope="module")
def account(small_model: Any, checkpoint: Path, file: Path) -> Account:
    return account_of(file, checkpoint, small_model.float_bytes)


@pytest.fixture
def row() -> PlanRow:
    points = [
        PlanPoint((3, 0, 0), 3000, 0.0),
        PlanPoint((2, 1, 0), 2600, 0.01, -0.002),
        PlanPoint((1, 1, 1), 2000, 0.5),
    ]
    return PlanRow(tuple(points), 1, 3, 1.254)


def heard(said: list[str], real: list[str], integer: list[str], audio: str = "clip.wav") -> Heard:
    def of(texts: list[str]) -> Evaluation:
        rows = tuple(Transcript(audio, a, b) for a, b in zip(said, texts, strict=True))
        return Evaluation("x", *count_errors(said, texts), rows, 60.0, 1.0, 1.0)

    return Heard(of(real), of(integer))


def test_the_page_tells_what_the_report_and_the_certificate_tell(
    found: QualityReport, account: Account, row: PlanRow
) -> None:
    clips = heard(["one two", "three"], ["one two", "tree"], ["one", "tree"])
    text = page(dataclasses.replace(found, search=row), account, clips, ["zeroq-asr report x"])
    parsed = elements(text)
    titles = re.findall("<h2>(.*?)</h2>", text)
    assert titles == [
        "Verdict",
        "Size",
        "Noise by depth",
        "Statistics",
        "Words",
        "Plans",
        "Make it again",
    ]
    assert "one. 3 values have 16 bits by the search: 1.25 times the products, as counted.</p>" in text
    certificate = account.certificate
    assert certificate is not None
    for told in (
        "Proven, integer-only",
        certificate.program_sha256,
        f"{certificate.proof.peak:,}",
        "fused for x86-any",
        f"ONNX Runtime {certificate.onnxruntime} or later",
        "sherpa-onnx",
        "zeroq-asr report x",
    ):
        assert told in text
    assert sum(tag == "circle" for tag, _ in parsed.seen) == (
        len(found.values) + 2 * len(found.statistics) + len(row.points) + 1 + 1
    )
    # a mark says what it is: every value twice, by its noise and by its range
    for value in found.values:
        assert text.count(f"<title>{value.name}: ") == 2
    for layer in found.statistics:
        assert f"<title>{layer.name}: KL {layer.kl_before:.3g} before, {layer.kl_after:.3g} after" in text


def test_the_page_is_whole_in_itself(found: QualityReport, account: Account, tmp_path: Path) -> None:
    write_page(tmp_path / "x.html", found, account)
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
    text = (tmp_path / "x.html").read_text("utf-8")
    elements(text)
    assert len(text.encode()) < 1_000_000
    for word in ("http://", "https://", "src=", "href=", "@import", "url(", "<script"):
        assert word not in text
    assert "default-src 'none'" in text
    assert "prefers-color-scheme:dark" in text
    # no folder of the maker's machine
    assert str(Path(found.file).parent) not in text


def test_strangers_text_stays_text(found: QualityReport, account: Account, row: PlanRow) -> None:
    values = [dataclasses.replace(value, name=EVIL) for value in found.values]
    layers = [dataclasses.replace(layer, name=EVIL) for layer in found.statistics]
    changed_report = dataclasses.replace(
        found, name=EVIL, file=EVIL, values=tuple(values), statistics=tuple(layers), search=row
    )
    recipe = {"quantization": {}, "calibration": {"source": EVIL}, "plan": {"yaml": EVIL}}
    evil = dataclasses.replace(
        account,
        file={**account.file, "recipe": recipe, "program_sha256": EVIL, "onnxruntime": EVIL},
        runtimes={EVIL: EVIL, "x": (EVIL,)},
        model=EVIL,
    )
    text = page(changed_report, evil, heard([EVIL], [EVIL + " a"], ["b"], EVIL), [EVIL])
    text.encode()
    parsed = elements(text)
    assert "<script" not in text
    assert not set("\x00\x1b\u202e\ufffe") & set(text)
    assert any("<script>" in data for data in parsed.text)
    # a name goes into titles, too, from which it does not break out
    assert {tag for tag, _ in parsed.seen} == {tag for tag, _ in elements(page(found, account)).seen} | {
        "b",
        "h3",
        "polyline",
    }


def test_a_page_of_a_large_network_is_small(found: QualityReport, account: Account) -> None:
    values = [ValueQuality(f"{k}." * 90, -1.0, 1.0, 1.2, 0.1, 20.0 + k % 7) for k in range(3000)]
    layers = [LayerAccount(f"{k}." * 90, 8, 8, 1.0, 0.1, 0.1, 1.0) for k in range(3000)]
    points = tuple(PlanPoint((k, 0, 0), 5000 - k, k / 100) for k in range(3000))
    large = dataclasses.replace(
        found, values=tuple(values), statistics=tuple(layers), search=PlanRow(points, 7)
    )
    text = page(large, account)
    elements(text)
    assert len(text.encode()) < 1_000_000
    assert "Left out" not in text
    # what cannot be had within it is left out by its name
    hostile = dataclasses.replace(large, values=tuple(dataclasses.replace(v, name='"' * 999) for v in values))
    text = page(hostile, account)
    assert len(text.encode()) < 1_000_000
    assert re.search(r"<h2>Noise by depth</h2><p class=note>Left out, for it would take \d+", text)


def test_the_worst_of_neighbours_is_kept() -> None:
    items = [*range(page_svg.MARKS * 3)]
    kept = page_svg.worst_of_neighbours(items, lambda item: -item)
    assert kept == items[2::3]
    assert page_svg.worst_of_neighbours(items[:5], lambda item: item) == items[:5]


def test_values_without_noise_and_of_nothing_but_noise_have_their_marks() -> None:
    values = [ValueQuality(name, 0.0, 1.0, 0.5, 0.0, sqnr) for name, sqnr in (("a", math.inf), ("b", -23.0))]
    text = page_svg.depth(values)
    ElementTree.fromstring(text)
    assert "<title>a: without noise</title>" in text
    heights = [float(y) for y in re.findall(r'cy="([-\d.]+)"', text)]
    assert 0 <= heights[0] < heights[1] <= 254


def test_only_what_is_clipped_is_drawn_as_clipped() -> None:
    inside = ValueQuality("a", 0.0, 1.0, 1.5, 0.0, 20.0)  # reaches beyond, where a function is flat
    outside = dataclasses.replace(inside, clipped=0.1)
    assert 'class="clipped"' not in page_svg.depth([inside])
    assert 'class="clipped"' in page_svg.depth([outside])


def test_words_are_marked_against_what_was_said_and_against_float() -> None:
    text = words(heard(["a b c d"], ["a x c d"], ["a b c e f"]))
    elements(text)
    assert '<span class="sub" title="said: b">x</span>' in text
    assert '<span class="sub moved" title="said: d; not as in float">e</span>' in text or (
        '<span class="ins moved" title="not said: e; not as in float">e</span>' in text
    )
    lost = words(heard(["a b"], ["a b"], ["a"]))
    assert '<span class="del moved" title="left out: b; not as in float">b</span>' in lost
    both = words(heard(["a b"], ["a"], ["a"]))
    assert '<span class="del" title="left out: b">b</span>' in both
    assert "title" not in words(heard(["a b"], ["a b"], ["a b"])).split("</svg>")[1]


def test_rates_have_intervals_and_the_worst_come_first() -> None:
    said = ["a b c d"] * 20
    real = [*said[:-1], "a b c x"]
    integer = ["a b x x", "x b c d", *said[2:-1], "a b c x"]
    text = words(heard(said, real, integer))
    assert "20 utterances, 1.0 minutes, 80 words." in text
    assert re.search(r"integers: 5\.00 % \(0\.00 to 1[0-9]\.\d\d\)", text)
    assert "<b>+3.75 points</b>" in text
    order = re.findall(r": (\d) of 4 words wrong, (\d) in float", text)
    assert order == [("2", "0"), ("1", "0"), ("1", "1")]
    assert "no rate" in words(heard(["", ""], ["", ""], ["a", ""]))


def test_the_command_makes_the_same_file_again(
    checkpoint: Path, file: Path, tmp_path: Path, account: Account
) -> None:
    from shlex import split

    from typer.testing import CliRunner

    from zeroq_asr.cli import app

    recipe = account.file["recipe"]
    line = quantize_command(recipe, "m.pt", "m.onnx", "fused")
    assert line == (
        "zeroq-asr quantize m.pt --output m.onnx --set batch=2 --set frames=64 --set iterations=1 "
        f"--calibration {recipe['calibration']['source']}"
    )
    replaced = {"m.pt": str(checkpoint), "m.onnx": str(tmp_path / "again.onnx")}
    result = CliRunner().invoke(app, [replaced.get(word, word) for word in split(line)[1:]])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()


def test_commands_name_what_is_not_a_default() -> None:
    spec = zq.QuantSpec.parse_bits("w4a8", keep_float=("a b",), layer_bits=(("x", 16),))
    fields = {"quantization": spec.to_dict(), "calibration": {"source": "speech"}}
    line = quantize_command(fields, "m", "f", "strict")
    assert "--dialect strict" in line
    assert "--set weight_bits=4" in line
    assert "--set 'keep_float=[\"a b\"]'" in line
    assert "--set 'layer_bits=[[\"x\", 16]]'" in line
    planned = quantize_command({**fields, "plan": {"yaml": "weights: {}"}}, "m", "f", "fused")
    assert "--bits plan.yaml" in planned
    assert "weight_bits" not in planned
    assert changed(zq.QuantSpec().to_dict(), zq.QuantSpec) == {}


def test_files_are_named_without_folders_and_the_hubs_checkpoints_whole(checkpoint: Path) -> None:
    assert named(checkpoint) == "small.pt"
    assert named(Path("nvidia/some_model@main")) == "nvidia/some_model@main"


def test_pages_have_their_ending() -> None:
    check(Path("x.HTML"))
    with pytest.raises(zq.ConfigError, match="--html: cannot write a file without ending"):
        check(Path("x"))
    with pytest.raises(zq.ConfigError, match=r"cannot write \.pdf; use \.html or \.htm"):
        check(Path("x.pdf"))


def test_a_file_without_a_certificate_says_so(small_model: Any, tmp_path: Path, found: QualityReport) -> None:
    zq.quantize(small_model, tmp_path / "x.onnx", synthesis=FAST, dialect="qdq")
    account = account_of(tmp_path / "x.onnx", tmp_path / "m.pt", 10)
    text = page(found, account)
    elements(text)
    assert "Not exact: the qdq spelling has no certificate" in text
    assert "verify" not in text.split("Make it again")[1]
