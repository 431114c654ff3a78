"""Repeats the study of Oala et al. (TMLR 2023) on a data set, and shows its results beside the published ones."""

from r2l_jax.programs import start

if __name__ == "__main__":
    start("study")
