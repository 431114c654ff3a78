"""Draws one sample side by side: under pipelines, under corruptions, or in the worst cell of an evaluation."""

from r2l_jax.programs.sheet import run

if __name__ == "__main__":
    run()
