"""The recipe of the model that comes with the package: text, voices, rooms, features, training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import zeroq_asr as zq

RECIPE = Path(__file__).parents[1] / "examples" / "train_demo"
NAMES = ("recipe", "books", "voices", "speech", "train", "clips")
MODELS = ("quartznet", "conformer")


@pytest.fixture(scope="module")
def demo() -> Iterator[SimpleNamespace]:
    """The modules of the recipe, which import each other by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(RECIPE))
        modules: dict[str, ModuleType] = {name: __import__(name) for name in NAMES}
        yield SimpleNamespace(**modules)
    for name in NAMES:
        sys.modules.pop(name)


BOOK = [
    "CHAPTER I",
    "",
    "It is a truth, acknowledged by Mr. Bennet's friends, that a single man must be in want of a wife.",
    'However little known the feelings of such a man may be--"My dear Mr. Bennet," said his lady to him',
    "one day, _have_ you heard that the park is let at last?",
]


def test_books_become_chunks(demo: SimpleNamespace) -> None:
    found = demo.books.sentences(BOOK)
    assert found[0].endswith("want of a wife.")
    assert len(found) == 2
    clauses = demo.books.clauses(found[1])
    assert ["my", "dear", "mr", "bennet"] in clauses
    assert ["have", "you", "heard", "that", "the", "park", "is", "let", "at", "last"] in clauses
    generator = np.random.default_rng(0)
    for clause in clauses:
        for chunk in demo.books.chunks(clause, generator):
            assert demo.books.SHORTEST <= len(chunk) <= demo.books.LONGEST


def test_no_text_is_both_learnt_and_held_out(demo: SimpleNamespace) -> None:
    words = [
        "the",
        "quick",
        "brown",
        "fox",
        "and",
        "a",
        "lazy",
        "dog",
        "went",
        "over",
        "some",
        "very",
        "green",
        "hills",
        "near",
        "town",
    ]
    generator = np.random.default_rng(1)
    lines = [" ".join(generator.choice(words, 9)) + "." for _ in range(2000)]
    training, held_out = demo.books.split({"a book": [*lines, *lines[:200]]}, seed=0)
    assert not set(training) & set(held_out)
    assert len(held_out) > 10
    assert len(training) > 10 * len(held_out)
    assert (training, held_out) == demo.books.split({"a book": [*lines, *lines[:200]]}, seed=0)


def test_voices_are_apart(demo: SimpleNamespace, tmp_path: Path) -> None:
    voices = demo.voices
    assert not set(voices.HELD_OUT) & set(voices.NAMED)
    (tmp_path / "data" / "voices" / "!v").mkdir(parents=True)
    names = voices.write_variants(tmp_path / "data", tmp_path / "copy", 5, seed=0)
    folder = tmp_path / "copy" / "espeak-ng-data" / "voices" / "!v"
    texts = [(folder / name).read_text() for name in names]
    assert len(set(texts)) == 5
    assert all(text.startswith("language variant\n") and "\nformant 8 " in text for text in texts)
    drawn = [voices.draw(names, voices.NAMED, 0.5, np.random.default_rng(i)) for i in range(200)]
    assert {v.variant for v in drawn} & set(names)
    assert {v.variant for v in drawn} & set(voices.NAMED)
    assert not {v.variant for v in drawn} & set(voices.HELD_OUT)
    assert "-v" in drawn[0].arguments


