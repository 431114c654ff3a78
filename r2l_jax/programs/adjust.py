"""Mends a trained model for drifted data, or compares learned with fixed processing.

python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05
python scripts/adjust.py --run=runs/quickstart/parametrized --intensities=0.05 --labeled=32
python scripts/adjust.py --run=runs/quickstart/parametrized --mode=learn

A model normalizes by statistics of its training images. To adapt, the program mixes those of drifted images into them,
and tunes the processing, with or without labels. The weights of the head stay as they are. It writes the mended model
as a run, adaptation.json or learning.json, curves, pictures and TensorBoard events. Repeat the command to resume.
"""

import functools

from r2l_jax.drift.adjustment.config import AdaptationConfig, LearningConfig
from r2l_jax.runtime import flags

MODES = flags.Switch(
    "mode",
    "adapt",
    "adapt: mend the model for drifted data; learn: train the run's model with fixed processing, and compare",
    {"adapt": AdaptationConfig, "learn": LearningConfig},
)


def main(config: AdaptationConfig | LearningConfig) -> None:
    """Adapts or compares as the flags say."""
    from r2l_jax.drift.adjustment import adaptation, learning

    if isinstance(config, LearningConfig):
        learning.run(config)
    else:
        adaptation.run(config)


run = functools.partial(flags.run, main, MODES)
