"""Runs the examples of the public docstrings, and requires one of each public function of isp."""

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import isp


def functions_and_classes(namespace):
    """Finds public names that are defined in a module or a class, compiled functions included."""
    for name in vars(namespace):
        value = getattr(namespace, name)
        defined_here = inspect.isclass(namespace) or getattr(value, "__module__", None) == namespace.__name__
        if not name.startswith("_") and defined_here:
            if inspect.isclass(value):
                yield name, value
                yield from ((f"{name}.{method}", each) for method, each in functions_and_classes(value))
            elif inspect.isroutine(inspect.unwrap(value)):
                yield name, value


def documented():
    """Finds all that must have an example, by full name.

    `doctest.DocTestFinder` would miss functions that are wrapped by `jax.jit` or by the type checker of the tests.
    """
    modules = [info.name for info in pkgutil.iter_modules(isp.__path__, "isp.") if info.name != "isp._engine"]
    found = {"isp": isp}
    for module in modules:
        members = functions_and_classes(importlib.import_module(module))
        found |= {f"{module}.{name}": value for name, value in members}
    return found


DOCUMENTED = documented()


def run_examples(name, docstring):
    """Runs the examples of a docstring; returns their number and the report of those that fail."""
    test = doctest.DocTestParser().get_doctest(docstring, {}, name, None, None)
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


@pytest.mark.parametrize(
    "name",
    [
        "isp.tone.gamma_correct",  # compiled
        "isp.color.rgb_to_yuv",  # plain
        "isp.demosaic.menon2007",  # compiled, with options
        "isp.pipeline.Pipeline",
        "isp.pipeline.Pipeline.trace",
        "isp.camera.Camera.from_json",
    ],
)
def test_functions_of_every_kind_are_found(name):
    assert name in DOCUMENTED


def test_every_public_function_of_the_design_is_found():
    by_module = {
        "demosaic": ["bilinear", "malvar2004", "menon2007"],
        "color": ["white_balance", "color_correct", "rgb_to_yuv", "yuv_to_rgb", "rgb_to_hsv", "hsv_to_rgb"],
        "tone": ["gamma_correct"],
        "sharpen": ["sharpening_filter", "unsharp_masking", "unsharp_masking_vertical"],
        "denoise": [
            *("gaussian_denoising", "median_denoising", "fft_denoising"),
            *("tv_chambolle", "tv_bregman", "bilateral"),
        ],
        "unprocessing": ["unprocess"],
        "published": ["parametrized", "static"],
    }
    expected = {f"isp.{module}.{name}" for module, names in by_module.items() for name in names}
    assert expected <= DOCUMENTED.keys()


def test_a_wrong_example_fails():
    docstring = inspect.getdoc(isp.tone.gamma_correct)
    assert "0.5" in docstring.partition("Example:")[2]
    _, report = run_examples("isp.tone.gamma_correct", docstring.replace("array([[[0. , 0.5", "array([[[0. , 0.6"))
    assert "0.6" in report
