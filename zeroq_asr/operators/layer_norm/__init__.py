"""Normalization of every frame over its channels."""

from zeroq_asr.operators.layer_norm import layer_norm

__all__ = ["layer_norm"]
