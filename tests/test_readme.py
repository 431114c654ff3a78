import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_snippets_run(snippet):
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:scripts|configs|docs)/[\w.]+\.\w+", README))))
def test_files_named_exist(path):
    assert (ROOT / path).is_file()


def test_every_program_is_in_the_table():
    for script in (ROOT / "scripts").glob("*.py"):
        assert f"| `scripts/{script.name}` |" in README
