"""Small whole inputs of every kind, of random weights, that the fuzzer changes."""

from __future__ import annotations

import importlib.util
import io
import json
import math
import sys
import wave
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

import zeroq_asr as zq
from fuzz.mutations import saved, tar, untar
from zeroq_asr.architectures import ARCHITECTURES
from zeroq_asr.capture.capture import capture
from zeroq_asr.config.plan_file import EVERYTHING
from zeroq_asr.deployment.export import export, export_bundle, write_bundle
from zeroq_asr.deployment.float_onnx import export_float
from zeroq_asr.deployment.metadata import Deployment
from zeroq_asr.integer.program import Instruction, Port, Program, StatePort, ValueInfo

TESTS = Path(__file__).parents[1]
LETTERS = [" ", *"abcdefgh", "'"]
RATE, MELS = 16000, 12

#: values that are no default, so that leaving one away changes what is computed
PREPROCESSOR: dict[str, Any] = {
    "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
    "sample_rate": 22050,
    "features": MELS,
    "normalize": "all_features",
    "window_size": 0.03,
    "window_stride": 0.012,
    "window": "hamming",
    "n_fft": 1024,
    "preemph": 0.9,
    "lowfreq": 40,
    "highfreq": 7000,
    "log_zero_guard_type": "clamp",
    "log_zero_guard_value": 1e-4,
    "mag_power": 1.5,
    "pad_to": 4,
    "pad_value": 0.25,
    "dither": 1e-05,
    "frame_splicing": 1,
}
_LAYER: dict[str, Any] = {"kernel": [5], "repeat": 1, "stride": [1], "dilation": [1], "dropout": 0.1}

CONV: dict[str, Any] = {
    "preprocessor": PREPROCESSOR,
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConvASREncoder",
        "feat_in": MELS,
        "activation": "relu",
        "conv_mask": True,
        "jasper": [
            {**_LAYER, "filters": 8, "stride": [2], "residual": False, "separable": True},
            {**_LAYER, "filters": 10, "dilation": [2], "kernel": [3], "residual": True, "separable": True},
        ],
    },
    "decoder": {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": 10,
        "num_classes": len(LETTERS),
        "vocabulary": LETTERS,
    },
    "optim": {"name": "novograd", "lr": 0.05, "betas": [0.9, 0.25]},
    "train_ds": {"manifest_filepath": "???", "batch_size": 32},
    "sample_rate": 22050,
    "target": "nemo.collections.asr.models.EncDecCTCModel",
}

CONFORMER: dict[str, Any] = {
    "preprocessor": {**PREPROCESSOR, "normalize": "per_feature"},
    "encoder": {
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": MELS,
        "n_layers": 1,
        "d_model": 16,
        "n_heads": 2,
        "ff_expansion_factor": 2,
        "conv_kernel_size": 5,
        "subsampling": "striding",
        "subsampling_factor": 2,
        "subsampling_conv_channels": 3,
        "self_attention_model": "rel_pos",
        "xscaling": False,
        "pos_emb_max_len": 500,
        "att_context_size": [-1, -1],
        "dropout": 0.1,
        "dropout_att": 0.1,
    },
    "decoder": {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": 16,
        "num_classes": len(LETTERS),
        "vocabulary": LETTERS,
    },
    "tokenizer": {"dir": "???", "type": "bpe", "model_path": "nemo:tokenizer.model"},
}


class Foreign(torch.nn.Module):
    """A network that is none of this package's, to be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(MELS)
        self.conv = torch.nn.Conv1d(MELS, 14, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(14, len(LETTERS) + 1)
        self.register_buffer("gain", torch.linspace(0.5, 1.5, 14).view(1, 14, 1))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.relu(self.conv(self.norm(features))) * self.gain
        return torch.log_softmax(self.head(x.transpose(1, 2)), -1), (lengths + 1) // 2


def weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return random weights and statistics of a NeMo configuration."""
    torch.manual_seed(0)
    sections = {"encoder": config["encoder"], "decoder": config["decoder"]}
    network = ARCHITECTURES["conformer_ctc" if "d_model" in config["encoder"] else "conv_ctc"](sections)
    state: dict[str, torch.Tensor] = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.add_(torch.randn_like(tensor) * 0.2)
    return state


