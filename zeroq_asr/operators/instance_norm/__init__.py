"""Normalization of every channel over an utterance's own frames."""

from zeroq_asr.operators.instance_norm import instance_norm

__all__ = ["instance_norm"]
