"""Names that users choose by and that need nothing else to be known."""

from __future__ import annotations

#: of the ONNX files that are written: ``zeroq_asr.deployment.export``
DIALECTS = ("fused", "strict", "qdq")
#: where a benchmark runs
DEVICES = ("cpu", "cuda")
