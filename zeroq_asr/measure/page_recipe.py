"""How a file can be made again: the command, from the recipe that the file keeps."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

from zeroq_asr.config import CalibrationSpec, LabelSpec, QuantSpec, SynthesisSpec, TrainingSpec
from zeroq_asr.config.calibration import MADE
from zeroq_asr.config.choices import CTC

#: what a plan says itself
_OF_PLAN = ("weight_bits", "sensitive_bits", "activation_bits", "layer_bits", "layer_grids", "logit_bits")
#: section of a recipe → what its fields are of
_SECTIONS: dict[str, Any] = {
    "quantization": QuantSpec,
    "synthesis": SynthesisSpec,
    "calibration": CalibrationSpec,
    "training": TrainingSpec,
    "labels": LabelSpec,
}


def quantize_command(
    recipe: Mapping[str, Any], model: str, output: str, dialect: str, *, head: str = CTC
) -> str:
    """Return the command line that quantizes ``model``, the ``head`` of it, as a file's recipe says.

    Only what differs from the defaults is spelled out.  A plan is named plan.yaml: its text is in the recipe.
    """
    words = ["zeroq-asr", "quantize", model, "--output", output]
    if head != CTC:
        # what a hybrid would else not be quantized by
        words += ["--head", head]
    if dialect != "fused":
        words += ["--dialect", dialect]
    if "plan" in recipe:
        words += ["--bits", "plan.yaml"]
    for section, kind in _SECTIONS.items():
        for name, value in changed(recipe.get(section, {}), kind).items():
            if "plan" in recipe and section == "quantization" and name in _OF_PLAN:
                continue
            if section == "calibration" and name == "source":
                words += ["--calibration", str(value)]
            else:
                words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join(words)


def changed(fields: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return those of ``fields``, as JSON values, that are not what ``kind`` has by default."""
    defaults = json.loads(json.dumps(dataclasses.asdict(kind())))
    given = json.loads(json.dumps({**fields}))
    return {name: value for name, value in given.items() if name in defaults and value != defaults[name]}


def notes(recipe: Mapping[str, Any]) -> list[str]:
    """Return what the command alone does not bring back, each a sentence."""
    told = []
    if "plan" in recipe:
        told.append("Write the plan of the recipe to plan.yaml first.")
    if recipe.get("calibration", {}).get("source") not in MADE:
        told.append("Ranges come from features or recordings, of which the file keeps the name alone.")
    if "training" in recipe:
        told.append("Weights were trained: how many steps fit into a time depends on the machine.")
    return told