def nemo(config: dict[str, Any], files: dict[str, bytes] | None = None) -> bytes:
    """Return a .nemo archive of a configuration with random weights."""
    text = yaml.safe_dump(config, sort_keys=False).encode()
    members = {"./model_config.yaml": text, "./model_weights.ckpt": saved(weights(config))}
    return tar([*members.items(), *(files or {}).items()])


def pieces() -> bytes:
    """Return a SentencePiece model of the letters."""
    from sentencepiece import sentencepiece_model_pb2 as schema

    model = schema.ModelProto()
    for number, piece in enumerate(["<unk>", "▁", *LETTERS[2:], "▁a"]):
        model.pieces.add(piece=piece, score=-number, type=2 if number == 0 else 1)
    return bytes(model.SerializeToString())


def memory() -> Program:
    """A program with a state."""
    attrs: dict[str, Any] = {"zx": (0, 128), "m": (3, 300), "c": 2, "zy": 0, "lo": -32767, "hi": 32767}
    back: dict[str, Any] = {"zx": (0,), "m": (1,), "c": 8, "zy": 128, "lo": 0, "hi": 255}
    dims = ("batch", 6, 1)
    return Program(
        inputs=(Port("bytes", "x", "uint8", dims, 0, 255),),
        outputs=(Port("memory", "y", "uint8", dims),),
        states=(StatePort("h", "h", "h_next", "int32", dims, -32767, 32767, initial=7),),
        code=[
            Instruction("add_requant", "h_next", ("h", "x"), {**attrs, "type": "int32"}, "memory"),
            Instruction("add_requant", "y", ("h_next",), {**back, "type": "uint8"}, "memory"),
        ],
        constants={},
        values={
            "h_next": ValueInfo("int32", 0.01, 0, -32767, 32767),
            "y": ValueInfo("uint8", 2.56, 128, 0, 255),
        },
        max_frames=1,
    )


def sound(seconds: float = 0.4, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """Return float32 samples [N, C] that sound of something."""
    time = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (300 + 900 * time) * time) * (0.3 + np.sin(9 * time) ** 2)
    noise = np.random.default_rng(0).standard_normal((len(time), channels)) * 0.05
    return (tone[:, None] + noise).astype(np.float32)


