from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from zeroq_asr.errors import ManifestError, ZeroqWarning
from zeroq_asr.speech.manifest import Utterance, read_manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.flac", "a.wav", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


def _manifest(folder: Path, *lines: str | bytes | dict) -> Path:
    path = folder / "list.jsonl"
    encoded = [
        line if isinstance(line, bytes) else (json.dumps(line) if isinstance(line, dict) else line).encode()
        for line in lines
    ]
    path.write_bytes(b"\n".join(encoded))
    return path


def test_json_lines(folder: Path) -> None:
    path = _manifest(
        folder,
        {"audio_filepath": "b.flac", "duration": 2, "text": "héllo\u2028x", "speaker": 3},
        "",
        {"audio_filepath": str(folder / "a.wav"), "duration": None, "text": ""},
        "",
    )
    assert read_manifest(path) == [
        Utterance(folder / "b.flac", 2.0, "héllo\u2028x"),
        Utterance(folder / "a.wav", None, ""),
    ]


def test_segments_and_channels(folder: Path) -> None:
    path = _manifest(
        folder,
        {"audio_filepath": "a.wav", "offset": 1.5, "duration": 2, "text": "a"},
        {"audio_filepath": "a.wav", "offset": 3.5, "duration": 0, "channel_selector": 1},
        {"audio_filename": "b.flac", "offset": None, "start": None, "channel_selector": "average"},
    )
    assert read_manifest(path, channel=2) == [
        Utterance(folder / "a.wav", 2.0, "a", offset=1.5, channel=2),
        Utterance(folder / "a.wav", None, None, offset=3.5, channel=1),
        Utterance(folder / "b.flac", None, None, channel="average"),
    ]
    assert [u.name.removeprefix(str(folder)) for u in read_manifest(path)] == [
        "/a.wav from 1.5 s to 3.5 s",
        "/a.wav from 3.5 s",
        "/b.flac",
    ]


def test_texts_beside_the_list(folder: Path) -> None:
    (folder / "said.txt").write_text("\ufeffone\ntwo", encoding="utf-8")
    path = _manifest(
        folder,
        {"audio_filepath": "a.wav", "text_filepath": "said.txt", "normalized_text": "no"},
        {"audio_filepath": "a.wav", "text": None, "normalized_text": "yes"},
    )
    assert [u.text for u in read_manifest(path)] == ["one\ntwo", "yes"]


def test_keys_that_are_not_read_are_said_once(folder: Path) -> None:
    rows = [{"audio_filepath": "a.wav", "speaker": 1, "target_text": "x", "\x1b[2J": 0} for _ in range(3)]
    path = _manifest(folder, *rows)
    with pytest.warns(ZeroqWarning, match=r"keys that are not read: 'target_text', '\\x1b\[2J'; ") as caught:
        assert len(read_manifest(path)) == 3
    assert len(caught) == 1


def test_a_list_is_a_regular_file(folder: Path) -> None:
    with pytest.raises(ManifestError, match="is a pipe"):
        read_manifest(folder / "pipe")


