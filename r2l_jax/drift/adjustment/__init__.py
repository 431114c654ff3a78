"""Drift adjustment: tuning or learning the processing so that a model works."""
