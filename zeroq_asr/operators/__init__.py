"""The operators that ship, one record each: a file, or a folder for what is large.

Importing this folder registers all of them with ``zeroq_asr.registry``, which is what every other part asks.

Imported by: measure.
Imports: errors, threads, registry, integer, graph, capture, lowering.
Never imports: embedded, synthesis, calibration, deployment, pipeline, measure, cli.
"""

from zeroq_asr.operators import (
    activations,
    add,
    affine,
    attention,
    convolution,
    embedding,
    float_island,
    images,
    instance_norm,
    join,
    layer_norm,
    length_step,
    lstm,
    mask_time,
    mean_time,
    moves,
    multiply,
    pad,
    quantize_input,
    rotary,
)

__all__ = [
    "activations",
    "add",
    "affine",
    "attention",
    "convolution",
    "embedding",
    "float_island",
    "images",
    "instance_norm",
    "join",
    "layer_norm",
    "length_step",
    "lstm",
    "mask_time",
    "mean_time",
    "moves",
    "multiply",
    "pad",
    "quantize_input",
    "rotary",
]
