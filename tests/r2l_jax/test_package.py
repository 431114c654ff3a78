import ast
import pathlib
import subprocess
import sys

PROGRAM = """
import sys
import r2l_jax

assert "r2l_jax.data" not in sys.modules
print(r2l_jax.data.read_raw.__module__, hasattr(r2l_jax, "nothing"))
"""


def test_public_names_are_imported_on_first_use():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "r2l_jax.data.files.rawfile False\n"


def test_no_progress_bar_is_written_to_a_file():
    """tqdm shows its bar anywhere but for `disable`, and with None on terminals alone."""
    calls = [
        (file.name, node.lineno, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("disable"))
        for file in (pathlib.Path(__file__).parents[2] / "r2l_jax").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm"
    ]
    assert [call for call in calls if call[2] not in ("None", "no_bar()", "not total or no_bar()")] == []
    assert len(calls) > 10
