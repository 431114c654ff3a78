"""Draws raw images of the embedded data set with their masks, and the masks that a model predicts.

python docs/ext/segmentation.py <run> takes a run of SyntheticSegmentation, and writes docs/images/segmentation.png: its
first three validation samples.
"""

import json
import pathlib
import sys

import numpy as np

import r2l_jax
from r2l_jax.data.sets import datasets
from r2l_jax.results.contact_sheet import contact_sheet

PICTURE = pathlib.Path(__file__).parents[2] / "docs/images/segmentation.png"


def draw(run: str) -> None:
    """Draws the picture of a run."""
    metrics = json.loads(pathlib.Path(run, "fold_0", "metrics.json").read_text())
    model = r2l_jax.load(run)
    dataset = datasets.load(metrics["flags"]["dataset"], synthetic_size=metrics["flags"]["synthetic_size"])
    raws, masks = dataset.samples(np.array(metrics["valid_indices"][:3]))
    # A raw image is linear: without a tone curve, it would look nearly black.
    columns = {
        "raw image": raws ** (1 / 2.2),
        "learned processing": model.render(raws),
        "mask": masks.astype(np.float32),
        "prediction": (model.predict(raws) > 0.5).astype(np.float32),
    }
    contact_sheet({name: _below(images) for name, images in columns.items()}, columns=4, panel=582).save(PICTURE)


def _below(images: np.ndarray) -> np.ndarray:
    """Joins images `(N, H, W, ...)` in a column, with white lines between them."""
    padding = [(0, 0), (0, 1), *[(0, 0)] * (images.ndim - 2)]
    return np.concatenate(list(np.pad(images, padding, constant_values=1)))[:-1]


if __name__ == "__main__":
    draw(sys.argv[1])
