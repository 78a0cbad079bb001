"""The integer program: its operators, the backends that interpret it, and its proof.

Nothing here imports torch or onnx, except the backends named after them.
"""
