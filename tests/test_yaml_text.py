from __future__ import annotations

import itertools
import math
import time

import pytest

from zeroq_asr.config import yaml_text
from zeroq_asr.config.yaml_text import MAX_BYTES, read_yaml
from zeroq_asr.errors import CheckpointError, ConfigError


def read(text: str | bytes) -> object:
    return read_yaml(text, "file.yaml", CheckpointError)


@pytest.mark.parametrize("python", [False, True], ids=["libyaml", "PyYAML"])
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-2.5e-3", -2.5e-3),
        (".5", 0.5),
        ("1_000", 1000),
        ("010", 8),
        ("0x1F", 31),
        ("0b11", 3),
        ("1:30", 90),
        ("-.inf", -math.inf),
        ("Yes", True),
        ("off", False),
        ("y", "y"),
        ("2001-01-01", "2001-01-01"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("???", "???"),
        ("[1, {a: 2}]", [1, {"a": 2}]),
        ("a: &x {b: 1, c: 3}\nd: {<<: *x, b: 2}", {"a": {"b": 1, "c": 3}, "d": {"b": 2, "c": 3}}),
        ("- &x [1]\n- *x", [[1], [1]]),
        ("a: ${b.c}", {"a": "${b.c}"}),
    ],
)
def test_values_are_those_of_omegaconf(
    text: str, value: object, python: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if python:
        monkeypatch.setattr(yaml_text, "_LOADER", yaml_text.yaml.SafeLoader)
    found = read(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("x: {1: 2, 1: 3}", "line 1: the key 1 stands twice"),
        ("a: [", "is not YAML"),
        ("a: b: c", "line 1: is not YAML"),
        ("--- 1\n--- 2", "line 2: a second document"),
        ("!!python/object/apply:os.system [ls]", "the tag .*python/object.* is not read"),
        ("!!int x", "'x' is no int"),
        ("&a [*a]", "the alias 'a' names nothing"),
        ("? [a]\n: b", "a key is a list or a mapping"),
        ("<<: 3", "<< must name a mapping"),
        ("[" * 5000, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("9" * 5000, "a number has 5000 digits"),
        ("#" * (MAX_BYTES + 1), "is larger than"),
        ("\ud800", "it is no text"),
        ("a: \x00", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
        (b"\x80abc", "is not YAML"),
        ("!" * 100_000 + "a", "the tag"),
    ],
    ids=range(19),
)
def test_what_is_refused_is_said_on_a_short_line(text: str | bytes, problem: str) -> None:
    with pytest.raises(CheckpointError, match=problem) as caught:
        read(text)
    assert str(caught.value).startswith("file.yaml: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_aliases_that_unfold_without_end_are_refused_at_once() -> None:
    names = "abcdefghij"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]" for before, name in itertools.pairwise(names)
    ]
    began = time.monotonic()
    with pytest.raises(ConfigError, match="unfolds into too many values"):
        read_yaml("\n".join(lines), "plan.yaml", ConfigError)
    assert time.monotonic() - began < 1
