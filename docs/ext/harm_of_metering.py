"""Shows where metering harms: classes that differ in brightness or color alone, scenes of one color, small images.

python docs/ext/harm_of_metering.py <folder> writes harm_of_metering.csv, metering_of_small_images.csv and
black_level_estimates.csv to docs/results, in a quarter of an hour on two busy cores. The folder gets the raw files and
the trained models.
"""

import json
import pathlib
import sys
from collections.abc import Iterator

import imageio.v3
import measurements
import numpy as np

import isp
import r2l_jax
from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.training import train

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
        raws, targets = fold.dataset.samples(fold.split.test)
        camera = fold.dataset.camera
        assert camera is not None
        black = np.asarray(isp.cfa.black_levels(np.array(camera.black_level), camera.pattern, *raws.shape[1:]))
        for found, light in ((clean, 1.0), (darker, 0.9)):
            dimmed = (black + light * (raws - black)).astype(np.float32)
            found.append(100 * float((run.predict(dimmed).argmax(1) == targets).mean()))
    return clean, darker


def spreads() -> Iterator[dict[str, str]]:
    """Yields the spread of metering gains over clean images, in stops, by the side of their cropped middle."""
    dataset = datasets.load("Synthetic", synthetic_images=400, synthetic_size=64)
    raws, _ = dataset.samples(np.arange(len(dataset)))
    camera = dataset.camera
    assert camera is not None
    for side in SIDES:
        start = (raws.shape[1] - side) // 2
        middle = raws[:, start : start + side, start : start + side]
        settings = {"black_level": tuple(camera.black_level), "pattern": camera.pattern}
        levels = np.log2(np.asarray(isp.metering.levels(middle, 6.0, **settings)))
        red = levels[:, 0] - levels[:, 1]
        yield {
            "image": f"{side}x{side}",
            "exposure": f"{levels.mean(1).std():.2f}",
            "gain_of_red": f"{red.std():.2f}",
        }


def black_spread() -> Iterator[dict[str, str]]:
    """Yields the scatter of black level estimates over clean images, for each color."""
    dataset = datasets.load("Synthetic", synthetic_images=400, synthetic_size=64)
    raws, _ = dataset.samples(np.arange(len(dataset)))
    camera = dataset.camera
    assert camera is not None
    sites_of = {"red": raws[:, ::2, ::2], "green": raws[:, ::2, 1::2], "blue": raws[:, 1::2, 1::2]}
    for color, sites in sites_of.items():
        sites = sites.reshape(len(raws), -1) - camera.black_level[0]
        darkest, mean = np.percentile(sites, 0.5, axis=1), sites.mean(1)
        fraction = np.median(darkest / mean)
        deviation = 4095 * ((darkest - fraction * mean) / (1 - fraction)).std()
        yield {"color": color, "digital_numbers": f"{deviation:.0f}"}


def rows(name: str, share: float, clean: list[float], darker: list[float]) -> Iterator[dict[str, str]]:
    """Yields the accuracies of the models at a share: the mean of the seeds, the lowest and the highest."""
    for light, found in (("clean", clean), ("nine tenths of the light", darker)):
        yield {
            **{"classes_differ_in": name, "share": f"{share:g}", "light": light},
            **{"accuracy": f"{np.mean(found):.1f}", "lowest": f"{min(found):.0f}", "highest": f"{max(found):.0f}"},
        }


def main(folder: str) -> None:
    """Trains the models, and writes the tables."""
    measurements.write("metering_of_small_images", [*spreads()])
    measurements.write("black_level_estimates", [*black_spread()])
    root, found = pathlib.Path(folder).absolute(), []
    for name, gains in CLASSES.items():
        write_set(root / name, gains)
        for share in SHARES:
            found += rows(name, share, *accuracies(root, root / name, share))
    measurements.write("harm_of_metering", found)


if __name__ == "__main__":
    main(*sys.argv[1:])
