"""Checkpoints to recognisers, one file a format."""

from __future__ import annotations

from zeroq_asr.checkpoints.nemo import load_nemo as load_checkpoint

__all__ = ["load_checkpoint"]
