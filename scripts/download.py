"""Downloads a published data set, Raw-Microscopy or Raw-Drone."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("download")
