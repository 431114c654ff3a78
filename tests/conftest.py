"""Checks every shape in a public signature while the tests run, and keeps JAX on the CPU."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jaxtyping import install_import_hook

install_import_hook(["isp", "tasks", "r2l_jax"], "beartype.beartype")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402


@pytest.fixture
def unchecked():
    """Switches the shape checks off, for tests of the errors that a user without them gets."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
