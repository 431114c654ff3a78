"""Predicts raw files by a trained model: a table of classes, or masks."""

from r2l_jax.programs.predict import run

if __name__ == "__main__":
    run()
