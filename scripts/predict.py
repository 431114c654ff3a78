"""Predicts raw files by a trained model: a table of classes, or masks."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("predict")
