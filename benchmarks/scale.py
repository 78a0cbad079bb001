"""What quantizing takes of time and memory, as networks grow.

    python benchmarks/scale.py fastconformer-l
    python benchmarks/scale.py checkpoint --checkpoint conformer_ctc_small.nemo --sensitivity
    python benchmarks/scale.py checkpoint --checkpoint conformer_ctc_small.nemo --bits w4a8 --reconstruct

Shapes are those of networks that people use, with random weights of a fixed seed, and statistics of one batch
of noise; ``checkpoint`` is a file.  Each is made and quantized in a process of its own, with the defaults.
A row is a stage: seconds of the wall and of all processors, and the most memory that the process has had by
its end (resident, the float network and Python's libraries included).  ``--sensitivity`` ranks the network's
layers instead, ``--verify`` verifies the file, too, in a process of its own.  ``--bits`` is that of
``quantize``, and ``--reconstruct`` trains the sections of a CTC network.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import zeroq_asr as zq
from zeroq_asr.architectures import ARCHITECTURES, SUBSAMPLING
from zeroq_asr.model import model_of
from zeroq_asr.pipeline.clock import Clock
from zeroq_asr.speech.frontend import FrontendConfig
from zeroq_asr.threads import torch_threads

#: a checkpoint that the command line names
CHECKPOINT = "checkpoint"
#: encoders of FastConformers: width, layers, and options of NeMo
FAST: dict[str, dict[str, Any]] = {
    "fastconformer-l": {"d_model": 512, "n_layers": 17, "feat_in": 80},
    "parakeet-ctc-0.6b": {"d_model": 1024, "n_layers": 24, "feat_in": 80, "xscaling": False},
    "parakeet-ctc-1.1b": {"d_model": 1024, "n_layers": 42, "feat_in": 80},
}
#: what all of them share
SHARED = {
    "n_heads": 8,
    "conv_kernel_size": 9,
    "subsampling": "dw_striding",
    "subsampling_factor": 8,
    "subsampling_conv_channels": 256,
}
WAV2VEC2 = "wav2vec2-large"
TOKENS = 1024
#: transducers: the encoder, and what stands behind it
TRANSDUCERS: dict[str, tuple[str, dict[str, Any]]] = {
    "parakeet-tdt-0.6b": (
        "parakeet-ctc-0.6b",
        {
            "decoder": {
                "_target_": "RNNTDecoder",
                "vocab_size": TOKENS,
                "prednet": {"pred_hidden": 640, "pred_rnn_layers": 2},
            },
            "joint": {
                "_target_": "RNNTJoint",
                "num_classes": TOKENS,
                "num_extra_outputs": 5,
                "jointnet": {"joint_hidden": 640, "activation": "relu"},
            },
            "decoding": {"durations": [0, 1, 2, 3, 4], "max_symbols": 10},
        },
    )
}
SHAPES = (CHECKPOINT, *FAST, *TRANSDUCERS, WAV2VEC2)


def fast_conformer(name: str) -> zq.AsrModel | zq.TransducerModel:
    """A FastConformer with random weights, whose normalizations have seen a batch of noise."""
    shape, behind = TRANSDUCERS.get(name, (name, {"decoder": {"num_classes": TOKENS}}))
    config = {"encoder": {**SHARED, **FAST[shape]}, **behind}
    architecture = "conformer_transducer" if name in TRANSDUCERS else "conformer_ctc"
    torch.manual_seed(0)
    network: Any = ARCHITECTURES[architecture](config)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = None
    network.train()
    mels = FAST[shape]["feat_in"]
    # sums, and with them the statistics, are rounded differently by each number of threads
    with torch.no_grad(), torch_threads(1):
        encoder = network.encoder if name in TRANSDUCERS else network
        encoder(torch.randn(2, mels, 512), torch.tensor([512, 512]))
    return model_of(
        network=network.eval().requires_grad_(False),
        frontend=FrontendConfig(features=mels),
        tokenizer=zq.Tokenizer(tuple(f"\u2581{number}" for number in range(TOKENS)), "sentencepiece"),
        name=name,
        architecture=architecture,
        config=config,
        subsampling_factor=SUBSAMPLING[architecture](config),
    )


def wav2vec2(folder: Path) -> zq.AsrModel:
    """wav2vec2's large network with random weights, by way of the folder that transformers writes."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        vocab_size=32,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        conv_bias=True,
    )
    transformers.Wav2Vec2ForCTC(config).save_pretrained(folder)
    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return zq.load_checkpoint(folder)


@contextmanager
def made(name: str, checkpoint: str | None) -> Iterator[zq.AsrModel | zq.TransducerModel]:
    """The network of a name."""
    if name == CHECKPOINT:
        yield zq.load_checkpoint(str(checkpoint))
    elif name == WAV2VEC2:
        with tempfile.TemporaryDirectory() as folder:
            yield wav2vec2(Path(folder))
    else:
        yield fast_conformer(name)


