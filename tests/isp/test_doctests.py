"""Runs the examples of the public docstrings."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_names import public_names

import isp

DOCUMENTED = {name: inspect.getdoc(value) or "" for name, value in {"isp": isp, **public_names()}.items()}
WITH_EXAMPLES = [name for name, docstring in DOCUMENTED.items() if ">>>" in docstring]
assert {"isp.color.gamma_correct", "isp.pipeline.Pipeline"} <= {*WITH_EXAMPLES}


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_are_true(name):
    known = {"isp": isp, "jax": jax, "jnp": jnp, "np": np}
    test = doctest.DocTestParser().get_doctest(DOCUMENTED[name], known, name, None, None)
    report = []
    # colour-demosaicing, which other tests import, switches to the formats of an old NumPy.
    with np.printoptions(legacy=False):
        doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert not report, "".join(report)
