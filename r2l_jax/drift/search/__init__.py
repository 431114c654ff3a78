"""Shared by the drift controls: knobs, frozen models, stacked searches, measuring."""
