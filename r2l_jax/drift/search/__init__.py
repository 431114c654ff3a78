"""What the drift controls share: knobs, frozen models, stacked searches, measuring."""
