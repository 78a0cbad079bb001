"""Embeddings: rows of bytes by label, what is refused of their constants, and their float ONNX."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from zeroq_asr.config import QuantSpec
from zeroq_asr.errors import ProofError
from zeroq_asr.graph.float_graph import FloatGraph, FloatNode
from zeroq_asr.integer.backends.numpy import NumpyBackend
from zeroq_asr.integer.program import Program, ValueInfo
from zeroq_asr.integer.proof import prove
from zeroq_asr.lowering.lower import lower

LABELS, WIDTH = 11, 6


def program(places: int = 2) -> tuple[Program, torch.Tensor]:
    weight = torch.randn(LABELS, WIDTH, generator=torch.Generator().manual_seed(0))
    attrs = {"weight": weight, "place": places - 1, "reach": (float(weight.min()), float(weight.max()))}
    graph = FloatGraph(
        ("labels",), ("y",), [FloatNode("embedding", "y", ("labels",), attrs)], ("row",), single=("labels",)
    )
    labels = ValueInfo("int32", 1.0, 0, 0, LABELS - 1)
    made = lower(graph, {}, QuantSpec(), channels={"labels": places}, max_frames=1, fixed={"labels": labels})
    return made, weight


def test_a_row_is_that_of_the_label_in_its_place() -> None:
    made, weight = program()
    labels = np.stack([np.zeros(LABELS), np.arange(LABELS)], axis=1)[:, :, None].astype(np.int32)
    (row,) = made.run(NumpyBackend(), labels)
    info = made.values["y"]
    real = (row[:, :, 0].astype(np.float64) - info.zero_point) * info.scale
    assert np.abs(real - weight.numpy()).max() <= 0.51 * info.scale
    assert prove(made).leaving["row"] == (0, 255)


@pytest.mark.parametrize("damage", ["offsets", "entries", "place", "label"])
def test_constants_that_are_no_table_are_refused(damage: str) -> None:
    made, _ = program()
    (code,) = made.code
    constants: dict[str, Any] = dict(made.constants)
    if damage == "offsets":
        constants["y:offsets"] = constants["y:offsets"][::-1].copy()
    elif damage == "entries":
        constants["y:entries"] = constants["y:entries"][:-1]
    elif damage == "place":
        code = dataclasses.replace(code, attrs={"place": 2})
    else:
        # a label that has no row
        port = dataclasses.replace(made.inputs[0], hi=LABELS)
        info = dataclasses.replace(made.values["labels"], hi=LABELS)
        made = dataclasses.replace(made, inputs=(port,), values={**made.values, "labels": info})
    changed = dataclasses.replace(made, code=[code], constants=constants)
    words = {
        "offsets": "offsets count the entries of a row",
        "entries": "entries are rows of 6, not 65",
        "place": "its labels have 2 channels",
        "label": r"lookup in 66 entries may reach \[0, 71\]",
    }
    with pytest.raises(ProofError, match=words[damage]):
        prove(changed)


def test_what_labels_mean_is_what_may_enter() -> None:
    made, _ = program()
    for change, words in (
        ({"type": "uint8"}, "is said to be uint8"),
        ({"hi": 3}, r"is said to lie in \[0, 3\]"),
        ({"zero_point": 1}, "is int32 with zero point 1, not 0"),
    ):
        info = dataclasses.replace(made.values["labels"], **change)  # type: ignore[arg-type]  # fields of several types
        with pytest.raises(ProofError, match=words):
            prove(dataclasses.replace(made, values={**made.values, "labels": info}))
