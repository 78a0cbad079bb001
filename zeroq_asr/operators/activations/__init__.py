"""Elementwise nonlinearities, as tables of bytes and as polynomials."""

from zeroq_asr.operators.activations import activations

__all__ = ["activations"]
