"""Names that users choose by and that need nothing else to be known."""

from __future__ import annotations

#: of a checkpoint, which is read: what there is (of a hybrid the CTC head), a CTC head, or a transducer
AUTO, CTC, TRANSDUCER = "auto", "ctc", "transducer"
HEADS = (AUTO, CTC, TRANSDUCER)
#: of the ONNX files that are written: ``zeroq_asr.deployment.export``
DIALECTS = ("fused", "strict", "qdq")
#: where a benchmark runs
DEVICES = ("cpu", "cuda")
#: grid (``zeroq_asr.integer.grid``) that weights of so many bits have where nobody names one
GRID_OF_BITS = {
    1: "binary",
    2: "logistic2",
    3: "int3",
    4: "logistic4",
    5: "int5",
    6: "int6",
    7: "int7",
    8: "int8",
}
#: speech runtimes that folders are written for (``zeroq_asr.deployment.runtime_folders``)
SHERPA_ONNX, ONNX_ASR = "sherpa-onnx", "onnx-asr"
RUNTIMES = (SHERPA_ONNX, ONNX_ASR)
#: where the cells of a sweep are computed (``zeroq_asr.measure.sweep``): processes of this machine, or Ray
LOCAL, RAY = "local", "ray"
RUNNERS = (LOCAL, RAY)
