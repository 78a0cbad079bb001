"""Products of two activations, of bytes and of 16 bits; gates are such products."""

from zeroq_asr.operators.multiply import mul

__all__ = ["mul"]
