"""Measures how many images a second the page on data loaders augments, beside kornia and albumentations.

python docs/ext/augmentation_speed.py prints images of 96x96 per second, in batches of 32: raw images to pictures as on
the page, and brightness, blur and noise of finished pictures by the other libraries. The calls take turns; the table
has the median of 15 rounds with the least and the greatest.
"""

import pathlib
import re
import time
from collections.abc import Callable
from typing import Any

import albumentations
import jax
import kornia.augmentation as kornia
import numpy as np
import torch

_BATCH, _SIDE, _ROUNDS = 32, 96, 15


def main() -> None:
    """Prints the table."""
    page = (pathlib.Path(__file__).parents[1] / "data_loader.md").read_text()
    names: dict[str, Any] = {"__name__": "page"}
    exec(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], names)
    raws = np.random.default_rng(0).uniform(0.1, 0.9, (_BATCH, _SIDE, _SIDE)).astype(np.float32)
    pictures = torch.rand(_BATCH, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0))
    bytes_of = (pictures.movedim(1, -1).numpy() * 255).astype(np.uint8)
    in_torch = torch.nn.Sequential(
        kornia.RandomBrightness((0.5, 2.0), p=1.0),
        kornia.RandomGaussianBlur((7, 7), (0.3, 2.0), p=1.0),
        kornia.RandomGaussianNoise(std=0.02, p=1.0),
    )
    in_numpy = albumentations.Compose(
        [
            albumentations.RandomBrightnessContrast((-0.5, 0.5), 0, p=1),
            albumentations.GaussianBlur((7, 7), (0.3, 2.0), p=1),
            albumentations.GaussNoise((0.02, 0.02), p=1),
        ]
    )
    calls: dict[str, Callable[[int], Any]] = {
        "r2l_jax, raw image to picture": lambda number: np.asarray(names["augmented"](raws, jax.random.key(number))),
        "kornia, picture": lambda number: in_torch(pictures).numpy(),
        "albumentations, picture of 8 bits": lambda number: [in_numpy(image=each)["image"] for each in bytes_of],
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(_ROUNDS + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call(number)
            # The first two calls compile.
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    for name, each in seconds.items():
        low, middle, high = _BATCH / np.quantile(each, [1, 0.5, 0])
        print(f"| {name} | {middle:.0f} ({low:.0f} to {high:.0f}) |")


if __name__ == "__main__":
    main()