def peak() -> int:
    """Most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Watch:
    """Seconds and memory of the stages of a process."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            row = self.stages.setdefault(stage, {"wall": 0.0, "cpu": 0.0, "peak": 0.0})
            row["wall"] += time.perf_counter() - wall
            row["cpu"] += time.process_time() - cpu
            row["peak"] = peak()


def watching(watch: Watch) -> type[Clock]:
    """The pipeline's clock, which watches the processors and the memory as well."""

    class Watching(Clock):
        def __enter__(self) -> None:
            super().__enter__()
            self._watched = watch(self._stage)
            self._watched.__enter__()

        def __exit__(self, *error: object) -> None:
            self._watched.__exit__(None, None, None)
            super().__exit__(*error)

    return Watching


def measured(
    work: str, name: str, checkpoint: str | None, file: Path, bits: str, reconstruct: bool
) -> dict[str, Any]:
    """What a process measures of its work: "quantize", "sensitivity" or "verify"."""
    watch = Watch()
    if work == "verify":
        with watch("verify"):
            zq.verify(file)
        return {"stages": watch.stages}
    for name_of_module in ("prepare", "quantize", "transducer"):
        # the package's own attributes of these names are the functions
        module: Any = importlib.import_module(f"zeroq_asr.pipeline.{name_of_module}")
        module.Clock = watching(watch)
    with watch("make"), made(name, checkpoint) as model:
        pass
    found: dict[str, Any] = {"float_bytes": model.float_bytes}
    start = time.perf_counter(), time.process_time()
    if work == "sensitivity":
        zq.sensitivity(model)
    else:
        spec = zq.QuantSpec.parse_bits(bits)
        if isinstance(model, zq.TransducerModel):
            # what it is written to is a folder
            bundle = zq.quantize_transducer(model, file, spec=spec)
            found |= {"bytes": bundle.size, "program": bundle.bundle.digest()[:16]}
        else:
            training = zq.TrainingSpec(reconstruction="on" if reconstruct else "auto")
            quantized = zq.quantize(model, file, spec=spec, training=training)
            found |= {"bytes": quantized.size, "program": quantized.program.digest()[:16]}
    whole = {"wall": time.perf_counter() - start[0], "cpu": time.process_time() - start[1], "peak": peak()}
    return {**found, "stages": {**watch.stages, work: whole}}


def in_a_process(work: str, options: argparse.Namespace, shape: str, file: Path) -> dict[str, Any]:
    """What ``measured`` gives in a fresh process."""
    command = [sys.executable, __file__, shape, "--work", work, "--file", str(file), "--bits", options.bits]
    command += ["--reconstruct"] if options.reconstruct else []
    if options.checkpoint:
        command += ["--checkpoint", options.checkpoint]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shapes", nargs="+", choices=SHAPES)
    parser.add_argument("--checkpoint", help=f"the file of the shape {CHECKPOINT}")
    parser.add_argument("--sensitivity", action="store_true", help="rank the layers instead")
    parser.add_argument("--verify", action="store_true", help="verify the file, too")
    parser.add_argument("--bits", default="8")
    parser.add_argument("--reconstruct", action="store_true", help="train section by section")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        given = options.work, options.shapes[0], options.checkpoint, options.file
        print(json.dumps(measured(*given, options.bits, options.reconstruct)))
        return
    if (CHECKPOINT in options.shapes) != bool(options.checkpoint):
        parser.error(f"the shape {CHECKPOINT} needs --checkpoint FILE, and no other shape takes it")
    if options.reconstruct and any(shape in TRANSDUCERS for shape in options.shapes):
        parser.error("--reconstruct trains CTC networks")
    if options.sensitivity and (options.reconstruct or options.bits != "8"):
        parser.error("--sensitivity ranks layers whatever --bits and --reconstruct say")
    print(f"torch {torch.__version__}, {os.cpu_count()} processors")
    for shape in options.shapes:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "model.onnx")
            works = ["sensitivity"] if options.sensitivity else ["quantize"]
            works += ["verify"] if options.verify and not options.sensitivity else []
            for work in works:
                found = in_a_process(work, options, shape, file)
                if work != "verify":
                    size = f", {found['bytes'] / 1e6:.1f} MB" if "bytes" in found else ""
                    program = f", program {found['program']}" if "program" in found else ""
                    print(f"{shape}: {found['float_bytes'] / 1e6:.1f} MB in float{size}{program}")
                    print("stage             wall s    cpu s  peak GB")
                for stage, row in found["stages"].items():
                    told = f"{row['wall']:9.1f}{row['cpu']:9.1f}{row['peak'] / 1e9:9.2f}"
                    print(f"{stage:15}{told}", flush=True)


if __name__ == "__main__":
    main()