def test_byte_order_mark_and_carriage_returns(folder: Path) -> None:
    path = _manifest(folder, b'\xef\xbb\xbf{"audio_filepath": "a.wav"}\r', b'{"audio_filepath": "b.flac"}\r')
    assert [u.audio_path.name for u in read_manifest(path)] == ["a.wav", "b.flac"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{not json", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('["a.wav"]', "not a JSON object but a list"),
        ("3", "not a JSON object but a int"),
        ({"text": "a"}, "no audio_filepath"),
        ({"audio_filepath": 5}, "non-empty string"),
        ({"audio_filepath": ""}, "non-empty string"),
        ({"audio_filepath": "missing.wav"}, "does not exist"),
        ({"audio_filepath": "a\0.wav"}, "does not exist"),
        ({"audio_filepath": "a" * 5000}, "does not exist"),
        ({"audio_filepath": "."}, "is no regular file"),
        ({"audio_filepath": "pipe"}, "is no regular file"),
        ({"audio_filepath": "a.wav", "audio_filename": "b.flac"}, "both audio_filepath and audio_filename"),
        ('{"audio_filepath": "a.wav", "audio_filepath": "b.flac"}', "key 'audio_filepath' twice"),
        ({"audio_filepath": "a.wav", "offset": "1"}, "offset must be a number of seconds"),
        ({"audio_filepath": "a.wav", "offset": -0.5}, "offset must be a number of seconds"),
        ({"audio_filepath": "a.wav", "offset": True}, "offset must be a number of seconds"),
        ({"audio_filepath": "a.wav", "offset": [1]}, "offset must be a number of seconds"),
        ('{"audio_filepath": "a.wav", "offset": NaN}', "offset must be a number of seconds, .* got nan"),
        ('{"audio_filepath": "a.wav", "offset": 1e400}', "offset must be a number of seconds, .* got inf"),
        ({"audio_filepath": "a.wav", "start": 1.5}, "the key start changes what is heard.*offset, duration"),
        ({"audio_filepath": "a.wav", "channel": 1}, "the key channel changes .*channel_selector"),
        ({"audio_filepath": "a.wav", "speed": 1.1}, "the key speed changes"),
        ({"audio_filepath": "a.wav", "channel_selector": [0, 1]}, "channel_selector must be a number from 0"),
        ({"audio_filepath": "a.wav", "channel_selector": True}, "channel_selector must be a number from 0"),
        ({"audio_filepath": "a.wav", "channel_selector": -1}, "channel_selector must be a number from 0"),
        ({"audio_filepath": "a.wav", "text_filepath": "none.txt"}, "its text_filepath .* no such file"),
        ({"audio_filepath": "a.wav", "text_filepath": 3}, "text_filepath must be a non-empty string"),
        ({"audio_filepath": "a.wav", "text_filepath": "latin.txt"}, "latin.txt is not UTF-8"),
        ({"audio_filepath": "a.wav", "normalized_text": 3}, "normalized_text must be a string"),
        ({"audio_filepath": "a.wav", "text": 5}, "text must be a string"),
        ({"audio_filepath": "a.wav", "text": ["a"]}, "text must be a string"),
        ({"audio_filepath": "a.wav", "duration": "1"}, "duration"),
        ({"audio_filepath": "a.wav", "duration": -1}, "duration"),
        ({"audio_filepath": "a.wav", "duration": True}, "duration"),
        ('{"audio_filepath": "a.wav", "duration": NaN}', "duration"),
        ('{"audio_filepath": "a.wav", "duration": 1' + "0" * 400 + "}", "duration"),
        (b'{"audio_filepath": "\xff"}', "is not UTF-8"),
        (b'{"audio_filepath": "a.wav", "text": "\\ud800"}', "no Unicode"),
    ],
)
def test_wrong_line_is_named(folder: Path, line: str | bytes | dict, problem: str) -> None:
    path = _manifest(folder, {"audio_filepath": "a.wav"}, "", line)
    with pytest.raises(ManifestError, match=problem) as caught:
        read_manifest(path)
    assert caught.value.where == f"{path}:3"
    assert "\n" not in str(caught.value)


def test_empty_and_missing(folder: Path) -> None:
    with pytest.raises(ManifestError, match="lists no recordings"):
        read_manifest(_manifest(folder, "", "  "))
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(folder / "none.jsonl")
    (folder / "empty").mkdir()
    with pytest.raises(ManifestError, match="lists no recordings"):
        read_manifest(folder / "empty")


def test_folder_of_audio(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "c.FLAC").write_bytes(b"")
    assert [u.audio_path.name for u in read_manifest(folder)] == ["a.wav", "b.flac", "c.FLAC"]


def test_folder_with_a_manifest(folder: Path) -> None:
    (folder / "manifest.jsonl").write_text('{"audio_filepath": "b.flac", "text": "b"}')
    assert read_manifest(folder) == [Utterance(folder / "b.flac", None, "b")]


def test_librispeech_tree(tmp_path: Path) -> None:
    chapter = tmp_path / "84" / "121"
    chapter.mkdir(parents=True)
    (chapter / "84-121.trans.txt").write_text("84-121-0000 GO DO YOU HEAR\n84-121-0001\n")
    (chapter / "84-121-0000.flac").write_bytes(b"")
    with pytest.raises(ManifestError, match=r"84-121-0001\.flac does not exist") as caught:
        read_manifest(tmp_path)
    assert caught.value.where.endswith("84-121.trans.txt:2")
    (chapter / "84-121-0001.flac").write_bytes(b"")
    utterances = read_manifest(tmp_path)
    assert [u.text for u in utterances] == ["GO DO YOU HEAR", ""]
    assert utterances[0].audio_path == chapter / "84-121-0000.flac"


def test_real_manifest(test_data: Path) -> None:
    utterances = read_manifest(test_data / "speech" / "librispeech-test-other")
    assert len(utterances) == 50
    assert all(u.text and u.duration for u in utterances)
