from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from zeroq_asr.checkpoints import load_checkpoint
from zeroq_asr.checkpoints.archive import Files
from zeroq_asr.checkpoints.nemo import check_filterbank, parse_config
from zeroq_asr.errors import CheckpointError, ZeroqWarning
from zeroq_asr.speech.frontend_config import FrontendConfig
from zeroq_asr.speech.mel import mel_filterbank

Config = dict[str, Any]
State = dict[str, torch.Tensor]
Write = Callable[..., Path]
NONE = Files("x", {})
WEIGHT = "encoder.encoder.0.mconv.0.conv.weight"


@pytest.mark.parametrize("options", [{}, {"prefix": ""}, {"zipped": True}, {"name": "renamed.bin"}])
def test_reads_an_archive(
    write_nemo: Write, conv_config: Config, conv_state: State, options: dict[str, Any]
) -> None:
    model = load_checkpoint(write_nemo(conv_config, conv_state, **options))
    assert model.name == options.get("name", "small.nemo").split(".")[0]
    assert model.architecture == "conv_ctc"
    assert model.subsampling_factor == 2
    assert model.frontend == FrontendConfig(features=16, n_fft=512)
    assert model.tokenizer.kind == "characters"
    assert model.tokenizer.blank_id == 28
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.network.parameters())
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, conv_state[name], atol=0, rtol=0)
    logits, lengths = model.network(*model.example_input())
    assert logits.shape == (2, 32, 29)
    assert lengths.tolist() == [32, 24]


def test_half_precision_becomes_float32(write_nemo: Write, conv_config: Config, conv_state: State) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in conv_state.items()}
    half["decoder.decoder_layers.0.bias"] = conv_state["decoder.decoder_layers.0.bias"].bfloat16()
    network = load_checkpoint(write_nemo(conv_config, half)).network
    assert {t.dtype for t in network.parameters()} == {torch.float32}


def test_old_checkpoints_have_no_step_counters(
    write_nemo: Write, conv_config: Config, conv_state: State
) -> None:
    old = {k: v for k, v in conv_state.items() if not k.endswith("num_batches_tracked")}
    load_checkpoint(write_nemo(conv_config, old))


def broken(state: State, change: str) -> tuple[State, str]:
    """Return a damaged copy of ``state`` and what the error must name."""
    state = dict(state)
    match change:
        case "missing":
            del state[WEIGHT]
            return state, f"1 weights are missing: {WEIGHT}"
        case "surplus":
            state["encoder.encoder.9.mconv.0.conv.weight"] = torch.zeros(1)
            return state, "1 weights are surplus: encoder.encoder.9"
        case "shape":
            state[WEIGHT] = torch.zeros(16, 1, 7)
            return state, rf"wrong shape: {WEIGHT} \[16, 1, 7\] instead of \[16, 1, 5\]"
        case "integers":
            state[WEIGHT] = torch.zeros(16, 1, 5, dtype=torch.int8)
            return state, f"wrong type: {WEIGHT} torch.int8"
        case "complex":
            state[WEIGHT] = torch.zeros(16, 1, 5, dtype=torch.complex64)
            return state, "wrong type"
        case "sparse":
            state[WEIGHT] = torch.zeros(16, 1, 5).to_sparse()
            return state, "not dense"
        case "nan":
            state[WEIGHT] = torch.full((16, 1, 5), torch.nan)
            return state, f"NaN or infinity: {WEIGHT}"
        case "overflow":
            state[WEIGHT] = torch.full((16, 1, 5), 1e300, dtype=torch.float64)
            return state, f"NaN or infinity: {WEIGHT}"
        case "variance":
            state["encoder.encoder.0.mconv.2.running_var"] = torch.full((8,), -1.0)
            return state, "variances are negative: encoder.encoder.0.mconv.2.running_var"
    raise AssertionError(change)


@pytest.mark.parametrize(
    "change", ["missing", "surplus", "shape", "integers", "complex", "sparse", "nan", "overflow", "variance"]
)
def test_weights_that_do_not_fit_are_named(
    write_nemo: Write, conv_config: Config, conv_state: State, change: str
) -> None:
    state, message = broken(conv_state, change)
    path = write_nemo(conv_config, state)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert caught.value.where == str(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [[torch.zeros(1)], {"a": [1]}, {}, {1: torch.zeros(1)}, "text"])
def test_what_is_no_state_dict_is_refused(write_nemo: Write, conv_config: Config, state: object) -> None:
    with pytest.raises(CheckpointError, match="state dict"):
        load_checkpoint(write_nemo(conv_config, state))


