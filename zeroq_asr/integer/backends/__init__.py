"""Interpreters of the primitives: numpy (the reference), torch, intervals (the proof), ONNX."""
