"""What the rows of the benchmarks share: options, and means over seeds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import zeroq_asr as zq

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import hearing


def test_the_embedded_clips_are_heard_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = hearing.parser("About.\nMore.").parse_args(["--checkpoint", "x.pt"])
    assert found.manifest == [str(zq.embedded_files().test)]
    assert (found.loader, found.limit, found.seeds) == (None, None, [0, 1, 2])
    with pytest.raises(SystemExit):
        hearing.parser("About.", embedded=False).parse_args(["--checkpoint", "x.pt"])
    assert "--manifest" in capsys.readouterr().err


def test_rows_of_several_seeds_have_a_mean() -> None:
    shown: dict[str, list[float]] = {}
    rows = {"one": [[1.0, 2.0]], "two": [[1.0, 2.0], [3.0, 6.0]]}
    hearing.show_means(rows, shown.__setitem__)
    assert shown == {"two": [2.0, 4.0]}


def test_the_embedded_recogniser_hears_its_clips() -> None:
    options = ["--checkpoint", str(zq.embedded_files().model), "--limit", "3"]
    model, heard = hearing.heard(hearing.parser(None).parse_args(options))
    assert model.name
    assert len(heard.features) == 3
    # the float network does not differ from itself
    assert heard.float_rates()[1:] == [0.0, 0.0]
    # a word too many in every other run of a recording
    assert heard.spoken is not None
    worse = [f"{text} so" for text in heard.spoken]
    words = sum(len(text.split()) for text in heard.spoken)
    found = heard.difference([worse, heard.spoken], [heard.spoken])
    assert found.value == pytest.approx(len(worse) / 2 / words)
    assert 0 < found.low < found.value < found.high
