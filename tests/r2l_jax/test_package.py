import ast
import pathlib


def test_no_progress_bar_is_written_to_a_file():
    """tqdm shows its bar anywhere but for `disable`, and with None on terminals alone."""
    calls = [
        (file.name, node.lineno, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}.get("disable"))
        for file in (pathlib.Path(__file__).parents[2] / "r2l_jax").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "tqdm"
    ]
    on_terminals = ("None", "None if title else True", "None if is_first() else True")
    assert [call for call in calls if call[2] not in on_terminals] == []
    assert len(calls) > 10
