"""Measures how fast the library is beside what is in use today, and prints the table."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("benchmark")
