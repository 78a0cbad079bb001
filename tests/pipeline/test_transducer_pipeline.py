"""Transducers as bundles: the same integers everywhere, the float network's words, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from quantized_transducers import KINDS, SPEC, quantized
from trained_transducers import BLANK, speech, trained

import zeroq_asr as zq
from zeroq_asr.deployment.export import Export, export_bundle, write_bundle
from zeroq_asr.deployment.reading import read_own_metadata
from zeroq_asr.errors import ConfigError, ExportError, ProofError, VerificationError
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.onnx_shapes import BROADCAST
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.program import Program
from zeroq_asr.integer.proof import check_boundaries, prove_bundle
from zeroq_asr.pipeline.transducer import QuantizedTransducer, boundary_formats

STEPS = 200


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest) -> QuantizedTransducer:
    return quantized(request.param)


def sessions(exported: Export) -> list[onnxruntime.InferenceSession]:
    found = []
    for threads in (1, 2):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        data = exported.to_bytes()
        found.append(onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]))
    return found


def everywhere(program: Program, exports: list[Export], given: list[tuple[np.ndarray, ...]]) -> list[Any]:
    """Run a program on every interpreter, its states carried; what numpy gives, which all must give."""
    files = [session for one in exports for session in sessions(one)]
    entering = [*(port.name for port in program.inputs), *(state.name for state in program.states)]
    leaving = [*(port.name for port in program.outputs), *(f"next_{s.name}" for s in program.states)]
    states = program.initial_states(batch=len(given[0][0]))
    outputs = []
    for one in given:
        operands = (*one, *states)
        wanted = program.run(NumpyBackend(), *operands)
        with torch.inference_mode():
            simulated = program.run(TorchBackend(), *map(torch.from_numpy, operands))
        found = [tuple(v.numpy() for v in simulated)]
        found += [tuple(s.run(leaving, dict(zip(entering, operands, strict=True)))) for s in files]
        for results in found:
            for a, b in zip(results, wanted, strict=True):
                np.testing.assert_array_equal(a, b)
        states = wanted[len(program.outputs) :]
        outputs.append(wanted[: len(program.outputs)])
    return outputs


def require_same_everywhere(made: QuantizedTransducer, batch: int) -> None:
    exports = [export_bundle(made.bundle, made.deployment, dialect) for dialect in ("fused", "strict")]
    programs = made.bundle.programs
    features, _ = speech(batch, 4, 5)
    lengths = np.full(batch, features.shape[2])
    ((encoded, ends),) = everywhere(
        programs["encoder"], [one["encoder"] for one in exports], [(features.numpy(), lengths)]
    )
    assert ends.tolist() == [encoded.shape[2]] * batch
    generator = np.random.default_rng(0)
    labels = programs["predictor"].inputs[0]
    shape = (batch, int(labels.dims[1]), 1)
    given = [(generator.integers(0, BLANK + 1, shape).astype(np.int32),) for _ in range(STEPS)]
    predicted = [
        one[0] for one in everywhere(programs["predictor"], [one["predictor"] for one in exports], given)
    ]
    assert len({one.tobytes() for one in predicted}) > 5, "predictions never moved"
    pairs = [
        (np.ascontiguousarray(encoded[:, :, k % encoded.shape[2], None]), one)
        for k, one in enumerate(predicted[:20])
    ]
    everywhere(programs["joiner"], [one["joiner"] for one in exports], pairs)


@pytest.mark.parametrize("batch", [1, 3])
def test_every_part_gives_the_same_integers_everywhere(made: QuantizedTransducer, batch: int) -> None:
    require_same_everywhere(made, batch)


@pytest.mark.parametrize(("kind", "bits"), [("lstm", 4), ("durations", 5), ("stateless", 4)])
def test_weights_of_fewer_bits_give_the_same_integers_everywhere(
    kind: str, bits: int, tmp_path: Path
) -> None:
    made = quantized(kind, bits=bits)
    require_same_everywhere(made, 2)
    packed = [program.packings for program in made.bundle.programs.values()]
    for dialect in ("fused", "strict"):
        exports = export_bundle(made.bundle, made.deployment, dialect)
        write_bundle(tmp_path / dialect, exports, made.deployment)
        certificate = zq.verify(tmp_path / dialect)
        assert certificate.program_sha256 == made.bundle.digest()
        assert sum(count for _, count in certificate.packings.values()) == sum(map(len, packed))
    if kind == "lstm":
        recurrent = {f"lstm.{layer}:{name}" for layer in range(2) for name in ("weight", "recurrent")}
        assert recurrent <= {*packed[1]}


def test_no_bit_of_what_is_packed_is_uncovered() -> None:
    made = quantized("lstm", bits=4)
    program = made.bundle.programs["predictor"]
    model = onnx.ModelProto.FromString(made.exports["predictor"].to_bytes())
    own = read_own_metadata(model, "predictor")
    assert len(program.packings) == 4
    for name in program.packings:
        stored = next(t for t in model.graph.initializer if t.name == own["encodings"][name][0])
        data = stored.raw_data
        stored.raw_data = data[:-1] + bytes([data[-1] ^ 16])
        with pytest.raises(VerificationError):
            zq.verify(model.SerializeToString())
        stored.raw_data = data


def test_results_show_themselves_on_one_line() -> None:
    result = quantized("lstm")
    for one in (result, result.prepared):
        text = repr(one)
        assert "\n" not in text
        assert len(text) < 200
    assert f"bundle {result.bundle.digest()[:8]}" in repr(result)
    assert f"{result.prepared.model.name}, ranges from " in repr(result.prepared)


def test_boundaries_are_one_grid(made: QuantizedTransducer) -> None:
    programs = made.bundle.programs
    grids = {
        (part, port.name): programs[part].values[port.value]
        for part in programs
        for port in (*programs[part].inputs, *programs[part].outputs)
        if port.name in ("encoded", "predicted")
    }
    assert len(grids) == 4
    assert len({(info.type, info.scale, info.zero_point) for info in grids.values()}) == 1
    proofs = prove_bundle(made.bundle)
    assert {part: proof.peak for part, proof in proofs.items()} == {
        part: proof.peak for part, proof in made.proofs.items()
    }
    # the joiner adds them as they are
    total = programs["joiner"].code[0]
    assert (total.op, len(set(total.attrs["m"]))) == ("add_requant", 1)


def test_the_words_are_those_of_the_float_network(made: QuantizedTransducer) -> None:
    features, tokens = speech(20, 20, 1234)
    lengths = np.full(len(features), features.shape[2])
    wanted = zq.TransducerRecognizer(made.prepared.model).hypotheses(features.numpy(), lengths)
    integers = zq.IntegerTransducer.of_programs(made.bundle, made.deployment)
    found = integers.hypotheses(features.numpy(), lengths)
    # it learned the language, and integers say the same but for few words
    heard = sum(a.tokens == b for a, b in zip(wanted, tokens.tolist(), strict=True))
    same = sum(a.tokens == b.tokens for a, b in zip(wanted, found, strict=True))
    assert heard > 0
    assert same >= 18


def test_a_beam_says_what_the_float_networks_beam_says(made: QuantizedTransducer, tmp_path: Path) -> None:
    features, _ = speech(20, 20, 1234)
    lengths = np.full(len(features), features.shape[2])
    beam = zq.BeamSpec(width=3, ilm_weight=0.1, length_bonus=0.2)
    given = (features.numpy(), lengths)
    wanted = zq.TransducerRecognizer(made.prepared.model, beam).hypotheses(*given)
    found = zq.IntegerTransducer.of_programs(made.bundle, made.deployment, beam=beam).hypotheses(*given)
    assert sum(a.tokens == b.tokens for a, b in zip(wanted, found, strict=True)) >= 18
    near = [
        (a.score, b.score)
        for a, b in zip(wanted, found, strict=True)
        if isinstance(a, zq.ScoredHypothesis) and isinstance(b, zq.ScoredHypothesis) and a.tokens == b.tokens
    ]
    # a nat of a whole utterance, whose scores are those of 20 tokens
    assert len(near) >= 18
    assert all(abs(a - b) < 1.0 for a, b in near)
    write_bundle(tmp_path / "b", made.exports, made.deployment)
    opened = zq.open_recognizer(tmp_path / "b", beam=beam)
    assert isinstance(opened, zq.IntegerTransducer)
    assert opened.hypotheses(*given) == found


def test_a_beam_of_one_is_greedy_with_one_token_a_frame() -> None:
    made = quantized("lstm")
    deployment = dataclasses.replace(
        made.deployment, decoding=dataclasses.replace(made.deployment.decoding, max_symbols=1)
    )
    features, _ = speech(6, 12, 3)
    given = (features.numpy(), np.full(len(features), features.shape[2]))
    narrow = zq.IntegerTransducer.of_programs(made.bundle, deployment, beam=zq.BeamSpec(width=1))
    greedy = zq.IntegerTransducer.of_programs(made.bundle, deployment)
    told = [[one.tokens for one in recognizer.hypotheses(*given)] for recognizer in (narrow, greedy)]
    assert told[0] == told[1]


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_token_along_the_float_path(kind: str) -> None:
    made = quantized(kind)
    decoder, programs = made.prepared.decoder, made.bundle.programs
    features, tokens = speech(40, 12, 77)
    lengths = torch.full((len(features),), features.shape[2])
    real = decoder.encoder.run(features, lengths)[0]
    encoded = programs["encoder"].run(NumpyBackend(), features.numpy(), lengths.numpy())[0]
    floats = [torch.zeros(len(features), *s.dims[1:]) for s in decoder.predictor.states]  # type: ignore[arg-type]
    integers = programs["predictor"].initial_states(batch=len(features))
    seen = torch.full((len(features), decoder.context, 1), BLANK, dtype=torch.int32)
    scale = programs["joiner"].values[programs["joiner"].outputs[0].value].scale
    same, count, worst, spread = 0, 0, 0.0, 0.0
    for label in (None, *tokens.T):
        if label is not None:
            seen = torch.cat((label[:, None, None].int(), seen[:, :-1]), dim=1)
        wanted, *floats = decoder.predictor.run(seen, *floats)
        found, *integers = programs["predictor"].run(NumpyBackend(), seen.numpy(), *integers)
        for frame in range(real.shape[2]):
            (scores,) = decoder.joiner.run(real[:, :, frame, None], wanted)
            (given,) = programs["joiner"].run(
                NumpyBackend(), np.ascontiguousarray(encoded[:, :, frame, None]), found
            )
            a, b = scores[:, : BLANK + 1, 0].numpy(), given[:, : BLANK + 1, 0]
            same += int((a.argmax(1) == b.argmax(1)).sum())
            count += len(a)
            worst = max(worst, float(np.abs(b * scale - a).max()))
            spread = max(spread, float(np.abs(a).max()))
    assert same / count >= 0.99, f"{same} of {count}"
    assert worst <= 0.05 * spread, f"{worst} of {spread}"


@pytest.mark.parametrize("dialect", ["fused", "strict"])
def test_a_bundle_is_written_verified_and_decoded(
    made: QuantizedTransducer, dialect: str, tmp_path: Path
) -> None:
    exports = export_bundle(made.bundle, made.deployment, dialect)
    write_bundle(tmp_path / "b", exports, made.deployment)
    names = {"bundle.json", "encoder.onnx", "joiner.onnx", "predictor.onnx"}
    assert {path.name for path in (tmp_path / "b").iterdir()} == names
    certificate = zq.verify(tmp_path / "b")
    assert certificate.program_sha256 == made.bundle.digest()
    assert certificate.integer_only
    # as what is said goes through them; and what most nodes have first, of all parts together
    assert [*certificate.parts] == ["encoder", "predictor", "joiner"]
    for counts in (certificate.nodes, certificate.float_makers):
        assert [*counts.values()] == sorted(counts.values(), reverse=True)
    assert certificate.nodes["Add"] == sum(one.nodes["Add"] for one in certificate.parts.values())
    assert dialect == "fused" or not certificate.float_tensors
    opened = zq.open_recognizer(tmp_path / "b", threads=1)
    assert isinstance(opened, zq.TokenRecognizer)
    assert isinstance(opened, zq.IntegerTransducer)
    features, _ = speech(3, 6, 9)
    lengths = np.array([features.shape[2], features.shape[2] // 2, 8])
    found = opened.hypotheses(features.numpy(), lengths)
    for backend in (False, True):
        simulated = zq.IntegerTransducer.of_programs(made.bundle, made.deployment, torch=backend)
        assert simulated.hypotheses(features.numpy(), lengths) == found
    assert any(one.tokens for one in found)
    assert found[0].tokens == opened.hypotheses(features[:1].numpy(), lengths[:1])[0].tokens


def test_steps_are_spelled_as_onnx_runtime_is_fast_on_single_frames(made: QuantizedTransducer) -> None:
    """It takes a convolution utterance by utterance, and a scalar beside [B, C, 1] entry by entry."""
    read: dict[str, set[str]] = {}
    for part, one in export_bundle(made.bundle, made.deployment, "fused").items():
        graph = one.model.graph
        read[part] = {node.op_type for node in graph.node}
        if part == "encoder":
            continue
        scalars = {tensor.name for tensor in graph.initializer if not tensor.dims}
        # what is made of constants alone is made once, as a file is loaded
        loaded = one.backend.constant_tensors
        for node in graph.node:
            if node.op_type in BROADCAST and loaded.isdisjoint(node.output):
                assert scalars.isdisjoint(node.input), node
    assert {"ConvInteger", "QLinearConv"}.isdisjoint(read["joiner"])
    assert "MatMulInteger" in read["joiner"]


def test_the_same_seed_gives_the_same_bundle() -> None:
    again = quantized("lstm", again=True)
    assert again.bundle.digest() == quantized("lstm").bundle.digest()
    other = zq.LabelSpec(label_sources=("random",), label_seed=1)
    changed = quantized("lstm", labels=other)
    assert changed.bundle.digest() != again.bundle.digest()
    assert changed.deployment.recipe["labels"] == other.to_dict()


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    made, other = quantized("lstm"), quantized("tanh")
    folder = tmp_path / "b"
    write_bundle(folder, made.exports, made.deployment)
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for part in ("encoder", "predictor", "joiner"):
        # the same part of another bundle
        (folder / f"{part}.onnx").write_bytes(other.exports[part].to_bytes())
        with pytest.raises(VerificationError):
            zq.verify(folder)
        data = bytearray(whole[f"{part}.onnx"])
        data[len(data) // 2] ^= 1
        (folder / f"{part}.onnx").write_bytes(bytes(data))
        with pytest.raises(VerificationError):
            zq.verify(folder)
        (folder / f"{part}.onnx").unlink()
        with pytest.raises(VerificationError):
            zq.verify(folder)
        (folder / f"{part}.onnx").write_bytes(whole[f"{part}.onnx"])
    zq.verify(folder)


def test_boundaries_that_differ_are_refused(tmp_path: Path) -> None:
    made, other = quantized("lstm"), quantized("durations")
    programs = made.bundle.programs
    mixed = Bundle({**programs, "encoder": other.bundle.programs["encoder"]})
    with pytest.raises(ProofError, match=r"joiner\.encoded: takes int32 of scale .*, encoder gives int32 of"):
        check_boundaries(mixed)
    # each is what it says, and the folder lists them: only together they are wrong
    exports = export_bundle(mixed, made.deployment, "fused")
    write_bundle(tmp_path / "b", exports, made.deployment)
    with pytest.raises(VerificationError, match=r"its programs do not fit each other: joiner\.encoded"):
        zq.verify(tmp_path / "b")
    with pytest.raises(zq.CheckpointError, match=r"is no transducer that can be run: joiner\.encoded"):
        zq.open_recognizer(tmp_path / "b")
    # a port that takes less than may come
    joiner = programs["joiner"]
    narrow = dataclasses.replace(joiner.inputs[0], hi=1)
    tight = dataclasses.replace(joiner, inputs=(narrow, joiner.inputs[1]))
    with pytest.raises(ProofError, match=r"takes \[-\d+, 1\], encoder gives"):
        prove_bundle(Bundle({**programs, "joiner": tight}))
    with pytest.raises(ProofError, match="is given by"):
        check_boundaries(Bundle({**programs, "other": programs["encoder"]}))


def test_what_is_no_transducer_is_not_exported_as_one() -> None:
    made = quantized("lstm")
    programs, deployment = made.bundle.programs, made.deployment
    two = Bundle({part: programs[part] for part in ("encoder", "joiner")})
    with pytest.raises(
        ExportError, match="is a bundle of encoder, joiner; a transducer's is of encoder, pred"
    ):
        export_bundle(two, deployment, "fused")
    swapped = Bundle({**programs, "predictor": programs["joiner"]})
    with pytest.raises(ExportError, match="predictor: has the ports"):
        export_bundle(swapped, deployment, "fused")
    fewer = dataclasses.replace(deployment, tokenizer=zq.Tokenizer(("a", "b"), "characters"))
    with pytest.raises(ExportError, match=r"takes labels \[0, 5\], not \[0, 2\]"):
        export_bundle(made.bundle, fewer, "fused")
    assert deployment.decoding is not None
    timed = dataclasses.replace(
        deployment, decoding=dataclasses.replace(deployment.decoding, durations=(0, 1))
    )
    with pytest.raises(ExportError, match="gives 6 scores, not 8: tokens, the blank and durations"):
        export_bundle(made.bundle, timed, "fused")
    with pytest.raises(ConfigError, match="is no transducer's bundle"):
        zq.IntegerTransducer.of_programs(made.bundle, dataclasses.replace(deployment, decoding=None))


def test_formats_that_have_no_bundle_are_refused_by_name() -> None:
    model = trained()
    for spec, words in (
        (zq.QuantSpec.parse_bits("w3a8"), "have 4 to 8 bits and its values 8, not 3 and 8"),
        (zq.QuantSpec.parse_bits("w8a4"), "have 4 to 8 bits and its values 8, not 8 and 4"),
        (zq.QuantSpec(layer_bits=(("sum", 16),)), "takes no layer_bits"),
        (zq.QuantSpec(keep_float=("sum",)), "takes no keep_float"),
        (zq.QuantSpec(allow_float=True), "takes no allow_float"),
    ):
        with pytest.raises(ConfigError, match=words):
            zq.prepare_transducer(model, spec=spec)
    with pytest.raises(ConfigError, match="which qdq does not keep; use fused or strict"):
        zq.quantize_transducer(model, dialect="qdq")
    with pytest.raises(ConfigError, match="is prepared already"):
        zq.quantize_transducer(quantized("lstm").prepared, spec=SPEC)
    # CTC's take none
    with pytest.raises(ConfigError, match="takes a CTC network; prepare_transducer takes others"):
        zq.prepare(model)  # type: ignore[arg-type]  # what it takes no transducer for


def test_boundary_formats_share_a_scale() -> None:
    found = boundary_formats({"a": (-3.0, 2.0), "b": (0.0, 1.0), "c": (0.0, 0.0)})
    assert {info.scale for info in found.values()} == {6.0 / 32767}
    assert [info.hi for info in found.values()] == [32767, 10922, 1]
    assert boundary_formats({"a": (0.0, 0.0)})["a"].scale == 1.0


def test_the_account_is_json() -> None:
    made = quantized("durations")
    told = json.loads(json.dumps(made.to_dict()))
    assert told["program_sha256"] == made.bundle.digest()
    assert set(told["parts"]) == {"encoder", "predictor", "joiner"}
    assert told["recipe"]["labels"] == zq.LabelSpec().to_dict()
