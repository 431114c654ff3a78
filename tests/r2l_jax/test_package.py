import ast
import pathlib
import subprocess
import sys

import pytest


def test_no_progress_bar_is_written_to_a_file():
    """tqdm shows its bar anywhere but for `disable`, and with None, the default of `Bar`, on terminals alone."""
    defaults = {"tqdm": {}, "Bar": {"disable": "None"}}
    calls = [
        (
            file.name,
            node.lineno,
            (default | {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}).get("disable"),
        )
        for file in (pathlib.Path(__file__).parents[2] / "r2l_jax").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and (default := defaults.get(ast.unparse(node.func))) is not None
    ]
    on_terminals = ("None", "None if title else True", "None if is_first() else True")
    assert [call for call in calls if call[2] not in on_terminals] == []
    assert len(calls) > 10


@pytest.mark.parametrize(("version", "count"), [("0.10.2", 1), ("0.10.1", 0)])
def test_imports_warn_once_of_the_jaxlib_that_miscompiles(version, count):
    """`isp` warns, and not again where r2l_jax imports it (https://github.com/jax-ml/jax/issues/39103)."""
    code = f"import jax, jaxlib.version; jaxlib.version.__version__ = {version!r}; import isp, r2l_jax.pipelines, isp"
    command, root = [sys.executable, "-W", "always", "-c", code], pathlib.Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("UserWarning: jaxlib 0.10.2 computes some sums of matrix products wrongly") == count
