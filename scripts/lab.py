"""Serves a page on which raw files are processed live."""

from r2l_jax.programs.lab import run

if __name__ == "__main__":
    run()
