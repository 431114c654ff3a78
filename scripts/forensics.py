"""Finds out how a trained model depends on its processing."""

from r2l_jax.programs.forensics import run

if __name__ == "__main__":
    run()
