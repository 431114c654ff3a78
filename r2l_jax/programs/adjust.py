"""Adapts a trained model to drifted data (test-time adaptation).

python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05
python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05 --labeled=32

A model normalizes images by batch-norm statistics of its training images. The program mixes in those of drifted
images (AdaBN), and tunes the processing, with or without labels. The weights of the head do not change. It writes the
adapted model as a run, and tables, curves and pictures. Repeat the command to resume.
"""

from r2l_jax.drift.adjustment.config import AdjustmentConfig


def main(config: AdjustmentConfig) -> None:
    """Adapts as the flags say."""
    from r2l_jax.drift.adjustment import adjustment

    adjustment.run(config)
