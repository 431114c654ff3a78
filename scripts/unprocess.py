"""Turns a folder of JPEG and PNG into a raw data set: the mosaics that a camera would have taken, with its noise."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("unprocess")
