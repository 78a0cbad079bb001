"""ONNX files: writing them, verifying them, reading what they hold and running them.

Imported by: pipeline, measure, cli.
Imports: _version, errors, files, lines, config, speech, decoding, integer, graph, architectures, model,
capture, checkpoints, synthesis.
Never imports: pipeline, measure, cli.
"""