def test_speech_is_cut_resampled_and_disturbed(
    demo: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tone = np.sin(np.arange(22050) * 0.2)
    tone[:4000] = tone[-4000:] = 0
    soundfile.write(tmp_path / "tone.wav", tone, 22050, "PCM_16")
    broken = bytearray((tmp_path / "tone.wav").read_bytes())
    broken[4:8] = broken[40:44] = b"\xff\xff\xff\x7f"  # as espeak-ng leaves them in a pipe
    monkeypatch.setattr(
        subprocess, "run", lambda command, **_: SimpleNamespace(stdout=bytes(broken), command=command)
    )
    voice = demo.voices.Voice("en-us", "f1", 160, 50, 1, 1.1)
    wave = demo.speech.speak("hello", voice, tmp_path)
    assert len(wave) == pytest.approx((22050 - 8000) / 22050 / 1.1 * 16000, abs=100)
    for seed in range(8):
        disturbed = demo.speech.disturb(wave, np.random.default_rng(seed))
        assert disturbed.dtype == np.float32
        assert len(wave) < len(disturbed) < len(wave) + 2 * 5600
        assert 0.03 <= np.abs(disturbed).max() <= 0.9
    same = [demo.speech.disturb(wave, np.random.default_rng(3)) for _ in range(2)]
    np.testing.assert_array_equal(*same)


@pytest.fixture
def folder(demo: SimpleNamespace, tmp_path: Path) -> Path:
    """Forty utterances of noise as `prepare.py` writes them."""
    generator = np.random.default_rng(0)
    rows = [{"text": "ab cd", "frames": int(n)} for n in generator.integers(40, 90, 40)]
    (tmp_path / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    frames = sum(row["frames"] for row in rows)
    np.save(tmp_path / "features.npy", generator.standard_normal((frames, 64)).astype(np.float16))
    return tmp_path


def test_batches_hold_every_utterance_once(demo: SimpleNamespace, folder: Path) -> None:
    speech = demo.train.Speech(folder)
    batches = list(speech.epoch(4.0, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches)) == list(range(40))
    for rows in batches:
        features, lengths = speech.batch(rows)
        assert features.shape == (len(rows), 64, int(lengths.max()))
        assert features.numel() / 64 <= 1.1 * 4.0 * demo.recipe.FRONTEND.frames_per_second
        row, start = rows[0], speech.starts[rows[0]]
        kept = features[0, :, : lengths[0]].numpy().T
        np.testing.assert_array_equal(kept, speech.features[start : start + speech.frames[row]])
        assert not features[0, :, lengths[0] :].any()
    ids, sizes = speech.targets(np.array([0, 1]))
    assert ids.tolist() == [1, 2, 0, 3, 4] * 2
    assert sizes.tolist() == [5, 5]


def test_augmentation_keeps_the_shape_and_masks(demo: SimpleNamespace) -> None:
    lengths = torch.tensor([100, 60])
    features = torch.ones(2, 64, 100)
    found = demo.train.augment(features.clone(), lengths, np.random.default_rng(0))
    assert found.shape == features.shape
    assert 0 < (found == 0).float().mean() < 0.6
    assert found.max() <= 1 + 1e-6


def test_the_learning_rate_is_one_cycle(demo: SimpleNamespace) -> None:
    rates = [demo.train.learning_rate(share, 1.0) for share in np.linspace(0, 1, 101)]
    assert max(rates) == rates[10] == 1.0
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0)


@pytest.mark.parametrize("kind", MODELS)
def test_training_ends_on_time_and_writes_a_checkpoint(
    demo: SimpleNamespace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    for name in ("training", "held-out"):
        (tmp_path / "work" / name).mkdir(parents=True)
        for file in ("utterances.jsonl", "features.npy"):
            (tmp_path / "work" / name / file).write_bytes((folder / file).read_bytes())
    arguments = ["--work", str(tmp_path / "work"), "--model", kind, "--minutes", "0.02"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments, "--batch-seconds", "3"])
    demo.train.main()
    path = tmp_path / "work" / f"{kind}.pt"
    model = zq.load_checkpoint(path)
    assert model.config == demo.recipe.MODELS[kind].config
    assert next(model.network.parameters()).dtype == torch.float32
    assert path.stat().st_size < 4_000_000


def test_a_pause_does_not_count(
    demo: SimpleNamespace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("training", "held-out"):
        (tmp_path / name).symlink_to(folder)
    # one step a second, and an hour's pause after the first
    clock = iter([0.0, 1.0, *np.arange(3601.0, 3700.0)])
    monkeypatch.setattr(demo.train, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shares: list[float] = []

    def rate(share: float, peak: float) -> float:
        shares.append(share)
        return peak

    monkeypatch.setattr(demo.train, "learning_rate", rate)
    arguments = ["--work", str(tmp_path), "--minutes", "0.5", "--batch-seconds", "3"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    demo.train.main()
    passed = [1, *range(1 + demo.train._LONGEST_STEP, 30)]
    assert sorted(set(shares)) == pytest.approx([seconds / 30 for seconds in passed])


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_spells_fast_speech(demo: SimpleNamespace, kind: str) -> None:
    model = demo.recipe.model(kind)
    assert sum(p.numel() for p in model.network.parameters()) < 1_900_000
    assert not model.network.training
    frames_per_second = model.frontend.frames_per_second / model.subsampling_factor
    for row in map(json.loads, zq.embedded_files().test.read_text().splitlines()):
        assert row["duration"] * frames_per_second > 2 * len(row["text"])


def test_clips_are_the_first_of_the_held_out_ones(
    demo: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, output = tmp_path / "work", tmp_path / "output"
    (work / "held-out").mkdir(parents=True)
    rows = [{"audio_filepath": f"{n}.flac", "duration": 1.0, "text": f"text {n}"} for n in range(80)]
    (work / "held-out" / "utterances.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in rows:
        (work / "held-out" / str(row["audio_filepath"])).write_bytes(b"a clip")
    for kind in (*MODELS, "transducer"):
        (work / f"{kind}.pt").write_text(kind)
    (work / "pieces.arpa.gz").write_bytes(b"n-grams")
    (work / "demo-hubert").mkdir()
    (work / "demo-hubert" / "config.json").write_text("hubert")
    monkeypatch.setattr(sys, "argv", ["clips.py", "--work", str(work), "--output", str(output)])
    demo.clips.main()
    assert (output / "model.pt").read_text() == "quartznet"
    assert (output / "conformer.pt").read_text() == "conformer"
    assert (output / "transducer.pt").read_text() == "transducer"
    assert (output / "pieces.arpa.gz").read_bytes() == b"n-grams"
    assert (output / "hubert" / "config.json").read_text() == "hubert"
    test, calibration = (zq.read_manifest(output / f"{name}.jsonl") for name in ("test", "calibration"))
    assert len(test) == 60
    assert [u.text for u in (*test, *calibration)] == [f"text {n}" for n in range(72)]


def test_what_ships_is_of_this_recipe(demo: SimpleNamespace) -> None:
    recipe, shipped = demo.recipe.model("quartznet"), zq.embedded_model()
    assert shipped.config == recipe.config
    assert shipped.frontend == recipe.frontend
    assert shipped.tokenizer == recipe.tokenizer
