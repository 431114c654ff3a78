"""Renders raw files to pictures."""

from r2l_jax.programs.process import run

if __name__ == "__main__":
    run()
