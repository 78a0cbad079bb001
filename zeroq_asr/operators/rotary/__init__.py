"""Rotary positions: channels turned in pairs by angles that grow with the frame's number."""

from zeroq_asr.operators.rotary import rotate

__all__ = ["rotate"]
