import pathlib

import pytest

from r2l_jax.results import store

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
