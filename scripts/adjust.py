"""Adjusts a trained model's processing to drifted data, or compares learning it with leaving it as it is."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("adjust")
