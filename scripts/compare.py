"""Compares runs: their scores, the settings in which they differ, and their learning curves."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("compare")
