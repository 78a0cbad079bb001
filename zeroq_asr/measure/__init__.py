"""Figures: word errors, comparisons, sweeps, reports, sensitivity, times, and what is exact on a machine.

Imported by: cli.
Imports: _version, errors, lines, progress, files, threads, config, registry, speech, decoding, integer,
graph, model, checkpoints, capture, lowering, operators, embedded, synthesis, calibration,
deployment, pipeline.
Never imports: cli.
"""
