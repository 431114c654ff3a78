"""Downloads a published data set, Raw-Microscopy or Raw-Drone."""

from r2l_jax.programs.download import run

if __name__ == "__main__":
    run()
