"""Measures a camera's sensor: black level, gain, noise, uneven response, and defective sites."""

from r2l_jax.programs.calibrate import run

if __name__ == "__main__":
    run()
