import json
import pathlib

import pytest

from r2l_jax.runtime import store

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
        (('"""Runs, and returns "done"."""', '"""Returns "done"."""'), True),
        (('return "done", steps', 'return (\n            "done",\n            steps,\n        )'), True),
        (('return "done"', 'return "Done"'), False),
        (('return "done", steps', 'return steps, "done"'), False),
    ],
)
def test_comments_docstrings_and_layout_do_not_change_the_source_hash(tmp_path, change, is_same):
    hashes = []
    for text in (SOURCE, SOURCE.replace(*change)):
        (tmp_path / "loop.py").write_text(text)
        hashes.append(store.hash_sources([tmp_path]))
    assert SOURCE.replace(*change) != SOURCE
    assert (hashes[0] == hashes[1]) == is_same


def test_the_source_hash_depends_on_the_names_of_all_python_files(tmp_path):
    (tmp_path / "a/inner").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "a/inner/loop.py").write_text(SOURCE)
    hashes = [store.hash_sources([tmp_path / "a", tmp_path / "b"])]
    for change in (
        lambda: (tmp_path / "a/inner/loop.py").rename(tmp_path / "a/inner/loops.py"),
        lambda: (tmp_path / "a/inner/loops.py").rename(tmp_path / "b/loops.py"),
        lambda: (tmp_path / "b/new.py").touch(),
    ):
        change()
        hashes.append(store.hash_sources([tmp_path / "a", tmp_path / "b"]))
    assert len(set(hashes)) == len(hashes)
    (tmp_path / "b/notes.txt").write_text("no source")
    assert store.hash_sources([tmp_path / "a", tmp_path / "b"]) == hashes[-1]


def test_the_source_is_that_of_the_packages_in_use():
    root = pathlib.Path(store.__file__).parents[2]
    assert store.source_hash() == store.hash_sources([root / "isp", root / "tasks", root / "r2l_jax"])


def test_differences_are_named():
    parts = {"settings": {"steps": 1}, "data": ["a", {"pattern": "RGGB"}], "model": "a"}
    wanted = store.identity(**parts)
    other = store.identity(**parts | {"model": "b", "data": ["a", {"pattern": "BGGR"}]})
    assert store.differences(store.identity(**parts), wanted) == []
    older = other | {"jax": "0.1", "jaxlib": "0.1"}
    assert store.differences(older, wanted) == ["other data", "other model", "other jax", "other jaxlib"]
    assert store.differences("damaged", wanted) == [f"other {name}" for name in wanted]


def written(file, identity, names):
    """Writes a finished result with files beside it."""
    store.clear(file)
    for name in names:
        (file.parent / name).write_text(name)
    return store.finish(file, {"number": 1}, identity, names)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_found_under_its_identity_only(tmp_path, capsys):
    file, identity = tmp_path / "result.json", store.identity({"steps": (1, 2)}, "a")
    assert store.find(file, identity) is None
    content = written(file, identity, ["curves.png"])
    assert store.find(file, identity) == content
    assert content["number"] == 1
    assert store.find(file, identity | {"data": "b"}, says=False) is None
    assert store.find(file, identity | {"data": "b"}) is None
    assert capsys.readouterr().err == f"{file}: made anew (other data)\n"
    file.write_text(file.read_text()[:-9])
    assert store.find(file, identity) is None


def test_the_files_of_an_old_result_are_removed_and_other_files_stay(tmp_path):
    file, identity = tmp_path / "result.json", store.identity({"seed": 1})
    written(file, identity, ["curves.png", "map.png", "rows.csv"])
    (tmp_path / "mine.png").touch()
    written(file, identity, ["curves.png"])
    assert names(tmp_path) == ["curves.png", "mine.png", "result.json"]


def test_a_result_whose_files_are_being_removed_is_not_found(tmp_path, monkeypatch):
    file, identity = tmp_path / "result.json", store.identity({"seed": 1})
    written(file, identity, ["curves.png", "map.png"])
    unlink = pathlib.Path.unlink

    def killed(path, missing_ok=False):
        if path.suffix == ".png":
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        store.clear(file)
    assert store.find(file, identity) is None


def test_a_list_of_files_does_not_lead_out_of_its_folder(tmp_path):
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "results").mkdir()
    file = tmp_path / "results" / "result.json"
    file.write_text(json.dumps({"files": ["../thesis.tex", str(tmp_path / "thesis.tex"), "..", "", 3]}))
    store.clear(file)
    assert names(tmp_path) == ["results", "thesis.tex"]
