"""The model of the run that all tests share."""

import pytest

import r2l_jax


@pytest.fixture(scope="module")
def model(one_epoch):
    """A model of one epoch, for 32x32 mosaics of five classes."""
    return r2l_jax.load(one_epoch.run_dir)
