"""Python files of the user, and the files beside them that these import."""

import sys

import custom_code

from r2l_jax import named_code

CODE = "from net import Net\n\ndef make():\n    return Net\n"


def test_a_file_imports_the_modules_beside_it(tmp_path):
    before = list(sys.path), set(sys.modules)
    # Another file's module of the same name is another module, also beside a file of the same content.
    for name, code in (("a", CODE), ("b", CODE + "\n"), ("c", CODE)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(f"Net = {name!r}\n")
        _, make = named_code.load(custom_code.write(tmp_path / name / "my_network.py", code), "--code", "head")
        assert make() == name
    assert sys.path == before[0]
    assert {name for name in set(sys.modules) - before[1] if not name.startswith("_named_")} == set()
