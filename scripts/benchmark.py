"""Measures how fast the library is beside what is in use today, and prints the table."""

from r2l_jax.programs.benchmark import run

if __name__ == "__main__":
    run()
