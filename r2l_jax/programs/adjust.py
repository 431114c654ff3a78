"""Adapts a trained model to drifted data.

python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05
python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05 --labeled=32

A model normalizes images by the statistics of its training images. The program mixes in the statistics of drifted
images, and tunes the processing, with or without labels. The weights of the head do not change. It writes the adapted
model as a run, and tables, curves and pictures. Repeat the command to resume.
"""

from r2l_jax.drift.adjustment.config import AdaptationConfig


def main(config: AdaptationConfig) -> None:
    """Adapts as the flags say."""
    from r2l_jax.drift.adjustment import adaptation

    adaptation.run(config)
