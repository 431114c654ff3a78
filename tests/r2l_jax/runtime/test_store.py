import json
import pathlib

import numpy as np
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
        (('"""A module."""\n', ""), True),
        (('    """Runs."""\n', "    # Runs.\n"), True),
        (('"""Runs, and returns "done"."""', '"""Returns "done"."""'), True),
        (('return "done", steps', 'return (\n            "done",\n            steps,\n        )'), True),
        (("LIMIT = 3", "LIMIT = 3.0"), False),
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"settings": {"steps": 2}}, ["other settings"]),
        ({"model": "b", "data": ["a", {"pattern": "BGGR"}]}, ["other data", "other model"]),
        ({"source": "b", "jax": "0.1"}, ["other source", "other jax"]),
    ],
)
def test_differences_are_named(change, said):
    parts = {"settings": {"steps": 1}, "data": ["a", {"pattern": "RGGB"}], "model": "a"}
    wanted = store.identity(**parts)
    earlier = store.identity(**(parts | {name: change[name] for name in parts if name in change}))
    earlier |= {name: value for name, value in change.items() if name not in parts}
    assert store.differences(earlier, wanted) == said
    assert store.differences("damaged", wanted) == [f"other {name}" for name in wanted]


def written(file, identity, names):
    """Writes a finished result with files beside it."""
    store.begin(file, names)
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
    assert capsys.readouterr().err == ""
    assert store.find(file, identity | {"data": "b"}) is None
    assert capsys.readouterr().err == f"{file}: made anew (other data)\n"
    file.write_text(file.read_text()[:-9])
    assert store.find(file, identity) is None


def test_the_files_of_an_old_result_are_removed_and_other_files_stay(tmp_path, capsys):
    file, identity = tmp_path / "result.json", store.identity({"seed": 1})
    written(file, identity, ["curves.png", "map.png", "rows.csv"])
    (tmp_path / "mine.png").touch()
    written(file, identity, ["curves.png"])
    assert names(tmp_path) == ["curves.png", "mine.png", "result.json"]
    # A killed program has begun another result.
    store.begin(file, ["map.png"])
    (tmp_path / "map.png").touch()
    assert store.find(file, identity) is None
    assert capsys.readouterr().err == ""
    written(file, identity, [])
    assert names(tmp_path) == ["mine.png", "result.json"]


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
    file, one, two = tmp_path / "entries.json", store.identity({}, "1"), store.identity({}, "2")
    store.Entries(file).add({"a": {"score": 1}, "b": {"score": 2}}, {"a": one, "b": two})
    entries = store.Entries(file)
    assert entries.find("a", one) == ({"score": 1}, [])
    assert entries.find("a", two) == (None, ["other data"])
    assert entries.find("c", one) == (None, [])
    entries.add({"a": {"score": 3}}, {"a": two})
    assert store.Entries(file).find("a", two) == ({"score": 3}, [])
    assert store.Entries(file).find("b", two) == ({"score": 2}, [])
    for damaged in ("[]", '{"a": 1}', '{"a": {"content": {}}}', '{"a": {"content": 1, "identity": 2}}', "{"):
        file.write_text(damaged)
        assert store.Entries(file).find("a", one)[0] is None


def test_unfinished_work_is_loaded_under_its_identity_only(tmp_path):
    file, identity = tmp_path / "unfinished.npz", store.identity({}, "1")
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
