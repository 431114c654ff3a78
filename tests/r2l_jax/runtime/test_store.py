import ast
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from r2l_jax.runtime import startup, store

ROOT = pathlib.Path(store.__file__).parents[2]

# Asks the store for a result, and prints whether it was found.
PROGRAM = """
import pathlib, sys
from r2l_jax.runtime import store
file, wanted = pathlib.Path(sys.argv[1]), store.identity({"seed": 1})
found = store.find(file, wanted) is not None
if not found:
    store.begin(file, [])
    store.finish(file, {}, wanted, [])
print("found" if found else "made", pathlib.Path(store.__file__).parents[2])
"""


@pytest.fixture
def copied(tmp_path):
    """A copy of the packages, as pip installs them: in no checkout."""
    for name in store.PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "copy"


def ask(copied, file):
    """Runs the program in the copy, and returns whether it found its result and its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, file],
        cwd=copied,
        env={**os.environ, "PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
        check=True,
    )
    answer, root = done.stdout.split()
    assert pathlib.Path(root) == copied.resolve()
    return answer, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("checkout", [True, False], ids=["dirty tree", "installed copy"])
def test_a_constant_that_has_changed_makes_results_anew(copied, tmp_path, checkout):
    def git(*arguments):
        subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], cwd=copied, check=True)

    constant = copied / "tasks/losses.py"
    if checkout:
        git("init", "--quiet")
        git("add", "--all")
        git("commit", "--quiet", "--message=all")
        # Git calls the tree dirty from here on, before and after the change below.
        constant.write_text(constant.read_text() + "\nEPSILON = 1e-6\n")
    file = tmp_path / "result.json"
    assert ask(copied, file) == ("made", "")
    assert ask(copied, file) == ("found", "")
    constant.write_text(constant.read_text() + "\nEPSILON = 1e-7\n")
    assert ask(copied, file) == ("made", f"{file}: made anew (the source code has changed)\n")


def test_the_source_hash_depends_on_names_and_contents(copied):
    folders = [copied / name for name in store.PACKAGES]
    hashes = [store.hash_sources(folders)]
    assert hashes == [store.source_hash()]
    for change in (
        lambda: (copied / "isp/color.py").write_text("x = 1"),
        lambda: (copied / "isp/color.py").write_text("x = 2"),
        lambda: (copied / "isp/color.py").rename(copied / "isp/colour.py"),
        lambda: (copied / "tasks/new.py").touch(),
    ):
        change()
        hashes.append(store.hash_sources(folders))
    assert len(set(hashes)) == len(hashes)
    (copied / "tasks/notes.txt").write_text("no source")
    assert store.hash_sources(folders) == hashes[-1]


SOURCE = '''"""A module."""

LIMIT = 3  # steps


class Loop:
    """Runs."""

    def run(self, steps=LIMIT):
        """Runs, and returns "done"."""
        return "done", steps
'''


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (("# steps", "# how many steps\n# there are"), True),
        (('"""A module."""', '"""Another module."""'), True),
        (('"""A module."""\n', ""), True),
        (('    """Runs."""\n', "    # Runs.\n"), True),
        (('"""Runs, and returns "done"."""', '"""Returns "done"."""'), True),
        (('return "done", steps', 'return (\n            "done",\n            steps,\n        )'), True),
        (("LIMIT = 3", "LIMIT = 3.0"), False),
        (("steps=LIMIT", "steps=None"), False),
        (('return "done"', 'return "Done"'), False),
        (('return "done", steps', 'return steps, "done"'), False),
        (("def run(self, steps=LIMIT)", "def run(self, *, steps=LIMIT)"), False),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_source_hash(tmp_path, change, is_same):
    hashes = []
    for text in (SOURCE, SOURCE.replace(*change)):
        (tmp_path / "loop.py").write_text(text)
        hashes.append(store.hash_sources([tmp_path]))
    assert SOURCE.replace(*change) != SOURCE
    assert (hashes[0] == hashes[1]) == is_same


def test_code_that_has_not_changed_is_parsed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(startup, "cache_dir", lambda: tmp_path / "cache")
    parsed, parse = [], ast.parse
    monkeypatch.setattr(ast, "parse", lambda *arguments: parsed.append(1) or parse(*arguments))
    (tmp_path / "loop.py").write_text(SOURCE)
    first = store.hash_sources([tmp_path])
    assert (store.hash_sources([tmp_path]), len(parsed)) == (first, 1)
    (tmp_path / "loop.py").write_text(SOURCE + "# the end")
    assert (store.hash_sources([tmp_path]), len(parsed)) == (first, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"model": "b"}, ["the model has changed"]),
        ({"source": "b"}, ["the source code has changed"]),
        ({"data": "b", "camera": None}, ["the data has changed", "the camera's calibration values have changed"]),
        ({"flags": {"steps": 2, "seed": 1}}, ["different steps"]),
        ({"flags": {"steps": 1}}, ["different seed"]),
        ({"jax": "0.1"}, ["it was made by jax 0.1"]),
        ({"flags": None}, ["an earlier version made it, or it is damaged"]),
    ],
)
def test_differences_are_described(change, said):
    wanted = store.identity({"steps": 1, "seed": 1}, model="a", data="a", camera={"pattern": "RGGB"})
    assert store.differences(wanted | change, wanted) == said
    assert store.differences(wanted | {"flags": {"steps": 2, "seed": 1}}, wanted, ignored=["steps"]) == []


def written(file, identity, names):
    """Writes a finished result with files beside it."""
    store.begin(file, names)
    for name in names:
        (file.parent / name).write_text(name)
    return store.finish(file, {"number": 1}, identity, names)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_found_under_its_identity_only(tmp_path, capsys):
    file, identity = tmp_path / "result.json", store.identity({"seed": 1}, data="a")
    assert store.find(file, identity) is None
    content = written(file, identity, ["curves.png"])
    assert store.find(file, identity) == content
    assert content["number"] == 1
    assert capsys.readouterr().err == ""
    assert store.find(file, identity | {"data": "b"}) is None
    assert capsys.readouterr().err == f"{file}: made anew (the data has changed)\n"
    assert store.find(file, store.identity({"seed": 2}, data="a"), ignored=["seed"]) == content
    file.write_text(file.read_text()[:-9])
    assert store.find(file, identity) is None


def test_the_files_of_an_old_result_are_removed_and_other_files_stay(tmp_path):
    file, identity = tmp_path / "result.json", store.identity({"seed": 1})
    written(file, identity, ["curves.png", "map.png", "rows.csv"])
    for name in ("mine.png", "mine.csv"):
        (tmp_path / name).touch()
    written(file, identity, ["curves.png"])
    assert names(tmp_path) == ["curves.png", "mine.csv", "mine.png", "result.json"]


def test_files_that_a_killed_program_was_writing_are_removed(tmp_path, capsys):
    file, identity = tmp_path / "result.json", store.identity({"steps": (1, 2)}, model="a")
    store.begin(file, ["map.png"])
    (tmp_path / "map.png").touch()
    assert store.find(file, identity) is None
    assert capsys.readouterr().err == ""
    written(file, identity, ["curves.png"])
    assert names(tmp_path) == ["curves.png", "result.json"]
    # An identity survives JSON.
    assert store.find(file, identity) is not None


def test_a_result_whose_files_are_being_removed_is_not_found(tmp_path, monkeypatch):
    file, identity = tmp_path / "result.json", store.identity({"seed": 1})
    written(file, identity, ["curves.png", "map.png"])

    def killed(path, missing_ok=False):
        raise KeyboardInterrupt if path.suffix == ".png" else FileNotFoundError

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            store.begin(file, [])
    assert store.find(file, identity) is None
    written(file, identity, [])
    assert names(tmp_path) == ["result.json"]


def test_a_list_of_files_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "results").mkdir()
    file = tmp_path / "results" / "result.json"
    file.write_text(json.dumps({"files": ["../thesis.tex", str(tmp_path / "thesis.tex"), "..", "", 3]}))
    written(file, store.identity({}), [])
    assert (tmp_path / "thesis.tex").exists()


def test_each_entry_is_found_under_its_own_identity_only(tmp_path):
    file, one, two = tmp_path / "entries.json", store.identity({}, data="1"), store.identity({}, data="2")
    store.Entries(file).add({"a": {"score": 1}, "b": {"score": 2}}, {"a": one, "b": two})
    entries = store.Entries(file)
    assert entries.find("a", one) == ({"score": 1}, [])
    assert entries.find("a", two) == (None, ["the data has changed"])
    assert entries.find("c", one) == (None, [])
    entries.add({"a": {"score": 3}}, {"a": two})
    assert store.Entries(file).find("a", two) == ({"score": 3}, [])
    assert store.Entries(file).find("b", two) == ({"score": 2}, [])
    for damaged in ("[]", '{"a": 1}', '{"a": {"content": {}}}', '{"a": {"content": 1, "identity": 2}}', "{"):
        file.write_text(damaged)
        assert store.Entries(file).find("a", one) == (None, [])


def test_unfinished_work_is_loaded_under_its_identity_only(tmp_path):
    file, identity = tmp_path / "unfinished.npz", store.identity({}, data="1")
    store.Unfinished(file, identity).save({"losses": np.arange(3)})
    np.testing.assert_array_equal(store.Unfinished(file, identity).load()["losses"], np.arange(3))
    assert store.Unfinished(file, identity | {"source": "other"}).load() is None
    kept = file.read_bytes()
    for damaged in (kept[: len(kept) // 2], b"something else"):
        file.write_bytes(damaged)
        assert store.Unfinished(file, identity).load() is None
    nowhere = store.Unfinished(None, identity)
    nowhere.save({"losses": np.arange(3)})
    assert nowhere.load() is None
