"""Writes a report of runs: one HTML file of everything that their folders hold."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("report")
