"""Trains a raw-to-logit model: raw mosaics through a (learnable) image signal processor and a task's network."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("train")
