"""Shows where metering harms: classes that differ in brightness or color alone, scenes of one color, small images.

python docs/ext/harm_of_metering.py <folder> writes docs/results/harm_of_metering.md, in a quarter of an hour on two
busy cores. The folder gets the raw files and the trained models.
"""

import json
import pathlib
import sys

import imageio.v3
import numpy as np

import isp
import r2l_jax
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.runtime.flags import build
from r2l_jax.training import train

RESULTS = pathlib.Path(__file__).parents[1] / "results/harm_of_metering.md"

# The light of the two classes of each set, as gains of red, green and blue.
CLASSES = {"brightness": ((1, 1, 1), (0.8, 0.8, 0.8)), "color": ((1, 1, 1), (0.8, 1, 1))}
SHARES = (1.0, 0.5, 0.0)
SEEDS = (1, 2)
SIDES = (64, 32, 16, 8)

_PIPELINE = """
import isp

def make(camera):
    pipeline = isp.metered(isp.parametrized(camera), camera)
    return pipeline.with_values({{"exposure_share": {share}, "balance_share": {share}}})
"""

_TEXT = """---
orphan: true
---

# Where metering harms

This page is written by `python docs/ext/harm_of_metering.py <folder>`; [Metering](../processing.md#metering) explains
the method. All raw images are of the embedded set.

## Classes that are brightness or color

Each set has two classes of 200 scenes. Those of the second class have four fifths of the light, or of the red light.
The accuracy on 100 test images, without a drift and at nine tenths of the light, in points, is the mean of {seeds}
seeds and, in parentheses, the least and the most. A share is the part of the gain, in stops, that metering applies.

{accuracies}

## Scenes of one color, and small images

The gain that metering finds for clean images, as the standard deviation of its exposure and of its gain of red, in
stops. The smaller the image, the more its content decides.

{gains}

An image whose zones all have one color is turned to the neutral color of the training images, whatever it shows.

## Why the black level is not metered

A shift of black could be told from the darkest sites of an image if they were always the same fraction of its mean.
Over clean images, estimates from the half percent of darkest sites of each color, by the median of these fractions,
scatter by {black} digital numbers of 12 bits (standard deviation, red, green, blue): more than drifts of black.
"""


def write_set(folder: pathlib.Path, gains: tuple[tuple[float, ...], ...]) -> None:
    """Writes raw files of two classes that differ in the gains of their light."""
    dataset = datasets.load("Synthetic", synthetic_images=400, synthetic_size=64)
    camera = dataset.camera
    assert camera is not None
    folder.mkdir(parents=True, exist_ok=True)
    levels = {"black_level": [level * 65535 for level in camera.black_level], "white_level": 65535}
    camera_file = folder.parent / "camera.json"
    camera_file.write_text(json.dumps({**json.loads(camera.to_json()), **levels}))
    for index in range(len(dataset)):
        raw, _ = dataset[index]
        black = np.asarray(isp.cfa.black_levels(np.array(camera.black_level), camera.pattern, *raw.shape))
        site_gains = isp.cfa.tiled(np.array(gains[index % 2])[isp.cfa.tile(camera.pattern)], *raw.shape)
        name = folder / f"class_{index % 2}" / f"{index}.tiff"
        name.parent.mkdir(exist_ok=True)
        values = np.clip(black + np.asarray(site_gains) * (raw - black), 0, 1)
        imageio.v3.imwrite(name, np.round(values * 65535).astype(np.uint16))


def accuracies(folder: pathlib.Path, data: pathlib.Path, share: float) -> tuple[list[float], list[float]]:
    """Trains models at a share, and returns their test accuracies without a drift and with a tenth less light."""
    file = folder / f"share_{share:g}.py"
    file.write_text(_PIPELINE.format(share=share))
    code = f"{file}:make"
    clean, darker = [], []
    for seed in SEEDS:
        config = build(
            TrainConfig,
            dataset="Folder",
            data_dir=str(data),
            camera=str(folder / "camera.json"),
            test_size=100,
            epochs=6,
            batch_size=16,
            warmup_epochs=1,
            seed=seed,
            logdir=str(folder),
            experiment_name=f"{data.name}_models",
            run_name=f"share_{share:g}/seed_{seed}",
            **({"pipeline": code} if share else {"auto": ()}),
        )
        train.run(config)
        run = r2l_jax.load(config.run_dir, code=code if share else ())
        (fold,) = run.folds
        raws, targets = fold.dataset.samples(fold.test_indices)
        camera = fold.dataset.camera
        assert camera is not None
        black = np.asarray(isp.cfa.black_levels(np.array(camera.black_level), camera.pattern, *raws.shape[1:]))
        for found, light in ((clean, 1.0), (darker, 0.9)):
            dimmed = (black + light * (raws - black)).astype(np.float32)
            found.append(100 * float((run.predict(dimmed).argmax(1) == targets).mean()))
    return clean, darker


def spreads() -> list[list[str]]:
    """Computes how much gains of metering differ over clean images, by the side of their middle."""
    dataset = datasets.load("Synthetic", synthetic_images=400, synthetic_size=64)
    raws, _ = dataset.samples(np.arange(len(dataset)))
    camera = dataset.camera
    assert camera is not None
    rows = []
    for side in SIDES:
        start = (raws.shape[1] - side) // 2
        middle = raws[:, start : start + side, start : start + side]
        settings = {"black_level": tuple(camera.black_level), "pattern": camera.pattern}
        levels = np.log2(np.asarray(isp.metering.levels(middle, 6.0, **settings)))
        red = levels[:, 0] - levels[:, 1]
        rows.append([f"{side}x{side}", f"{levels.mean(1).std():.2f}", f"{red.std():.2f}"])
    return rows


def black_spread() -> str:
    """Computes how much estimates of the black level scatter over clean images, for each color."""
    dataset = datasets.load("Synthetic", synthetic_images=400, synthetic_size=64)
    raws, _ = dataset.samples(np.arange(len(dataset)))
    camera = dataset.camera
    assert camera is not None
    found = []
    for sites in (raws[:, ::2, ::2], raws[:, ::2, 1::2], raws[:, 1::2, 1::2]):
        sites = sites.reshape(len(raws), -1) - camera.black_level[0]
        darkest, mean = np.percentile(sites, 0.5, axis=1), sites.mean(1)
        fraction = np.median(darkest / mean)
        found.append(4095 * ((darkest - fraction * mean) / (1 - fraction)).std())
    return ", ".join(f"{each:.0f}" for each in found)


def table(rows: list[list[str]]) -> str:
    """Formats rows as a table in Markdown."""
    heading, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([heading, "| --- " * len(rows[0]) + "|", *others])


def spread(values: list[float]) -> str:
    """Formats the mean of values, from the least to the most."""
    return f"{np.mean(values):.1f} ({min(values):.0f} to {max(values):.0f})"


def main(folder: str) -> None:
    """Trains the models, and writes the page."""
    root = pathlib.Path(folder).absolute()
    rows = [["classes differ in", "share", "clean", "nine tenths of the light"]]
    for name, gains in CLASSES.items():
        write_set(root / name, gains)
        rows += [[name, f"{share:g}", *map(spread, accuracies(root, root / name, share))] for share in SHARES]
    gains = [["image", "exposure", "gain of red"], *spreads()]
    known = {"accuracies": table(rows), "gains": table(gains), "black": black_spread()}
    RESULTS.write_text(_TEXT.format(seeds=len(SEEDS), **known))


if __name__ == "__main__":
    main(*sys.argv[1:])
