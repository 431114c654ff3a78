"""Tests trained models on data as other pipelines, exposures and corruptions make it."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("evaluate")