@pytest.mark.parametrize("text", [b"encoder: [", b"\xff\xfe\x00", b"just text", b"- a\n- b", b"[" * 5000])
def test_what_is_no_yaml_mapping_is_refused(write_nemo: Write, conv_state: State, text: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"model_config\.yaml: ") as caught:
        load_checkpoint(write_nemo(text, conv_state))
    assert "\n" not in str(caught.value)


def test_yaml_cannot_build_objects(write_nemo: Write, conv_state: State, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    text = f"encoder: !!python/object/apply:os.system ['touch {marker}']".encode()
    with pytest.raises(CheckpointError, match=r"the tag .* is not read"):
        load_checkpoint(write_nemo(text, conv_state))
    assert not marker.exists()


def _bomb() -> list[Any]:
    """Lists that share what they hold, as YAML's aliases do: nine levels of nine."""
    value: list[Any] = ["lol"]
    for _ in range(9):
        value = [value] * 9
    return value


CHANGES: dict[str, tuple[Callable[[Config], object], str]] = {
    "no encoder": (lambda c: c.pop("encoder"), "no encoder section"),
    "no preprocessor": (lambda c: c.pop("preprocessor"), "no preprocessor section"),
    "squeezeformer": (
        lambda c: c["encoder"].update(_target_="nemo.collections.asr.modules.SqueezeformerEncoder"),
        "SqueezeformerEncoder with ConvASRDecoder is not supported; supported: ConvASREncoder",
    ),
    "conformer": (
        lambda c: c["encoder"].update(_target_="nemo.collections.asr.modules.ConformerEncoder"),
        r"encoder\.d_model: is missing",
    ),
    "parallel": (
        lambda c: c["encoder"].update(_target_="nemo.collections.asr.modules.ParallelConvASREncoder"),
        "ParallelConvASREncoder with ConvASRDecoder is not supported",
    ),
    "unnamed": (lambda c: c["encoder"].pop("_target_"), "an unnamed class"),
    "mfcc": (
        lambda c: c["preprocessor"].update(_target_="nemo.AudioToMFCCPreprocessor"),
        "AudioToMFCCPreprocessor is not supported",
    ),
    "unknown option": (
        lambda c: c["preprocessor"].update(loudness=1),
        r"preprocessor\.loudness: is an unknown option",
    ),
    "bad option": (
        lambda c: c["preprocessor"].update(n_fft="many"),
        r"preprocessor\.n_fft: must be a whole number .* got 'many'",
    ),
    "mels": (lambda c: c["encoder"].update(feat_in=17), "feat_in is 17, the preprocessor makes 16"),
    "classes": (
        lambda c: c["decoder"].update(num_classes=30),
        r"decoder\.num_classes: is 30, the tokenizer has 28 tokens",
    ),
    "vocabulary": (lambda c: c["decoder"].pop("vocabulary"), "token list is empty"),
    "a token twice": (
        lambda c: c["decoder"].update(vocabulary=["a"] * 28),
        r"decoder\.vocabulary\[1\]: 'a' is a token already",
    ),
    "another rate": (
        lambda c: c.update(sample_rate=8000),
        "sample_rate: is 8000, that of the preprocessor is 16000",
    ),
    "activation": (
        lambda c: c["encoder"].update(activation="mish"),
        r"encoder\.activation: 'mish' is not supported; supported: relu",
    ),
    "reference": (lambda c: c["encoder"].update(feat_in="${a.b}"), "'a.b', which is missing"),
    "unfolding without end": (lambda c: c["encoder"].update(more=_bomb()), "unfolds into too many values"),
    "window of text": (
        lambda c: c["preprocessor"].update(n_window_size="abc"),
        r"preprocessor\.n_window_size: must be",
    ),
    "window of years": (
        lambda c: c["preprocessor"].update(window_size=1e308),
        r"preprocessor\.window_size: must be a number from 0 to 10",
    ),
    "rate without end": (
        lambda c: c["preprocessor"].update(sample_rate=10**400),
        r"preprocessor\.sample_rate: must be .* got 100000",
    ),
    "number for a name": (
        lambda c: c["preprocessor"].update({7: 1}),
        r"preprocessor\.7: is an unknown option",
    ),
    "no stride": (
        lambda c: c["encoder"]["jasper"][0].update(stride=[]),
        r"encoder\.jasper\[0\]\.stride: must be",
    ),
    "stride of zero": (
        lambda c: c["encoder"]["jasper"][0].update(stride=[0]),
        r"encoder\.jasper\[0\]\.stride: must be a whole number from 1 .* got \[0\]",
    ),
    "loop": (lambda c: c.update(labels="${labels}"), "refers to itself"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_configurations_that_do_not_fit_say_why(
    write_nemo: Write, conv_config: Config, conv_state: State, name: str
) -> None:
    change, message = CHANGES[name]
    change(conv_config)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(write_nemo(conv_config, conv_state))


def test_other_layouts_of_the_configuration(conv_config: Config) -> None:
    plain = parse_config("x", yaml.safe_dump(conv_config).encode(), NONE)
    layers = conv_config["encoder"]["jasper"]
    old = {
        "sample": {"mels": 16},
        "labels": conv_config["decoder"].pop("vocabulary"),
        "preprocessor": {
            "cls": conv_config["preprocessor"].pop("_target_"),
            "params": conv_config["preprocessor"],
        },
        "encoder": {**conv_config["encoder"], "feat_in": "${model.sample.mels}", "jasper": layers},
        "decoder": conv_config["decoder"],
    }
    parsed = parse_config("x", yaml.safe_dump({"model": old, "trainer": {}}).encode(), NONE)
    assert parsed.frontend == plain.frontend
    assert parsed.tokenizer == plain.tokenizer
    assert parsed.config["encoder"] == plain.config["encoder"]


def test_windows_in_samples_and_no_normalisation(conv_config: Config) -> None:
    del conv_config["preprocessor"]["window_size"]
    conv_config["preprocessor"] |= {"n_window_size": 400, "n_window_stride": 200, "normalize": "NA"}
    frontend = parse_config("x", yaml.safe_dump(conv_config).encode(), NONE).frontend
    assert (frontend.window_length, frontend.hop_length, frontend.normalize) == (400, 200, None)


@pytest.mark.parametrize("kind", ["model", "vocabulary", "wordpiece"])
def test_pieces(write_nemo: Write, conv_config: Config, conv_state: State, kind: str) -> None:
    pieces = [f"▁w{i}" for i in range(28)]
    conv_config["decoder"] |= {"vocabulary": pieces, "num_classes": -1}
    conv_config["tokenizer"] = {"type": "bpe", "model_path": "nemo:abc_tokenizer.model"}
    files = {}
    if kind == "model":
        files = {"abc_tokenizer.model": serialized_pieces(pieces)}
        del conv_config["decoder"]["vocabulary"]
    elif kind == "wordpiece":
        conv_config["tokenizer"]["type"] = "wpe"
    tokenizer = load_checkpoint(write_nemo(conv_config, conv_state, files)).tokenizer
    assert tokenizer.kind == ("wordpiece" if kind == "wordpiece" else "sentencepiece")
    assert tokenizer.tokens == tuple(pieces)


def test_a_damaged_tokenizer_is_refused(write_nemo: Write, conv_config: Config, conv_state: State) -> None:
    conv_config["tokenizer"] = {"type": "bpe", "model_path": "nemo:t.model"}
    with pytest.raises(CheckpointError, match="SentencePiece"):
        load_checkpoint(write_nemo(conv_config, conv_state, {"t.model": b"damaged"}))
    conv_config["decoder"]["vocabulary"] = None
    with pytest.raises(CheckpointError, match=r"t\.model is missing"):
        load_checkpoint(write_nemo(conv_config, conv_state))


def test_an_archive_without_weights_is_refused(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "half.nemo"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model_config.yaml"))
    with pytest.raises(CheckpointError, match=r"holds no model_weights\.ckpt"):
        load_checkpoint(path)


def test_mel_filters_must_be_ours() -> None:
    config = FrontendConfig(features=16)
    filters = torch.from_numpy(mel_filterbank(config))[None]
    check_filterbank("x", config, {"preprocessor.featurizer.fb": filters})
    with pytest.raises(CheckpointError, match=r"off by 0\.01"):
        check_filterbank("x", config, {"preprocessor.featurizer.fb": filters + 0.01})
    for wrong in (filters[:, :, :-1], filters[:, :-1], torch.zeros(())):
        with pytest.raises(CheckpointError, match="frontend differs"):
            check_filterbank("x", config, {"preprocessor.featurizer.fb": wrong})


def test_a_configuration_of_its_own_needs_no_other(
    write_nemo: Write, conv_config: Config, conv_state: State
) -> None:
    with pytest.raises(CheckpointError, match="leave --config out"):
        load_checkpoint(write_nemo(conv_config, conv_state), config="other.yaml")


@pytest.mark.parametrize("name", ["conformer_ctc_bpe_tiny", "fastconformer_ctc_tiny"])
def test_real_surroundings_of_other_models(name: str, test_data: Path, tmp_path: Path) -> None:
    """Frontend and tokenizer are read whatever the network, for exported programs."""
    import tarfile

    from zeroq_asr.checkpoints.nemo import read_surroundings

    with tarfile.open(test_data / "models" / f"{name}.nemo") as archive:
        archive.extractall(tmp_path, filter="data")
    frontend, tokenizer = read_surroundings(tmp_path / "model_config.yaml")
    assert frontend.features == 80
    assert tokenizer.kind == ("sentencepiece" if "bpe" in name else "characters")
    assert len(tokenizer.tokens) == (128 if "bpe" in name else 28)


def serialized_pieces(pieces: list[str]) -> bytes:
    """Return a SentencePiece model of exactly ``pieces``."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    model = schema.ModelProto()
    for number, piece in enumerate(pieces):
        model.pieces.add(piece=piece, score=-number, type=2 if number == 0 else 1)
    return model.SerializeToString()


def hybrid(config: Config, state: State) -> tuple[Config, State]:
    """Return a transducer that has the CTC recogniser beside it."""
    head = {**config["decoder"], "feat_in": None}
    both = {
        **config,
        "decoder": {"_target_": "nemo.collections.asr.modules.RNNTDecoder", "prednet": {"pred_hidden": 8}},
        "joint": {"_target_": "nemo.collections.asr.modules.RNNTJoint"},
        "aux_ctc": {"ctc_loss_weight": 0.3, "decoder": head},
        "labels": config["decoder"]["vocabulary"],
    }
    weights = {name.replace("decoder.dec", "ctc_decoder.dec"): value for name, value in state.items()}
    weights["decoder.prediction.embed.weight"] = torch.zeros(29, 8)
    weights["joint.enc.weight"] = torch.zeros(8, 12)
    return both, weights


def test_the_ctc_head_of_a_hybrid(write_nemo: Write, conv_config: Config, conv_state: State) -> None:
    config, state = hybrid(conv_config, conv_state)
    with pytest.warns(ZeroqWarning, match="a hybrid of a transducer and a CTC head: the head was taken"):
        found = load_checkpoint(write_nemo(config, state)).network.state_dict()
    assert found.keys() == conv_state.keys()
    for name, value in conv_state.items():
        torch.testing.assert_close(found[name], value, atol=0, rtol=0)


def test_a_hybrid_without_a_head(write_nemo: Write, conv_config: Config, conv_state: State) -> None:
    config, state = hybrid(conv_config, conv_state)
    del config["aux_ctc"]["decoder"]
    with pytest.raises(CheckpointError, match=r"no aux_ctc\.decoder section"):
        load_checkpoint(write_nemo(config, state))


PREFIXES = ["module.", "model.", "_orig_mod.", "module._orig_mod.", "asr_model.", "a.b.c."]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_taken_off(
    write_nemo: Write, conv_config: Config, conv_state: State, prefix: str
) -> None:
    more = {**conv_state, "preprocessor.featurizer.window": torch.zeros(3)}
    model = load_checkpoint(write_nemo(conv_config, {prefix + name: t for name, t in more.items()}))
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, conv_state[name], atol=0, rtol=0)


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module"])
def test_wrappers_within_names_are_taken_off(
    write_nemo: Write, conv_config: Config, conv_state: State, wrapper: str
) -> None:
    state = {name.replace("encoder.enc", f"encoder.{wrapper}.enc"): t for name, t in conv_state.items()}
    assert any(wrapper in name for name in state)
    load_checkpoint(write_nemo(conv_config, state))
    load_checkpoint(write_nemo(conv_config, {f"model.{name}": t for name, t in state.items()}))


def test_prefixes_that_do_not_help_are_named(
    write_nemo: Write, conv_config: Config, conv_state: State
) -> None:
    twice = {f"{p}.{name}": t for p in ("model", "ema") for name, t in conv_state.items()}
    with pytest.raises(CheckpointError, match=r"weights 2 times, by names that begin with '(model|ema)\.'"):
        load_checkpoint(write_nemo(conv_config, twice))
    average = conv_state | {f"ema.{name}": t for name, t in conv_state.items()}
    with pytest.raises(CheckpointError, match=r"weights are surplus: ema\."):
        load_checkpoint(write_nemo(conv_config, average))
    del conv_state[WEIGHT]
    with pytest.raises(CheckpointError, match=r"missing: .*; every name in the file begins with 'module\.'"):
        load_checkpoint(write_nemo(conv_config, {f"module.{name}": t for name, t in conv_state.items()}))


def test_a_prefix_of_a_hybrid(write_nemo: Write, conv_config: Config, conv_state: State) -> None:
    config, state = hybrid(conv_config, conv_state)
    with pytest.warns(ZeroqWarning, match="hybrid"):
        load_checkpoint(write_nemo(config, {f"module.{name}": t for name, t in state.items()}))


def unpacked(path: Path, folder: Path) -> Path:
    import tarfile

    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


def test_an_unpacked_archive(
    write_nemo: Write, conv_config: Config, conv_state: State, tmp_path: Path
) -> None:
    pieces = [f"▁w{i}" for i in range(28)]
    conv_config["decoder"] |= {"vocabulary": None, "num_classes": -1}
    conv_config["tokenizer"] = {"type": "bpe", "model_path": "nemo:abc_tokenizer.model", "dir": "/far/away"}
    files = {"abc_tokenizer.model": serialized_pieces(pieces), "abc_vocab.txt": b""}
    archive = write_nemo(conv_config, conv_state, files)
    folder = unpacked(archive, tmp_path / "model")
    model = load_checkpoint(folder)
    assert (model.name, model.tokenizer.tokens) == ("model", tuple(pieces))
    with pytest.raises(CheckpointError, match="leave --config out"):
        load_checkpoint(folder, config="x.yaml")
    (folder / "abc_tokenizer.model").rename(folder / "0123_tokenizer.model")
    with pytest.warns(ZeroqWarning, match=r"'0123_tokenizer\.model' was taken"):
        assert load_checkpoint(folder).tokenizer.tokens == tuple(pieces)


def test_names_in_a_folder_are_guessed_with_a_warning(
    write_nemo: Write, conv_config: Config, conv_state: State, tmp_path: Path
) -> None:
    folder = unpacked(write_nemo(conv_config, conv_state), tmp_path / "model")
    (folder / "model_config.yaml").rename(folder / "config.yaml")
    with pytest.warns(ZeroqWarning, match=r"holds no model_config\.yaml: 'config\.yaml' was taken for it"):
        load_checkpoint(folder)
    (folder / "second.yaml").write_text("a: 1")
    with pytest.raises(CheckpointError, match=r"holds no model_config\.yaml, and 2 other files"):
        load_checkpoint(folder)
    (folder / "config.yaml").rename(folder / "model_config.yaml")
    (folder / "model_weights.ckpt").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model_weights\.ckpt, and 0 other files"):
        load_checkpoint(folder)


def test_a_tokenizer_without_a_type_is_told_by_its_files(
    write_nemo: Write, conv_config: Config, conv_state: State
) -> None:
    conv_config["tokenizer"] = {"type": "???", "dir": "???"}
    pieces = [f"▁w{i}" for i in range(28)]
    archive = write_nemo(conv_config, conv_state, {"tokenizer.model": serialized_pieces(pieces)})
    with pytest.warns(ZeroqWarning, match="bpe was taken"):
        assert load_checkpoint(archive).tokenizer.kind == "sentencepiece"
    conv_config["tokenizer"] = {"type": "wpe"}
    conv_config["decoder"]["vocabulary"] = None
    words = "\n".join(f"w{i}" for i in range(28)).encode()
    tokenizer = load_checkpoint(write_nemo(conv_config, conv_state, {"vocab.txt": words})).tokenizer
    assert (tokenizer.kind, tokenizer.tokens[3]) == ("wordpiece", "w3")


@pytest.mark.parametrize("kind", ["meta", "quantized", "expanded"])
def test_weights_without_numbers_of_their_own(
    write_nemo: Write, conv_config: Config, conv_state: State, kind: str
) -> None:
    shape = conv_state[WEIGHT].shape
    one = torch.zeros(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch no longer likes its quantized tensors
        conv_state[WEIGHT] = {
            "meta": torch.zeros(shape, device="meta"),
            "quantized": torch.quantize_per_tensor(torch.zeros(shape), 0.1, 0, torch.qint8),
            "expanded": one.expand(shape),
        }[kind]
    with pytest.raises(CheckpointError, match=f"weights are not dense tensors: {WEIGHT}"):
        load_checkpoint(write_nemo(conv_config, conv_state))
