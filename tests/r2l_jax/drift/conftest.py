"""Counts what tests compile."""

import contextlib
import re

import jax
import pytest


@pytest.fixture
def compiled(caplog):
    """A context that lists the functions of some names that are compiled in it."""

    @contextlib.contextmanager
    def compiled(names):
        found = []
        caplog.clear()
        with jax.log_compiles():
            yield found
        messages = [re.match(r"Compiling jit\((\w+)\)", record.getMessage()) for record in caplog.records]
        found += [message[1] for message in messages if message and message[1] in names]

    return compiled
