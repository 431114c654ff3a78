"""Python files that a user has named, and the files beside them that these import."""

import sys

import own_code
import pytest

from r2l_jax.runtime import named_code
from r2l_jax.runtime.errors import InputError

CODE = "from net import Net\n\ndef make():\n    return Net\n"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(named_code, "_named_now", {})


def made(name):
    _, make = named_code.load(name, "--classifier_network", "head", "--code")
    return make()


def folder(parent, name, net):
    (parent / name).mkdir()
    (parent / name / "net.py").write_text(f"Net = {net!r}\n")
    return parent / name / "my_network.py"


def test_a_file_imports_the_modules_beside_it(tmp_path):
    before = list(sys.path), set(sys.modules)
    assert made(own_code.write(folder(tmp_path, "a", "of a"), CODE)) == "of a"
    # Another file's module of the same name is another module.
    assert made(own_code.write(folder(tmp_path, "b", "of b"), CODE + "\n")) == "of b"
    assert made(own_code.write(folder(tmp_path, "c", "of c"), CODE)) == "of c"
    assert sys.path == before[0]
    assert {name for name in set(sys.modules) - before[1] if not name.startswith("_named_")} == set()


def test_modules_beside_a_copy_that_the_user_has_not_named_are_not_run(tmp_path):
    own_code.write(folder(tmp_path, "mine", "mine"), CODE)
    copy = folder(tmp_path, "received", "strange")
    copy.write_text(CODE)
    named_code._named_now.clear()  # as in a later process
    with pytest.raises(InputError, match=r"received/my_network.py:make cannot be run: .*No module named 'net'"):
        made(f"{copy}:make")
    named_code.name(f"{copy}:make")
    assert made(f"{copy}:make") == "strange"
    assert made(f"{tmp_path}/mine/my_network.py:make") == "mine"
