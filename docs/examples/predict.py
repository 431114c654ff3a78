"""Trains a small model on synthetic blood cells, and classifies mosaics with it."""

import tempfile

import numpy as np

import r2l_jax
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.runtime.flags import build
from r2l_jax.training import train

scenes = {"synthetic_images": 40, "synthetic_size": 32}
with tempfile.TemporaryDirectory() as folder:
    config = build(TrainConfig, logdir=folder, epochs=2, batch_size=8, lr=1e-3, **scenes)
    train.run(config)
    model = r2l_jax.load(config.run_dir)

raws, targets = datasets.load("Synthetic", **scenes).samples(np.arange(5))
for target, probabilities in zip(targets, model.predict(raws), strict=True):
    found = probabilities.argmax()
    print(f"{model.classes[target]}: predicted {model.classes[found]}, {probabilities[found]:.0%}")
