"""The model and the clips that come with the package."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

import zeroq_asr as zq


def test_what_ships_is_small_enough() -> None:
    files = zq.embedded_files()
    assert files.model.stat().st_size <= 4_000_000
    assert files.conformer.stat().st_size <= 4_000_000
    assert files.transducer.stat().st_size <= 4_000_000
    assert files.grams.stat().st_size <= 300_000
    assert sum(file.stat().st_size for file in files.hubert.iterdir()) <= 4_000_000
    clips = list((files.folder / "clips").iterdir())
    assert sum(clip.stat().st_size for clip in clips) <= 3_000_000
    model = zq.embedded_model()
    assert sum(p.numel() for p in model.network.parameters()) <= 2_000_000


def test_clips_are_all_there_and_none_is_in_both_manifests() -> None:
    files = zq.embedded_files()
    test, calibration = zq.read_manifest(files.test), zq.read_manifest(files.calibration)
    assert len(test) == 60
    assert len(calibration) == 12
    names = [Path(u.audio_path).name for u in (*test, *calibration)]
    assert sorted(names) == sorted(clip.name for clip in (files.folder / "clips").iterdir())
    assert not {u.text for u in test} & {u.text for u in calibration}


def test_it_reads_what_it_never_heard() -> None:
    recognizer = zq.TorchRecognizer(zq.embedded_model())
    result = zq.evaluate(recognizer, zq.read_manifest(zq.embedded_files().test))
    assert result.words.rate is not None
    assert result.words.rate <= 0.25


def test_attention_keeps_its_words_without_data(tmp_path: Path) -> None:
    files = zq.embedded_files()
    model = zq.load_checkpoint(files.conformer)
    test = zq.read_manifest(files.test)
    exact = zq.evaluate(zq.TorchRecognizer(model), test)
    assert exact.words.rate is not None
    assert exact.words.rate <= 0.12
    made = zq.quantize(model, tmp_path / "conformer.onnx", synthesis=zq.SynthesisSpec.preset("fast"))
    assert made.exported.backend.spellings["attention"] == {"attention in exact floats": 6}
    certificate = zq.verify(tmp_path / "conformer.onnx")
    assert certificate.dialect == "fused"
    found = zq.evaluate(zq.OnnxRecognizer(tmp_path / "conformer.onnx"), test)
    assert found.words.rate is not None
    # one point is three words here
    assert found.words.rate <= exact.words.rate + 0.02


def test_waveforms_keep_their_words_without_data_or_statistics(tmp_path: Path) -> None:
    files = zq.embedded_files()
    model = zq.load_checkpoint(files.hubert)
    test = zq.read_manifest(files.test)
    exact = zq.evaluate(zq.TorchRecognizer(model), test)
    assert exact.words.rate is not None
    assert exact.words.rate <= 0.30
    made = zq.quantize(model, tmp_path / "hubert.onnx")
    assert made.deployment.recipe["calibration"]["source"] == "speech"
    zq.verify(tmp_path / "hubert.onnx")
    found = zq.evaluate(zq.OnnxRecognizer(tmp_path / "hubert.onnx"), test)
    assert found.words.rate is not None
    # one point is three words here
    assert found.words.rate <= exact.words.rate + 0.02


def test_a_transducer_says_what_it_never_heard() -> None:
    model = zq.embedded_model("transducer")
    assert isinstance(model, zq.TransducerModel)
    result = zq.evaluate(zq.TransducerRecognizer(model), zq.read_manifest(zq.embedded_files().test))
    assert result.words.rate is not None
    assert result.words.rate <= 0.15


def test_ngrams_are_of_the_transducers_pieces() -> None:
    text = gzip.decompress(zq.embedded_files().grams.read_bytes()).decode()
    start = text.index("\\1-grams:\n") + len("\\1-grams:\n")
    words = [line.split("\t")[1] for line in text[start : text.index("\n\n", start)].splitlines()]
    tokens = zq.embedded_model("transducer").tokenizer.tokens
    assert sorted(words) == sorted((*tokens, "<s>", "</s>"))


def test_models_by_name() -> None:
    files = zq.embedded_files()
    assert zq.embedded_model().name == zq.embedded_model("quartznet").name == "demo"
    assert zq.embedded_model("conformer").name == zq.load_checkpoint(files.conformer).name
    assert zq.embedded_model("hubert").frontend.is_waveform
    assert zq.embedded_model("transducer").name == "demo-transducer"
    with pytest.raises(zq.ConfigError, match="unknown name 'whisper'; use one of quartznet, conformer, hub"):
        zq.embedded_model("whisper")


def test_a_copy_has_all_files(tmp_path: Path) -> None:
    files = zq.copy_embedded(tmp_path / "a" / "demo")
    assert zq.load_checkpoint(files.model).name == "demo"
    assert zq.load_checkpoint(files.hubert).frontend.is_waveform
    assert zq.load_model(files.transducer).name == "demo-transducer"
    assert len(zq.read_manifest(files.test)) == 60
    assert all(Path(u.audio_path).is_file() for u in zq.read_manifest(files.calibration))
    # once more over the old one
    zq.copy_embedded(tmp_path / "a" / "demo")


def test_a_file_of_the_users_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"months of training")
    with pytest.raises(zq.ConfigError, match=r"model\.pt: is there already, and another file"):
        zq.copy_embedded(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
    assert (tmp_path / "model.pt").read_bytes() == b"months of training"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(zq.ConfigError, match="choose another folder"):
        zq.copy_embedded(tmp_path / "file" / "demo")
