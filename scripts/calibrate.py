"""Measures a camera's sensor: black level, gain, noise, uneven response, and defective sites."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("calibrate")
