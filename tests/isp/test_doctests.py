"""Runs the examples of the public docstrings, and requires one of each public function of isp."""

import doctest
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from public_names import public_names

import isp

DOCUMENTED = {"isp": isp, **public_names()}


def run_examples(name, docstring):
    """Runs the examples of a docstring; returns their number and the report of those that fail."""
    known = {"isp": isp, "jax": jax, "jnp": jnp, "np": np}
    test = doctest.DocTestParser().get_doctest(docstring, known, name, None, None)
    report = []
    # colour-demosaicing, which other tests import, switches to the formats of an old NumPy.
    with np.printoptions(legacy=False):
        doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    return len(test.examples), "".join(report)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_are_true(name):
    count, report = run_examples(name, inspect.getdoc(DOCUMENTED[name]))
    assert count > 0, f"the docstring of {name} has no example"
    assert not report, report


def test_a_wrong_example_fails():
    docstring = inspect.getdoc(isp.color.gamma_correct)
    assert "0.5" in docstring.partition("Example:")[2]
    _, report = run_examples("isp.color.gamma_correct", docstring.replace("array([[[0. , 0.5", "array([[[0. , 0.6"))
    assert "0.6" in report
