"""Two programs as one: the integers of both in turn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from quantized_transducers import quantized
from trained_transducers import BLANK, JOINT

import zeroq_asr as zq
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.backends.torch import TorchBackend
from zeroq_asr.integer.bundle import Bundle
from zeroq_asr.integer.joined import joined
from zeroq_asr.integer.proof import prove


@pytest.mark.parametrize("kind", ["lstm", "durations", "stateless"])
def test_one_program_gives_what_two_give_in_turn(kind: str) -> None:
    bundle = quantized(kind).bundle
    predictor, joiner = (bundle.programs[part] for part in ("predictor", "joiner"))
    both = joined(bundle, "predictor", "joiner")
    assert [port.name for port in both.inputs] == ["labels", "encoded"]
    assert [port.name for port in both.outputs] == ["logits"]
    assert prove(both).instructions == len(predictor.code) + len(joiner.code)
    generator, backend = np.random.default_rng(0), NumpyBackend()
    states = both.initial_states(batch=3)
    seen = set()
    for _ in range(30):
        labels = generator.integers(0, BLANK + 1, (3, int(predictor.inputs[0].dims[1]), 1)).astype(np.int32)
        encoded = generator.integers(-20000, 20000, (3, JOINT, 1)).astype(np.int32)
        predicted, *after = predictor.run(backend, labels, *states)
        wanted = (*joiner.run(backend, encoded, predicted), *after)
        found = both.run(backend, labels, encoded, *states)
        with torch.inference_mode():
            simulated = both.run(TorchBackend(), *map(torch.from_numpy, (labels, encoded, *states)))
        for a, b, c in zip(wanted, found, simulated, strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(a, c.numpy())
        states = tuple(after)
        seen.add(wanted[0].tobytes())
    assert len(seen) > 5, "scores never moved"


def test_parts_that_do_not_fit_are_refused() -> None:
    bundle, other = quantized("lstm").bundle, quantized("tanh").bundle
    mixed = Bundle({"predictor": bundle.programs["predictor"], "joiner": other.programs["joiner"]})
    with pytest.raises(zq.ProofError, match="one grid"):
        joined(mixed, "predictor", "joiner")
    # its lengths enter nowhere
    with pytest.raises(zq.ExportError, match="gives encoded, encoded_lengths, which joiner does not take"):
        joined(bundle, "encoder", "joiner")


def test_packings_go_along() -> None:
    bundle = quantized("lstm").bundle
    packed = dataclasses.replace(bundle.programs["predictor"], packings={"projection:weight": "int4"})
    both = joined(Bundle({**bundle.programs, "predictor": packed}), "predictor", "joiner")
    assert both.packings == {"predictor.projection:weight": "int4"}
    assert {"predictor.projection:weight", "joiner.output:weight"} <= both.constants.keys()
