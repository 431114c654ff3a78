"""Trains a small model on synthetic blood cells, and classifies raw images with it."""

import tempfile

import numpy as np

import r2l_jax
from r2l_jax.cli.flags import build
from r2l_jax.config import TrainConfig
from r2l_jax.data.sets import datasets
from r2l_jax.training import train

with tempfile.TemporaryDirectory() as folder:
    config = build(TrainConfig, logdir=folder, epochs=2, batch_size=8, lr=1e-3, synthetic_images=40, synthetic_size=32)
    train.run(config)
    model = r2l_jax.load(config.run_dir)

# A larger set begins with the same 40 scenes; the model has not seen the others.
raws, targets = datasets.load("Synthetic", synthetic_images=45, synthetic_size=32).samples(np.arange(40, 45))
for target, probabilities in zip(targets, model.predict(raws), strict=True):
    found = probabilities.argmax()
    print(f"{model.classes[target]}: predicted {model.classes[found]}, {probabilities[found]:.0%}")
