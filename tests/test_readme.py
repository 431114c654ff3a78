import dataclasses
import pathlib
import re
import runpy

import pytest
from absl import flags

from r2l_jax.config import TrainConfig

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_snippets_run(snippet):
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:scripts|configs|docs)/[\w.]+\.\w+", README))))
def test_files_named_exist(path):
    assert (ROOT / path).is_file()


def test_flagfiles_are_what_train_takes():
    program = runpy.run_path(str(ROOT / "scripts" / "train.py"))
    program["define_flags"]()
    files = sorted((ROOT / "configs").glob("*.flags"))
    assert files
    for file in files:
        flags.FLAGS.unparse_flags()
        flags.FLAGS(["train.py", f"--flagfile={file}"])
        TrainConfig(**{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(TrainConfig)})


def test_every_program_is_in_the_table():
    for script in (ROOT / "scripts").glob("*.py"):
        assert f"| `scripts/{script.name}` |" in README
