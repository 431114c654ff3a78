"""Adapts a trained model to drifted data (test-time adaptation).

python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05
python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05 --labeled=32

A model normalizes images with the batch-norm statistics of its training images. The program mixes in the statistics of
drifted images (AdaBN) and tunes the processing, with or without labels. The weights of the head do not change. The
adapted model is written as a run, with tables, curves and pictures. Repeat the command to resume.
"""

from r2l_jax.drift.adjustment.config import AdjustmentConfig


def main(config: AdjustmentConfig) -> None:
    """Adapts the run that the flags name."""
    from r2l_jax.drift.adjustment import adjustment

    adjustment.run(config)
