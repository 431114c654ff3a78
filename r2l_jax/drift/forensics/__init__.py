"""Drift forensics: which processing parameters break a model, and by how much."""
