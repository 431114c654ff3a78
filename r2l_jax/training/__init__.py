"""Training: steps, folds, checkpoints, tracking, and finished runs."""
