"""The file of a plan as strangers may write it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from zeroq_asr.config import CalibrationSpec, QuantSpec
from zeroq_asr.config.plan_file import read_plan, write_plan
from zeroq_asr.errors import ConfigError

BOMB = "".join(f"- &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12))


def test_a_plan_is_read_and_written() -> None:
    plan = ((("*", "int8"), ("a.*", "int4"), ("*", "int6")), (("*", 8), ("a", 16)), 12, 8)
    assert read_plan(write_plan(*plan), "p") == plan
    assert read_plan("{}", "p") == ((), (), None, None)
    assert read_plan("weights:\nvalues:\n", "p") == ((), (), None, None)
    assert read_plan('weights: {"*": int8, a: int4}', "p")[0] == (("*", "int8"), ("a", "int4"))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("weights: {}\nweights: {}", "line 2: the key 'weights' stands twice in one mapping"),
        ("weights: {a: int8, b: int8, a: int4}", "line 1: the key 'a' stands twice in one mapping"),
        ("weight: {}", "no keys but weights, values, logit_bits, sensitive_bits, got 'weight'"),
        ("1: {}", "no keys but .* got 1"),
        ("- a", r"a plan is a mapping of weights, values, logit_bits, sensitive_bits, got \['a'\]"),
        ("", "a plan is a mapping .* got None"),
        ("weights: int8", "weights must list patterns as NAME: VALUE, got 'int8'"),
        ("weights: false", "weights must list patterns as NAME: VALUE, got False"),
        ("values: 0", "values must list patterns as NAME: VALUE, got 0"),
        ("weights: [[a, int8]]", r"weights must list patterns as NAME: VALUE, got \['a', 'int8'\]"),
        ("weights: {a: [int8]}", r"the grid of a must be a non-empty string, got \['int8'\]"),
        ("weights: {a: 4}", "the grid of a must be a non-empty string, got 4"),
        ("values: {a: 1e-5}", "a cannot have 1e-05 bits"),
        ("values: {a: 8.0}", r"a cannot have 8\.0 bits"),
        ("values: {a: 8e0}", "a cannot have 8.0 bits"),
        ("values: {a: yes}", "a cannot have True bits"),
        ("values: {a: '8'}", "a cannot have '8' bits"),
        ("values: {a: .nan}", "a cannot have nan bits"),
        ("values: {a: {}}", "a cannot have {} bits"),
        ("values: {1: 8}", "a name of layer_bits must be a non-empty string, got 1"),
        ("values: {a: " + "9" * 1000 + "}", "a cannot have 9+ … 9+ bits"),
        ("values: {a: " + "9" * 5000 + "}", "a number has 5000 digits"),
        ("values: {a: 2001-19-45}", "a cannot have '2001-19-45' bits"),
        ("logit_bits: 1e1", "logit_bits must be a whole number from 8 to 16, got 10.0"),
        ("logit_bits: [8]", r"logit_bits must be a whole number from 8 to 16, got \[8\]"),
        ("logit_bits: 4", "logit_bits must be a whole number from 8 to 16, got 4"),
        ("weights: &a {b: int8}\nvalues: *a", "b cannot have 'int8' bits"),
        ("- &a [x]\n" + BOMB + "- *m", "it unfolds into too many values"),
        ("&a [*a]", "the alias 'a' names nothing that ended before"),
        ("[" * 100_000, "line 1: it is nested too deeply"),
        ("\n".join(" " * i + "a:" for i in range(2000)), "line 101: it is nested too deeply"),
        ("{}\n---\n{}", "line 2: a second document begins"),
        ("? [a]\n: b", "line 1: a key is a list or a mapping"),
        ("!!python/object/apply:os.system [x]", "line 1: the tag .* is not read"),
        ("weights: {a: int8", "line 2: is not YAML"),
        ("weights: {'\x01': int8}", "is not YAML"),
        ('weights: {"\\e[2J": 3}', r"the grid of \\x1b\[2J must be"),
        ('values: {"\\e[2J": 3, a: 99}', "a cannot have 99 bits"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(source: str, problem: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=problem) as caught:
        read_plan(source, "plan.yaml")
    assert caught.value.where == "plan.yaml"
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert time.perf_counter() - start < 2


def test_a_plan_is_a_regular_file_of_text(tmp_path: Path) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_bytes(b"\xef\xbb\xbfweights: {'*': logistic4}")
    assert QuantSpec.parse_bits(str(plan)).weight_bits == 4
    plan.write_bytes("weights: {'ü': int4}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"plan\.yaml: is not UTF-8 \(byte 12\)"):
        QuantSpec.parse_bits(str(plan))
    plan.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(ConfigError, match="is larger than the 1048576 bytes"):
        QuantSpec.parse_bits(str(plan))
    plan.unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        QuantSpec.parse_bits(str(plan))
    os.mkfifo(plan)
    with pytest.raises(ConfigError, match="is a pipe"):
        QuantSpec.parse_bits(str(plan))


def test_numbers_beyond_all_floats_are_refused() -> None:
    for value in (10**400, -(10**400), 10**6000):
        with pytest.raises(ConfigError, match="max_seconds must be a finite number") as caught:
            QuantSpec(max_seconds=value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize("channel", [-1, 1024, True, 1.5, "left", "0", [0]])
def test_channels_are_numbers_or_average(channel: object) -> None:
    with pytest.raises(ConfigError, match="channel"):
        CalibrationSpec("speech", channel=channel)


def test_a_channel_is_of_recordings() -> None:
    for channel in (0, "average"):
        spec = CalibrationSpec("recordings", channel=channel)
        assert CalibrationSpec.from_dict(spec.to_dict()) == spec
    assert "channel" not in CalibrationSpec("recordings").to_dict()
    with pytest.raises(ConfigError, match="channel 0 is of recordings, the source is 'auto'"):
        CalibrationSpec(channel=0)
    with pytest.raises(ConfigError, match="channel 'average' is of recordings, the source is 'speech'"):
        CalibrationSpec("speech", channel="average")
