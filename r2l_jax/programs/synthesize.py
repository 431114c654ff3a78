"""Writes a raw data set as pictures of other pipelines, intensities, exposures and corruptions, for any program.

python scripts/synthesize.py --output=drifted --pipelines=parametrized,menon2007.unsharp_masking.median_denoising
python scripts/synthesize.py --output=drifted_cells --dataset=Microscopy --data_dir=data --intensities=0.05,1 \
  --corruptions=gaussian_noise,contrast --severities=1,3,5 --format=png

Every pipeline meets every intensity and exposure, and each of these images is written uncorrupted and under every
corruption: <output>/<pipeline>/<intensity or exposure>/<corruption>/ is one set, with a sub-folder a class, or images
and masks. A set's manifest.csv has the origin and the SHA-256 of each picture, <output>/manifest.json their common
settings. Repeat the command to resume; other settings add their sets.
"""

import functools

from r2l_jax.drift.synthesis.config import SynthesisConfig
from r2l_jax.runtime import flags


def main(config: SynthesisConfig) -> None:
    """Writes the sets that the flags name."""
    from r2l_jax.drift.synthesis import synthesis

    synthesis.run(config)


run = functools.partial(flags.run, main, SynthesisConfig)
