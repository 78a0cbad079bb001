"""Where the bytes of a transducer's bundle are, and what it costs to load it.

    python benchmarks/bundle_size.py
    python benchmarks/bundle_size.py --parakeet 512 --layers 4

quantizes the embedded transducer, or one of the shape of Parakeet RNN-T with random weights (``--parakeet``:
the encoder's width), with ranges from noise, which have no part in sizes.  The table has kB by what they are
of, for each dialect: weights, tables (as stored), biases and multipliers, other constants, nodes with the
shapes told, and metadata with ``bundle.json``; then the ratio to float, and the processor time (s)
of opening the three files on one thread, the median of nine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import zeroq_asr as zq
from zeroq_asr.deployment.reading import read_own_metadata

DIALECTS = ("fused", "strict")
LOADS = 9
#: what the name of a constant ends in → what it is
KINDS = {
    **dict.fromkeys(("weight", "recurrent", "entries"), "weights"),
    **dict.fromkeys(("bias", "multiplier", "offsets"), "biases, multipliers"),
    **dict.fromkeys(("sigmoid", "tanh", "table", "high", "low"), "tables"),
}


def parakeet(width: int, layers: int, folder: Path) -> zq.TransducerModel:
    """A Parakeet RNN-T with random weights and 1024 pieces."""
    import torch
    import transformers
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    pieces = ["<unk>", "\u2581", *(f"\u2581{k}" for k in range(1021))]
    made = Tokenizer(models.Unigram([(piece, -float(k)) for k, piece in enumerate(pieces)], unk_id=0))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made.add_special_tokens([AddedToken(token, special=True) for token in ("<unk>", "<pad>")])
    tokenizer = transformers.ParakeetTokenizer(tokenizer_object=made, unk_token="<unk>", pad_token="<pad>")
    encoder = {"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    config = transformers.ParakeetRNNTConfig(
        vocab_size=len(tokenizer) + 1,
        blank_token_id=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        encoder_config=encoder,
    )
    torch.manual_seed(0)
    network = transformers.ParakeetForRNNT(config)
    network.generation_config.decoder_start_token_id = config.blank_token_id
    extractor = transformers.ParakeetFeatureExtractor(feature_size=config.encoder_config.num_mel_bins)
    for part in (network, tokenizer, extractor):
        part.save_pretrained(folder)
    model = zq.load_model(folder)
    assert isinstance(model, zq.TransducerModel)
    return model


def parts(folder: Path) -> Counter[str]:
    """Bytes of a bundle's files by what they are of."""
    counts: Counter[str] = Counter({"metadata": (folder / "bundle.json").stat().st_size})
    for path in sorted(folder.glob("*.onnx")):
        model = onnx.load(path)
        stored: dict[str, str] = {}
        for constant, (name, _) in read_own_metadata(model, str(path))["encodings"].items():
            stored[name] = KINDS.get(constant.rsplit(":", 1)[-1], "others")
        for tensor in model.graph.initializer:
            counts[stored.get(tensor.name, "others")] += len(tensor.raw_data)
        metadata = sum(one.ByteSize() for one in model.metadata_props)
        counts["metadata"] += metadata
        held = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        counts["nodes, names, shapes"] += path.stat().st_size - held - metadata
    return counts


def load(folder: Path) -> float:
    """Median processor time of opening the files."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    times = []
    for _ in range(LOADS):
        start = time.process_time()
        for path in folder.glob("*.onnx"):
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        times.append(time.process_time() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parakeet", type=int, metavar="WIDTH")
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model: Any = (
            parakeet(options.parakeet, options.layers, Path(scratch, "model"))
            if options.parakeet
            else zq.load_model(zq.embedded_files().transducer)
        )
        prepared = zq.prepare_transducer(model, calibration=zq.CalibrationSpec("noise"))
        print(
            f"{model.name}: {model.float_bytes / 1e6:.3f} MB in float; ONNX Runtime {onnxruntime.__version__}"
        )
        for dialect in DIALECTS:
            folder = Path(scratch, dialect)
            made = zq.quantize_transducer(prepared, folder, dialect=dialect)
            print(f"\n{dialect}: {made.size / 1e6:.3f} MB, {made.size / model.float_bytes:.3f} of float")
            print(f"  opened in {load(folder):.2f} s")
            for kind, size in parts(folder).most_common():
                print(f"  {kind:22} {size / 1000:10.1f} kB")


if __name__ == "__main__":
    main()
