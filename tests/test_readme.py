import dataclasses
import pathlib
import re
import runpy
import shlex

import pytest
from absl import flags

from r2l_jax.config import TrainConfig
from r2l_jax.runtime.flags import build

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDES = "".join(file.read_text() for file in sorted((ROOT / "docs").glob("*.md")))


@pytest.mark.parametrize("snippet", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_snippets_run(snippet):
    exec(compile(snippet, "README.md", "exec"), {})


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:scripts|configs|docs)/[\w.]+\.\w+", README))))
def test_files_named_exist(path):
    assert (ROOT / path).is_file()


def test_flagfiles_and_commands_are_what_train_takes(monkeypatch):
    monkeypatch.chdir(ROOT)
    program = runpy.run_path("scripts/train.py")
    program["define_flags"]()
    commands = re.findall(r"^python scripts/train\.py (.*)$", (README + GUIDES).replace("\\\n", " "), re.MULTILINE)
    files = sorted(pathlib.Path("configs").glob("*.flags"))
    assert len(files) >= 1
    assert len(commands) >= 5
    for command in [*commands, *(f"--flagfile={file}" for file in files)]:
        flags.FLAGS.unparse_flags()
        assert flags.FLAGS(["train.py", *shlex.split(command)]) == ["train.py"]
        build(TrainConfig, **{field.name: flags.FLAGS[field.name].value for field in dataclasses.fields(TrainConfig)})


def test_every_program_is_in_the_table():
    for script in (ROOT / "scripts").glob("*.py"):
        assert f"| `scripts/{script.name}` |" in README