def wav(samples: np.ndarray, rate: int = RATE) -> bytes:
    """Return a WAV file of 16-bit samples with the plain header of 44 bytes."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return out.getvalue()


def encoded(samples: np.ndarray, form: str, rate: int = RATE, subtype: str | None = None) -> bytes:
    """Return a sound file as libsndfile writes it."""
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, subtype=subtype)
    return out.getvalue()


def _programs() -> Any:
    """The module of random programs, which is another test's."""
    if "programs" not in sys.modules:
        spec = importlib.util.spec_from_file_location("programs", TESTS / "integer" / "programs.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["programs"] = module
        spec.loader.exec_module(module)
    return sys.modules["programs"]


#: seeds of random programs that are exported, each with other operators
PROGRAMS = range(10)
#: files of weights of few bits, by how they are stored: in codes and bits, and in types of ONNX's own
PACKED = ("packed.fused.onnx", "packed.strict.onnx")
#: the files of one program each
OURS = ("conv.fused.onnx", "conv.strict.onnx", *PACKED, *(f"program{seed}.onnx" for seed in PROGRAMS))


def build(folder: Path) -> None:
    """Write every input to ``folder``."""
    torch.set_num_threads(1)

    def write(name: str, data: bytes) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    write("conv.nemo", nemo(CONV))
    write("conformer.nemo", nemo(CONFORMER))
    bpe = json.loads(json.dumps(CONFORMER))
    bpe["decoder"].pop("vocabulary")
    bpe["decoder"]["num_classes"] = -1
    wide = {**CONFORMER, "decoder": {**CONFORMER["decoder"], "num_classes": len(LETTERS) + 1}}
    members = untar(nemo(wide))
    members["./model_config.yaml"] = yaml.safe_dump(bpe, sort_keys=False).encode()
    write("bpe.nemo", tar([*members.items(), ("./tokenizer.model", pieces())]))

    conv = untar((folder / "conv.nemo").read_bytes())
    write("model_config.yaml", conv["./model_config.yaml"])
    write("state.ckpt", conv["./model_weights.ckpt"])
    model = zq.load_checkpoint(folder / "conv.nemo")
    zq.save_checkpoint(model, folder / "own.pt")

    torch.manual_seed(0)
    auto = torch.export.Dim.AUTO
    example = torch.randn(2, MELS, 40), torch.tensor([40, 30])
    network = Foreign().eval()
    program = torch.export.export(network, example, dynamic_shapes=({0: auto, 2: auto}, {0: auto}))
    out = io.BytesIO()
    torch.export.save(program, out)
    write("program.pt2", out.getvalue())

    spec = zq.QuantSpec(max_seconds=3.0)
    small = zq.SynthesisSpec(batch=1, frames=32, iterations=0)
    made = zq.quantize(model, spec=spec, synthesis=small, calibration=zq.CalibrationSpec("noise"))
    for dialect in ("fused", "strict"):
        write(f"conv.{dialect}.onnx", export(made.program, made.deployment, dialect).to_bytes())
    codes = zq.QuantSpec.parse_bits("w4a8", sensitive_bits=1, rounding="nearest", max_seconds=3.0)
    types = replace(zq.Plan.of(codes), weights=((EVERYTHING, "int4"), ("*.0.*", "ternary")))
    noise = zq.CalibrationSpec("noise")
    prepared = zq.prepare(model, spec=codes, synthesis=small, calibration=noise)
    off = zq.TrainingSpec(reconstruction="off")
    for name, chosen in zip(PACKED, (codes, types), strict=True):
        few = zq.quantize(prepared, spec=chosen, training=off)
        write(name, export(few.program, few.deployment, name.split(".")[1]).to_bytes())
    zq.synthesize(model, zq.SynthesisSpec(batch=2, frames=16, iterations=1)).save(folder / "features.npz")
    graph = capture(model.network, model.example_input(), model.name)
    float_file = export_float(graph, made.deployment)
    write("float.onnx", float_file.SerializeToString())
    del float_file.metadata_props[:]
    write("foreign.onnx", float_file.SerializeToString())
    bundle = zq.Bundle({"network": made.program, "memory": memory()})
    write_bundle(folder / "bundle", export_bundle(bundle, made.deployment, "fused"), made.deployment)

    programs = _programs()
    frontend = zq.FrontendConfig(features=programs.MELS)
    for seed in PROGRAMS:
        own = programs.random_program(seed, steps=5)
        factor = math.prod(i.attrs["divisor"] for i in own.code if i.op == "length_step")
        here = Deployment("random", frontend, zq.Tokenizer(("a", "b")), 2.0, factor)
        dialect = ("fused", "strict")[seed % 2]
        try:
            write(f"program{seed}.onnx", export(own, here, dialect).to_bytes())
        except zq.ZeroqError:  # some random programs cannot be proven
            write(f"program{seed}.onnx", export(made.program, made.deployment, dialect).to_bytes())

    mono, stereo = sound(), sound(0.3, 8000, 2)
    write("a.wav", wav(mono))
    write("b.wav", wav(sound(0.5)[::-1].copy()))
    write("stereo.wav", wav(stereo, 8000))
    write("float.wav", encoded(mono, "WAV", subtype="FLOAT"))
    write("a.flac", encoded(mono, "FLAC"))
    write("a.ogg", encoded(mono, "OGG"))
    write("a.aiff", encoded(mono, "AIFF"))

    sys.path.insert(0, str(TESTS))
    try:
        from huggingface_models import make_folder
    finally:
        sys.path.remove(str(TESTS))
    (folder / "hf").mkdir()
    make_folder("wav2vec2", folder / "hf")
    (folder / "parakeet").mkdir()
    make_folder("parakeet", folder / "parakeet")


class Seeds:
    """What ``build`` wrote, in memory."""

    def __init__(self, folder: Path) -> None:
        self.files = {
            str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }
        self.loaded: dict[str, Any] = {}
        #: what the oracle found in whole inputs
        self.facts: dict[str, Any] = {}
        #: whole inputs that break a rule, and how
        self.broken: dict[str, str] = {}
        #: those that this version does not read, and why
        self.unread: list[str] = []

    def __getitem__(self, name: str) -> bytes:
        return self.files[name]

    def folder(self, name: str) -> dict[str, bytes]:
        """Return the files of a folder, by name."""
        return {key[len(name) + 1 :]: data for key, data in self.files.items() if key.startswith(f"{name}/")}

    def once(self, key: str, make: Any) -> Any:
        """Return ``make()``, made once."""
        if key not in self.loaded:
            self.loaded[key] = make()
        return self.loaded[key]
