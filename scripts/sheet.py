"""Draws one sample side by side: under pipelines, under corruptions, or in the worst cell of an evaluation."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("sheet")
