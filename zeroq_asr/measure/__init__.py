"""Measuring: word errors, comparisons with other ways to quantize, quality without recordings, and times.

Imports: _version, config, errors, files, progress, registry, speech, decoding, integer, graph, model,
capture, lowering, operators, synthesis, calibration, deployment, pipeline.
Never imports: cli.
"""
