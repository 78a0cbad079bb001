"""Figures: word errors, comparisons, reports, sensitivity, times, and what a machine computes exactly.

Imported by: cli.
Imports: _version, errors, lines, progress, files, threads, config, registry, speech, decoding, integer,
graph, model, capture, lowering, operators, synthesis, calibration, deployment, pipeline.
Never imports: cli.
"""
