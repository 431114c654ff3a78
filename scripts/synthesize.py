"""Writes a raw data set as other pipelines, intensities, exposures and corruptions make it, for any program to read."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("synthesize")
