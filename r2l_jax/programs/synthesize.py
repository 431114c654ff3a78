"""Renders a raw data set under other pipelines, intensities, exposures and corruptions, as pictures for any program.

python scripts/synthesize.py --output=drifted --pipelines=parametrized,menon2007.unsharp_masking.median_denoising
python scripts/synthesize.py --output=drifted_cells --dataset=Microscopy --data_dir=data --intensities=0.05,1 \
  --corruptions=gaussian_noise,contrast --severities=1,3,5 --format=png

Every pipeline is combined with every intensity and exposure, and each combination is written uncorrupted and with every
corruption. Each set is the folder <output>/<pipeline>/<intensity or exposure>/<corruption>/, with a sub-folder for each
class, or images and masks. Its result.json records its origin, manifest.csv the file and class of each sample, and
croissant.json and README.md describe it for others. With --format=dng, the sets are raw images. Repeat the command to
resume; with other settings, it adds sets, and replaces those of the same name.
"""

from r2l_jax.drift.synthesis.config import SynthesisConfig


def main(config: SynthesisConfig) -> None:
    """Writes the sets that the flags name."""
    import pathlib

    from r2l_jax.apps.share import croissant, data
    from r2l_jax.drift.synthesis import synthesis
    from r2l_jax.results import result

    synthesis.run(config)
    for each in config.sets:
        folder = pathlib.Path(config.output, each.name)
        described, made = folder / croissant.FILE, folder / result.FILE
        # A set that stays keeps what `card.py` has added to its description.
        if not described.exists() or described.stat().st_mtime_ns < made.stat().st_mtime_ns:
            data.write(folder, data.of_set(folder))
