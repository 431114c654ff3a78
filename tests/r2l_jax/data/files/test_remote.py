import pathlib
import sys

import fsspec
import pytest

from r2l_jax.apps.files import find_raw_files
from r2l_jax.data.files import remote
from r2l_jax.data.files.remote import Url
from r2l_jax.errors import InputError, collected_warnings


@pytest.fixture
def memory():
    """An empty storage in memory, whose addresses begin with memory://."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    return system


def test_places_are_paths_or_urls():
    assert remote.place("raw/a.dng") == pathlib.Path("raw/a.dng")
    url = remote.place("s3://bucket/raw/")
    assert (str(url), str(url / "a.dng"), url.name) == ("s3://bucket/raw", "s3://bucket/raw/a.dng", "raw")
    with pytest.raises(InputError, match=r"nowhere://bucket/raw: .*'nowhere'"):
        remote.place("nowhere://bucket/raw")
    assert remote.on_disk("output", "out") == pathlib.Path("out")
    with pytest.raises(InputError, match=r"^`output` must be a local path, got s3://bucket/out$"):
        remote.on_disk("output", "s3://bucket/out")


def test_raw_files_of_a_folder_are_found_as_on_a_disk(memory):
    memory.pipe({"/raw/b.tiff": b"12", "/raw/a.tiff": b"123", "/raw/deep/c.tiff": b"1", "/above/deep/c.txt": b"1"})
    memory.pipe("/raw/a.jpg", b"1")
    with collected_warnings() as warnings:
        files = find_raw_files(["memory://raw"], warns=True)
    assert [str(file) for file in files] == ["memory://raw/a.tiff", "memory://raw/b.tiff"]
    assert warnings == ["skipped 1 file without the suffix of a raw file, such as memory://raw/a.jpg"]
    assert find_raw_files(["memory://raw/a.tiff"]) == files[:1]
    with pytest.raises(InputError, match="memory://above: no raw files in this folder"):
        find_raw_files(["memory://above"])


def test_versions_change_with_the_content(memory):
    file = Url("memory://raw/a.tiff")
    memory.pipe("/raw/a.tiff", b"1")
    before = remote.version(file)
    assert before == remote.version(file) != ""
    memory.pipe("/raw/a.tiff", b"2")
    assert remote.version(file) != before
    assert remote.version(Url("memory://raw/gone.tiff")) == ""


def test_a_file_is_brought_and_its_errors_name_the_url(memory):
    memory.pipe("/raw/a.tiff", b"123")
    with remote.downloaded(Url("memory://raw/a.tiff")) as path:
        assert (path.name, path.read_bytes()) == ("a.tiff", b"123")
    assert not path.exists()
    for name, message in {"a": "memory://raw/a.tiff: too dark", "gone": "memory://raw/gone.tiff: not found"}.items():
        with pytest.raises(InputError) as error, remote.downloaded(Url(f"memory://raw/{name}.tiff")) as path:
            raise InputError(f"{path}: too dark")
        assert str(error.value) == message


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"^gs://bucket/raw: .*gcsfs.*: pip install 'r2l_jax\[cloud\]'$"):
        find_raw_files(["gs://bucket/raw"])
