import hashlib
import os
import time

import pytest

from r2l_jax.data.files import file_metadata
from r2l_jax.data.files.file_metadata import hash_files, of_files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "r2l_jax" / "file_hashes"


@pytest.fixture
def settled(monkeypatch):
    monkeypatch.setattr(file_metadata, "_TICK", 0)


@pytest.fixture
def read(monkeypatch):
    """Records the names of the files that are read."""
    names, read = [], file_metadata._sha256
    monkeypatch.setattr(file_metadata, "_sha256", lambda path: names.append(path.name) or read(path))
    return names


def write(folder, **contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_text(content)
    return [folder / name for name in contents]


def test_hashes_are_the_sha256_of_the_contents_and_unchanged_files_are_read_once(tmp_path, settled, read):
    paths = [*write(tmp_path / "a", one="1", two="2"), *write(tmp_path / "b", three="3")]
    before = hash_files(paths)
    assert before == [hashlib.sha256(content).hexdigest() for content in (b"1", b"2", b"3")]
    assert sorted(read) == ["one", "three", "two"]
    read.clear()
    assert hash_files([*paths[::-1], paths[0]]) == [*before[::-1], before[0]]
    assert read == []
    hash_files([*paths, *write(tmp_path / "a", four="4")])
    assert read == ["four"]


@pytest.mark.parametrize(("content", "is_replaced"), [("2", False), ("2", True), ("1 ", False)])
def test_a_change_is_noticed_though_the_time_is_set_back(tmp_path, settled, content, is_replaced):
    (path,) = write(tmp_path, one="1")
    before, status = hash_files([path]), path.stat()
    if is_replaced:
        (other,) = write(tmp_path, other=content)
        other.replace(path)
    else:
        path.write_text(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_files([path]) != before


def test_a_file_that_was_changed_just_now_is_not_remembered(tmp_path, read, monkeypatch):
    paths = write(tmp_path, one="1")
    assert hash_files(paths) == hash_files(paths)
    assert read == ["one", "one"]
    later = time.time_ns() + 3 * 10**9
    monkeypatch.setattr(file_metadata.time, "time_ns", lambda: later)
    assert hash_files(paths) == hash_files(paths)
    assert read == ["one"] * 3


def test_without_readable_or_writable_hashes_files_are_read_again(tmp_path, settled, read, cache, monkeypatch):
    (path,) = write(tmp_path / "a", one="1")
    (expected,) = hash_files([path])
    (memory,) = cache.iterdir()
    for content in ("{", "[]", '{"a": [1]}'):
        memory.write_text(content)
        assert hash_files([path]) == [expected]
    assert len(read) == 4
    monkeypatch.setenv("XDG_CACHE_HOME", str(path / "no folder"))
    assert hash_files([path]) == [expected]


def test_a_file_that_changes_while_its_metadata_are_found_is_read_again(tmp_path, settled):
    (path,) = write(tmp_path, one="1")

    def find(path):
        content = path.read_text()
        path.write_text(content + "1")
        return content

    assert [of_files("contents", [path], find, "reading") for _ in range(2)] == [["1"], ["11"]]
