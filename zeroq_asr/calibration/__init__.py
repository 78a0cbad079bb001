"""Ranges of a float graph's values, observed on features, and what evens them out beforehand.

Imported by: pipeline, measure.
Imports: errors, progress, threads, config, registry, decoding, graph.
Never imports: deployment, pipeline, measure, cli.
"""
