"""Docstrings of public functions say which arguments raise a ValueError."""

import ast
import inspect
import textwrap

import pytest
from public_names import public_names

# Checks of raw images, images and patterns; the docstring of `isp` says that all functions make them.
GENERAL = {"check_image", "check_mosaic", "tile"}


def refuses(function):
    """Whether a function raises a ValueError for its own arguments, by itself or by a check."""
    tree = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function))))
    called = {ast.unparse(node.func).split(".")[-1] for node in tree if isinstance(node, ast.Call)}
    checks = {name for name in called - GENERAL if name.lstrip("_").startswith("check") or name.endswith("_size")}
    return "ValueError" in called or bool(checks)


REFUSING = [
    name
    for name, value in public_names().items()
    if inspect.isfunction(function := inspect.unwrap(getattr(value, "__func__", value))) and refuses(function)
]


def test_refusing_functions_are_found():
    assert {"isp.tone.curve", "isp.denoise.bilateral", "isp.pipeline.Pipeline.trace"} <= set(REFUSING)


@pytest.mark.parametrize("name", REFUSING)
def test_a_docstring_says_which_arguments_raise_a_value_error(name):
    assert "ValueError" in (inspect.getdoc(public_names()[name]) or "")
