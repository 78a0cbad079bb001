"""Attention of every frame to all valid frames, and the distances between frames that it may read."""

from zeroq_asr.operators.attention import attention, distances

__all__ = ["attention", "distances"]
