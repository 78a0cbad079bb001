"""Hugging Face folders: the same text as transformers gives, and what is said of those that are not whole."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

import zeroq_asr as zq
from zeroq_asr.checkpoints import hub, load_checkpoint
from zeroq_asr.checkpoints.huggingface import is_huggingface
from zeroq_asr.cli import app
from zeroq_asr.errors import CheckpointError, UnsupportedModelError

transformers = pytest.importorskip("transformers")

KINDS = {
    "wav2vec2": "Wav2Vec2ForCTC",
    "hubert": "HubertForCTC",
    "conformer": "Wav2Vec2ConformerForCTC",
    "rotary": "Wav2Vec2ConformerForCTC",
    "parakeet": "ParakeetForCTC",
}
Folder = Callable[[str], Path]
SAMPLES = (16000, 9001, 4003)


def waves() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [
        (generator.standard_normal(n) * np.linspace(0.01, 0.3, n) + 0.05).astype(np.float32) for n in SAMPLES
    ]


def alone(folder: Path, class_name: str, wave: np.ndarray) -> tuple[torch.Tensor, np.ndarray, str]:
    """Logits [S, V], features [M, T] and text that transformers makes of one recording."""
    network = getattr(transformers, class_name).from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    kind = transformers.ParakeetTokenizer if class_name == "ParakeetForCTC" else None
    tokenizer = (kind or transformers.Wav2Vec2CTCTokenizer).from_pretrained(folder)
    inputs = extractor(wave, sampling_rate=16000, return_tensors="pt")
    if "input_features" in inputs:
        features = inputs["input_features"][0].T.numpy()
    else:
        features = inputs["input_values"].numpy()
        # a lone utterance has no padding to be told of
        inputs = {"input_values": inputs["input_values"]}
    with torch.inference_mode():
        logits = network(**inputs).logits[0]
    return logits, features, tokenizer.decode(logits.argmax(-1))


@pytest.mark.filterwarnings("ignore")  # transformers' own
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_each_what_transformers_gives_it_alone(huggingface_folder: Folder, kind: str) -> None:
    folder = huggingface_folder(kind)
    model = load_checkpoint(folder)
    assert (model.architecture, model.name) == (KINDS[kind], folder.name)
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    features, lengths = zq.Frontend(model.frontend).batch(waves())
    recognizer = zq.TorchRecognizer(model)
    scores, encoded = recognizer.log_probs(features, lengths)
    for row, wave in enumerate(waves()):
        logits, theirs, _ = alone(folder, KINDS[kind], wave)
        frames, count = int(lengths[row]), int(encoded[row])
        np.testing.assert_allclose(features[row, :, :frames], theirs[:, :frames], atol=1e-5)
        assert not features[row, :, frames:].any()
        blank = model.tokenizer.blank_id
        special = 1 if kind != "parakeet" else blank
        order = [*(i for i in range(blank + 1) if i != special), special]
        expected = torch.log_softmax(logits[:count, order], -1).numpy()
        np.testing.assert_allclose(scores[row, :count], expected, atol=1e-5)
        # what is left is the frame behind the last sample, where the extractor makes one
        assert 0 <= len(logits) - count <= (kind == "parakeet")


TRANSDUCERS = {"parakeet rnnt": "ParakeetForRNNT", "parakeet tdt": "ParakeetForTDT"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TRANSDUCERS)
def test_a_transducer_is_transformers_own(huggingface_folder: Folder, kind: str) -> None:
    folder = huggingface_folder(kind)
    model = zq.load_model(folder)
    assert isinstance(model, zq.TransducerModel)
    assert (model.architecture, model.subsampling_factor) == (TRANSDUCERS[kind], 8)
    features, lengths = zq.Frontend(model.frontend).batch(waves())
    found = zq.TransducerRecognizer(model).hypotheses(features, lengths)
    theirs = getattr(transformers, TRANSDUCERS[kind]).from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    blank, count = theirs.config.blank_token_id, theirs.config.vocab_size
    # our tokens → theirs
    order = [*(i for i in range(count) if i != blank), blank]
    prefix = [len(order) - 1, 3, 0, 7]
    for row, wave in enumerate(waves()):
        inputs = extractor(wave, sampling_rate=16000, return_tensors="pt")
        with torch.inference_mode():
            joined = theirs(**inputs, decoder_input_ids=torch.tensor([[order[i] for i in prefix]])).logits
            encoded, ends = model.network.encoder(*map(torch.from_numpy, (features, lengths)))
            state = model.network.predictor.start(1)
            for step, label in enumerate(prefix):
                predicted, state = model.network.predictor(torch.tensor([label]), state)
                scores = model.network.joiner(encoded[row, : ends[row]], predicted)
                expected = joined[0, : ends[row], step, [*order, *range(count, joined.shape[-1])]]
                torch.testing.assert_close(scores, expected, atol=1e-3, rtol=0)
        # a short recording's last steps are cut off where no length is given
        made = theirs.generate(**inputs, max_length=1000)
        at = torch.cumsum(made.durations[0], 0)
        # the label before the first, and the blanks, are among them
        pairs = zip(made.sequences[0, 1:].tolist(), at[:-1].tolist(), strict=True)
        spoken = [(order.index(token), frame) for token, frame in pairs if token != blank]
        assert spoken == [*zip(found[row].tokens, found[row].frames, strict=True)]
        assert len({token for token, _ in spoken}) > 1
    # neither a frame a token, nor all that a frame may give
    assert 1 < len(set(found[0].frames)) < int(ends[0])


@pytest.mark.filterwarnings("ignore")
def test_a_transducer_is_no_ctc_network(huggingface_folder: Folder) -> None:
    with pytest.raises(UnsupportedModelError, match="is a transducer, a CTC head was expected"):
        load_checkpoint(huggingface_folder("parakeet tdt"))
    with pytest.raises(UnsupportedModelError, match="has no transducer's head"):
        zq.load_model(huggingface_folder("parakeet"), head="transducer")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        (
            "config.json",
            {"durations": [0, 2, 4]},
            r"durations = \[0, 2, 4\] is not supported; supported: 0, 1",
        ),
        ("config.json", {"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; supported: relu"),
        ("config.json", {"max_symbols_per_step": 0}, "its max_symbols_per_step is 0"),
        ("config.json", {"blank_token_id": 99}, "the blank has the identifier 99 of 13 classes"),
        ("config.json", {"architectures": ["ParakeetForCTC"]}, "which has no transducer's head"),
        ("generation_config.json", {"decoder_start_token_id": 3}, "decoder_start_token_id = 3 is not supp"),
        (
            "generation_config.json",
            {"suppress_tokens": [2, 99]},
            r"suppress_tokens = \[2\] in its gener",
        ),
        ("generation_config.json", {"repetition_penalty": 5.0}, "repetition_penalty = 5.0 in its generation"),
        (
            "generation_config.json",
            {"max_new_tokens": 5},
            "max_new_tokens = 5 in its generation_config is not",
        ),
        ("generation_config.json", {"guidance_scale": 2.0}, "guidance_scale = 2.0 in its generation_config"),
        ("generation_config.json", {"num_beams": 4}, "num_beams = 4 in its generation_config is not supp"),
    ],
)
def test_a_transducer_that_is_not_understood(
    huggingface_folder: Folder, tmp_path: Path, file: str, options: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(huggingface_folder("parakeet tdt"), folder)
    changed(file, **options)(folder)
    with pytest.raises(CheckpointError, match=message):
        zq.load_model(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["wav2vec2", "parakeet"])
def test_tokens_become_the_same_text(huggingface_folder: Folder, kind: str) -> None:
    folder = huggingface_folder(kind)
    model = load_checkpoint(folder)
    if kind == "wav2vec2":
        assert model.tokenizer == zq.Tokenizer(("", "", "", " ", *"ETAOINSHR'"), "characters")
        theirs, words = transformers.Wav2Vec2CTCTokenizer.from_pretrained(folder), "THE HEART IS THERE"
        ids = theirs(words).input_ids
        assert model.tokenizer.decode(i - (i > 1) for i in ids) == words
    else:
        assert model.tokenizer.kind == "sentencepiece"
        assert model.tokenizer.tokens[:3] == ("", "\u2581", "\u2581t")
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert model.tokenizer.decode(theirs("the thing tears").input_ids) == "the thing tears"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("identifier", [10**30, -1, 1.5, None])
def test_identifiers_are_whole_numbers(
    huggingface_folder: Folder, tmp_path: Path, identifier: object
) -> None:
    folder = tmp_path / "odd"
    shutil.copytree(huggingface_folder("wav2vec2"), folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["</s>"] = identifier
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(zq.ZeroqError, match=r"identifier|vocabulary"):
        load_checkpoint(folder)


def test_the_surroundings(huggingface_folder: Folder) -> None:
    waveform = load_checkpoint(huggingface_folder("wav2vec2"))
    expected = zq.FrontendConfig(
        kind="waveform", features=1, window_size=25 / 16000, normalize="unit_variance", pad_to=0
    )
    assert waveform.frontend == expected
    assert (waveform.frontend.min_samples, waveform.subsampling_factor) == (25, 20)
    assert [list(t.shape) for t in waveform.example_input()] == [[2, 1, 345], [2]]
    mels = load_checkpoint(huggingface_folder("parakeet"))
    assert mels.frontend == zq.FrontendConfig(features=16, window_size=0.025, n_fft=512, pad_to=0)
    assert mels.subsampling_factor == 8


def test_lower_case_and_no_normalization(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path)
    edit(folder / "tokenizer_config.json", do_lower_case=True)
    edit(folder / "preprocessor_config.json", do_normalize=False, sampling_rate=8000)
    model = load_checkpoint(folder)
    assert model.tokenizer.decode([3, 5, 11, 4]) == "the"
    assert (model.frontend.normalize, model.frontend.frames_per_second) == (None, 8000)


def copied(huggingface_folder: Folder, tmp_path: Path, kind: str = "wav2vec2") -> Path:
    return shutil.copytree(huggingface_folder(kind), tmp_path / "model")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def rewrite(folder: Path, state: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("sign", ["class", "folder"])
def test_a_language_model_that_is_not_read_is_said(
    sign: str, huggingface_folder: Folder, tmp_path: Path
) -> None:
    folder = copied(huggingface_folder, tmp_path)
    if sign == "class":
        edit(folder / "preprocessor_config.json", processor_class="Wav2Vec2ProcessorWithLM")
    else:
        (folder / "language_model").mkdir()
    with pytest.warns(
        zq.ZeroqWarning,
        match=r"comes with a language model \(Wav2Vec2ProcessorWithLM\), which is not read .*--lm FILE",
    ):
        model = load_checkpoint(folder)
    plain = load_checkpoint(huggingface_folder("wav2vec2"))
    assert (model.frontend, model.tokenizer) == (plain.frontend, plain.tokenizer)


def test_older_weights(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path)
    expected = load_checkpoint(folder).network.state_dict()
    # weight normalization was called otherwise, and the vector that only training reads may be absent
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    state = {}
    for name, tensor in weights(folder).items():
        for new, old in names.items():
            name = name.replace(new, old)
        if not name.endswith("masked_spec_embed"):
            state[name] = tensor.half() if name.startswith("lm_head") else tensor
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    found = load_checkpoint(folder).network.state_dict()
    assert {t.dtype for t in found.values()} == {torch.float32}
    for name, tensor in expected.items():
        if not name.endswith("masked_spec_embed"):
            torch.testing.assert_close(found[name], tensor, atol=1e-3, rtol=1e-3)


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_code_in_a_folder_is_not_run(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder, mark = copied(huggingface_folder, tmp_path), tmp_path / "mark"
    torch.save({**weights(folder), "payload": Payload(mark)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="network cannot be read"):
        load_checkpoint(folder)
    assert not mark.exists()
    (folder / "own.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    edit(folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"})
    with pytest.raises(CheckpointError):
        load_checkpoint(folder)
    assert not mark.exists()


def without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def changed(name: str, **changes: Any) -> Callable[[Path], object]:
    return lambda folder: edit(folder / name, **changes)


def no_head(folder: Path) -> None:
    rewrite(folder, {k: v for k, v in weights(folder).items() if not k.startswith("lm_head")})


def not_finite(folder: Path) -> None:
    state = weights(folder)
    state["lm_head.bias"][0] = float("nan")
    rewrite(folder, state)


def other_vocabulary(folder: Path) -> None:
    state = weights(folder)
    rewrite(folder, {**state, "lm_head.bias": state["lm_head.bias"][:5].clone()})


def many_languages(folder: Path) -> None:
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({"eng": vocabulary, "fra": vocabulary}))


BROKEN: dict[str, tuple[Callable[[Path], object], type[CheckpointError], str]] = {
    "no weights": (
        without("model.safetensors"),
        CheckpointError,
        "network cannot be read .*model.safetensors",
    ),
    "no vocabulary": (without("vocab.json"), CheckpointError, "holds no vocab.json"),
    "no preprocessor": (without("preprocessor_config.json"), CheckpointError, "holds no preprocessor_config"),
    "no config": (without("config.json"), CheckpointError, "is a folder, .*config.json"),
    "half a config": (lambda f: (f / "config.json").write_text("{"), CheckpointError, "is not valid JSON"),
    "weights that are no floats": (
        lambda f: (f / "model.safetensors").write_bytes(
            (f / "model.safetensors").read_bytes().replace(b'"F32"', b'"I32"', 1)
        ),
        CheckpointError,
        "is of type 'I32', weights are F16, BF16, F32, F64",
    ),
    "half of the weights": (
        lambda f: os.truncate(f / "model.safetensors", 1000),
        CheckpointError,
        "network cannot be read",
    ),
    "no head": (no_head, CheckpointError, "2 weights are missing: lm_head.bias, lm_head.weight"),
    "not finite": (not_finite, CheckpointError, "NaN or infinity: model.lm_head.bias"),
    "another shape": (other_vocabulary, CheckpointError, "1 weights have the wrong shape: lm_head.bias"),
    "many languages": (
        many_languages,
        CheckpointError,
        "a model of 2 languages, of which none is chosen; choose one by --language: eng, fra",
    ),
    "tokens and languages": (
        lambda f: (f / "vocab.json").write_text('{"a": 1, "fra": {"a": 1}}'),
        CheckpointError,
        "mixes tokens and languages",
    ),
    "tokens without numbers": (
        lambda f: (f / "vocab.json").write_text('{"a": "b"}'),
        CheckpointError,
        "gives the token 'a' the identifier 'b'",
    ),
    "two tokens of one number": (
        lambda f: (f / "vocab.json").write_text('{"a": 1, "b": 1}'),
        CheckpointError,
        "gives the tokens 'a' and 'b' one identifier",
    ),
    "a vocabulary that is a list": (
        lambda f: (f / "vocab.json").write_text("[1]"),
        CheckpointError,
        "holds a list, an object was expected",
    ),
    "a config that is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        CheckpointError,
        "holds a list, an object was expected",
    ),
    "not a number": (
        lambda f: (f / "config.json").write_text('{"layer_norm_eps": NaN}'),
        CheckpointError,
        "it holds NaN",
    ),
    "endless layers": (
        changed("config.json", num_hidden_layers=10**9),
        CheckpointError,
        "its num_hidden_layers is 1000000000",
    ),
    "wider than its weights": (
        changed("config.json", hidden_size=2**14, intermediate_size=2**14),
        CheckpointError,
        r"describes \d+ weights, and holds \d+ bytes of them",
    ),
    "strides of words": (
        changed("config.json", conv_stride=["a", 4]),
        CheckpointError,
        "its conv_stride is ",
    ),
    "a pipe": (lambda f: os.mkfifo(f / "added_tokens.json"), CheckpointError, "is no regular file"),
    "a shard elsewhere": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lm_head.bias": "../../model.safetensors"}})
        ),
        CheckpointError,
        "names the shard '../../model.safetensors', outside of the folder",
    ),
    "no shard": (
        lambda f: (f / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lm_head.bias": "model-1.safetensors"}})
        ),
        CheckpointError,
        "lacks the shard 'model-1.safetensors'",
    ),
    "a header of terabytes": (
        lambda f: (f / "model.safetensors").write_bytes((2**42).to_bytes(8, "little") + b"{}" * 40),
        CheckpointError,
        "network cannot be read",
    ),
    "code of its own": (
        changed("preprocessor_config.json", auto_map={"AutoFeatureExtractor": "own.Own"}),
        UnsupportedModelError,
        r"code of its own belongs to it \(auto_map\), which is never run",
    ),
    "a preprocessor's option that nobody knows": (
        changed("preprocessor_config.json", denoise=0.5),
        UnsupportedModelError,
        "its preprocessor has denoise = 0.5, not supported",
    ),
    "padding with ones": (
        changed("preprocessor_config.json", padding_value=1.0),
        CheckpointError,
        "padding_value = 1.0, 0 was expected",
    ),
    "normalization of words": (
        changed("preprocessor_config.json", do_normalize="yes"),
        CheckpointError,
        "do_normalize = 'yes', true or false was expected",
    ),
    "a rate that is none": (
        changed("preprocessor_config.json", sampling_rate="x"),
        CheckpointError,
        "sampling_rate = 'x', a whole number",
    ),
    "a mask token for a blank": (
        changed("tokenizer_config.json", pad_token="[MASK]", added_tokens_decoder={}),
        CheckpointError,
        "padding token, the blank, has the identifier 15 of 15 classes",
    ),
    "phonemes": (
        changed("tokenizer_config.json", tokenizer_class="Wav2Vec2PhonemeCTCTokenizer"),
        UnsupportedModelError,
        "its tokenizer is Wav2Vec2PhonemeCTCTokenizer",
    ),
    "another preprocessor": (
        changed("preprocessor_config.json", feature_extractor_type="WhisperFeatureExtractor"),
        UnsupportedModelError,
        "its preprocessor is WhisperFeatureExtractor",
    ),
    "sequence to sequence": (
        lambda f: (f / "config.json").write_text('{"model_type": "whisper"}'),
        UnsupportedModelError,
        "type 'whisper', not supported; supported: Wav2Vec2ForCTC, HubertForCTC",
    ),
    "no CTC": (
        changed("config.json", architectures=["Wav2Vec2ForPreTraining"]),
        UnsupportedModelError,
        "holds Wav2Vec2ForPreTraining, which has no CTC head",
    ),
    "adapter": (changed("config.json", add_adapter=True), UnsupportedModelError, "add_adapter = True"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said(
    huggingface_folder: Folder, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    spoil, error, message = BROKEN[name]
    folder = copied(huggingface_folder, tmp_path)
    spoil(folder)
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(folder)
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


def of_languages(folder: Path) -> list[str]:
    """Make a model of two languages of a folder, with an adapter for the second; returns its tokens."""
    base = json.loads((folder / "vocab.json").read_text())
    french = ["<s>", "<pad>", "</s>", "<unk>", "|", *"ETAOINSHR'é"]
    (folder / "vocab.json").write_text(json.dumps({"eng": base, "fra": {t: i for i, t in enumerate(french)}}))
    config = {**json.loads((folder / "config.json").read_text()), "adapter_attn_dim": 4}
    config["feat_extract_norm"], config["do_stable_layer_norm"] = "layer", True
    torch.manual_seed(0)
    network = transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**config))
    network.save_pretrained(folder)
    adapter = {k: torch.randn_like(v) * 0.2 for k, v in network._get_adapters().items()}
    adapter["lm_head.weight"] = torch.randn(len(french), 32) * 0.2
    adapter["lm_head.bias"] = torch.randn(len(french)) * 0.2
    from safetensors.torch import save_file

    save_file(adapter, folder / "adapter.fra.safetensors", metadata={"format": "pt"})
    return french


@pytest.mark.filterwarnings("ignore")
def test_a_language_of_many_brings_its_adapter(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path)
    tokens = of_languages(folder)
    model = load_checkpoint(folder, language="fra")
    assert model.tokenizer.tokens == ("", "", "", " ", *tokens[5:])
    features, lengths = model.example_input()
    theirs = transformers.Wav2Vec2ForCTC.from_pretrained(
        folder, target_lang="fra", ignore_mismatched_sizes=True
    ).eval()
    with torch.inference_mode():
        expected = theirs(features[:1, 0]).logits[:, :, [0, *range(2, 16), 1]]
        found = model.network(features[:1], lengths[:1])[0]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    result = run("inspect", folder, "--language", "fra", "--json")
    assert json.loads(result.stdout)["architecture"] == "Wav2Vec2ForCTC", result.output
    # a model's own language needs no adapter, nor an option
    edit(folder / "tokenizer_config.json", target_lang="eng")
    assert load_checkpoint(folder).tokenizer.blank_id == 14


@pytest.mark.filterwarnings("ignore")
def test_a_language_with_another_blank(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path)
    of_languages(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    vocabulary["fra"].update({"<pad>": 0, "<s>": 1})
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match=r"the identifier 1, and vocab\.json gives it 0"):
        load_checkpoint(folder, language="fra")


@pytest.mark.filterwarnings("ignore")
def test_languages_that_are_not_there(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path)
    with pytest.raises(CheckpointError, match="is a model of one language; leave --language out"):
        load_checkpoint(folder, language="fra")
    of_languages(folder)
    with pytest.raises(CheckpointError, match=r"has no language '\.\./x'; it has eng, fra"):
        load_checkpoint(folder, language="../x")
    with pytest.raises(CheckpointError, match=r"holds no adapter\.eng\.safetensors, its adapter for the"):
        load_checkpoint(folder, language="eng")
    (folder / "adapter.fra.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="its adapter for the language fra cannot be read"):
        load_checkpoint(folder, language="fra")
    result = run("inspect", folder)
    assert result.exit_code == 3
    assert "choose one by --language: eng, fra" in result.stderr
    many_languages(copied(huggingface_folder, tmp_path / "other"))
    with pytest.raises(UnsupportedModelError, match="has no adapters"):
        load_checkpoint(tmp_path / "other" / "model", language="fra")


def test_another_way_to_join_tokens_is_refused(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path, "parakeet")
    edit(folder / "tokenizer.json", decoder={"type": "WordPiece", "prefix": "##", "cleanup": False})
    with pytest.raises(UnsupportedModelError, match="joins tokens in an unknown way"):
        load_checkpoint(folder)


def test_mels_must_fit(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path, "parakeet")
    edit(folder / "preprocessor_config.json", feature_size=80)
    with pytest.raises(CheckpointError, match="makes 80 mels, its network takes 16"):
        load_checkpoint(folder)


def test_only_own_architectures_are_saved(huggingface_folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="only networks of this package's architectures"):
        zq.save_checkpoint(load_checkpoint(huggingface_folder("wav2vec2")), tmp_path / "model.pt")


def test_a_configuration_is_no_option(huggingface_folder: Folder) -> None:
    with pytest.raises(CheckpointError, match="brings its own configuration; leave --config out"):
        load_checkpoint(huggingface_folder("wav2vec2"), config="model_config.yaml")


def test_without_transformers(huggingface_folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = huggingface_folder("wav2vec2")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match=r"takes the package transformers .*\[huggingface\]'$"):
        load_checkpoint(folder)


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert is_huggingface("facebook/wav2vec2-base-960h")
    assert is_huggingface(Path("nvidia/parakeet-ctc-1.1b"))
    for name in ("wav2vec2", "models/typo", "a/b/c", "/a/b", "../b", "a/b.nemo", "a/b.onnx", "models", ""):
        assert not is_huggingface(name)


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[tuple[str, dict[str, Any]]] = []

    def unreachable(name: str, **options: Any) -> None:
        asked.append((name, options))
        raise OSError("We couldn't connect\nto the hub. Check your\nconnection")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    monkeypatch.setattr(hub, "_listed", lambda library, name: ["config.json"])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint("owner/model")
    assert str(caught.value) == (
        "owner/model: its configuration cannot be read (We couldn't connect to the hub); "
        "check the name and the connection to the hub"
    )
    assert asked == [("owner/model", {"local_files_only": False, "trust_remote_code": False})]


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.mark.filterwarnings("ignore")
def test_the_command_line(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder, wave = huggingface_folder("wav2vec2"), waves()[0]
    soundfile.write(tmp_path / "one.wav", wave, 16000, subtype="FLOAT")
    result = run("transcribe", folder, tmp_path / "one.wav", "--quiet")
    assert result.exit_code == 0, result.output
    text = alone(folder, "Wav2Vec2ForCTC", wave)[2]
    for special in ("<s>", "</s>", "<unk>"):
        text = text.replace(special, "")
    assert result.stdout == text.strip() + "\n"
    (tmp_path / "manifest.jsonl").write_text(json.dumps({"audio_filepath": "one.wav", "text": "a"}) + "\n")
    result = run("evaluate", folder, "--manifest", tmp_path / "manifest.jsonl", "--json")
    assert json.loads(result.stdout)["words"]["length"] == 1
    result = run("inspect", folder)
    assert result.exit_code == 0, result.output
    for words in ("Wav2Vec2ForCTC", "the waveform at 16000 Hz", "unit_variance", "20 frames make one output"):
        assert words in result.stdout


def test_exit_codes(huggingface_folder: Folder, tmp_path: Path) -> None:
    folder = copied(huggingface_folder, tmp_path)
    (folder / "vocab.json").unlink()
    result = run("inspect", folder)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.splitlines()[-1].startswith(f"error: {folder}: holds no vocab.json")
    (folder / "config.json").write_text('{"model_type": "whisper"}')
    result = run("inspect", folder)
    assert (result.exit_code, result.stdout) == (4, "")
    soundfile.write(tmp_path / "short.wav", np.zeros(20, np.float32), 16000)
    result = run("transcribe", huggingface_folder("wav2vec2"), tmp_path / "short.wav")
    assert result.exit_code == 3
    assert "20 samples are fewer than one encoded frame takes (25 samples)" in result.stderr
