"""Deployment: ONNX files of programs, their verification, and running them.

Imports: _version, config, errors, files, integer, graph, speech, model, checkpoints, synthesis.
Never imports: capture, operators, lowering, calibration, pipeline, measure, cli.
"""
