import contextlib
import pathlib
import pickle
import sys

import fsspec
import pytest

from r2l_jax.runtime import remote
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.remote import Url


@pytest.fixture
def memory():
    """An object storage in this process, which is empty."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_places_are_paths_or_urls():
    assert remote.place("raw/a.dng") == pathlib.Path("raw/a.dng")
    url = remote.place("s3://bucket/raw/")
    assert (str(url), isinstance(url, Url)) == ("s3://bucket/raw", True)
    file = url / "IMG.0001.DNG"
    assert (str(file), file.name, file.stem) == ("s3://bucket/raw/IMG.0001.DNG", "IMG.0001.DNG", "IMG.0001")
    assert (file.suffix, file.parent, pickle.loads(pickle.dumps(file))) == (".DNG", url, file)
    with pytest.raises(InputError, match="nowhere://bucket/raw: Unsupported filesystem: 'nowhere'"):
        remote.place("nowhere://bucket/raw")


def test_folders_are_listed_with_sizes_and_versions(memory):
    memory.pipe({"/raw/b.tiff": b"12", "/raw/a.tiff": b"123", "/raw/deep/c.tiff": b"1"})
    files = remote.listed(Url("memory://raw"))
    assert [str(file) for file in files] == ["memory://raw/a.tiff", "memory://raw/b.tiff"]
    assert [remote.size(file) for file in (*files, Url("memory://raw/gone.tiff"))] == [3, 2, 0]
    assert remote.listed(Url("memory://raw/a.tiff")) == files[:1]
    assert remote.names(Url("memory://raw")) == {"a.tiff", "b.tiff", "deep"}
    assert remote.names(Url("memory://nothing")) == set()
    before = remote.version(files[0])
    assert before == remote.version(Url("memory://raw/a.tiff")) != ""
    memory.pipe("/raw/a.tiff", b"124")
    assert remote.version(files[0]) != before
    assert remote.version(Url("memory://raw/gone.tiff")) == ""


def test_a_file_is_brought_and_what_is_said_of_it_names_the_url(memory):
    memory.pipe("/raw/a.tiff", b"123")
    with remote.brought(Url("memory://raw/a.tiff")) as path:
        assert (path.name, path.read_bytes()) == ("a.tiff", b"123")
    assert not path.parent.exists()
    for name, message in (("a", "memory://raw/a.tiff: truncated"), ("gone", "memory://raw/gone.tiff: not found")):
        with pytest.raises(InputError) as error, remote.brought(Url(f"memory://raw/{name}.tiff")) as path:
            raise InputError(f"{path}: truncated")
        assert str(error.value) == message


def test_an_object_is_written_whole_or_not_at_all(memory, tmp_path):
    for folder in (Url("memory://out"), tmp_path):
        with remote.writing(folder / "a.tiff") as part:
            part.write_bytes(b"123")
        with contextlib.suppress(ZeroDivisionError), remote.writing(folder / "b.tiff") as part:
            part.write_bytes(b"12")
            raise ZeroDivisionError
        assert remote.names(folder) == {"a.tiff"}
        remote.remove([folder / "a.tiff", folder / "b.tiff"])
        assert remote.names(folder) == set()


def test_tables_are_kept_here_and_sent(memory, monkeypatch):
    url = Url("memory://out")
    memory.pipe({"/out/table.csv": b"old\n", "/out/other": b"", "/out/gone.json": b"{}"})
    with remote.working(url, ["table.csv", "gone.json", "set/table.csv"]) as work:
        assert (work.path / "table.csv").read_bytes() == b"old\n"
        assert not (work.path / "other").exists()
        (work.path / "set" / "table.csv").write_text("set\n")
        work.save()
        assert memory.cat("/out/set/table.csv") == b"set\n"
        (work.path / "table.csv").write_text("new\n")
        (work.path / "gone.json").unlink()
        work.save()
        assert memory.cat("/out/table.csv") == b"old\n"  # It was sent a moment ago.
    assert memory.cat("/out/table.csv") == b"new\n"
    assert remote.names(url) == {"table.csv", "other", "set"}
    assert not work.path.exists()


def test_tables_are_sent_after_an_error_that_names_the_url(memory):
    holds = pytest.raises(InputError, match=r"^--output=memory://out holds")
    with holds, remote.working(Url("memory://out"), []) as work:
        (work.path / "table.csv").write_text("new\n")
        raise InputError(f"--output={work.path} holds something else")
    assert memory.cat("/out/table.csv") == b"new\n"


def test_a_folder_of_this_machine_is_locked_and_its_own_workplace(tmp_path):
    with remote.working(tmp_path / "out", []) as work:
        assert work.path == tmp_path / "out"
        assert (tmp_path / "out" / ".lock").exists()


def test_a_folder_is_copied_once_and_follows_its_origin(memory, tmp_path):
    memory.pipe({"/data/cat/a.tiff": b"1", "/data/dog/b.tiff": b"2"})
    copy = remote.copied(Url("memory://data"), tmp_path)
    (copy / "mine.txt").write_text("mine")
    (copy / "cat" / "a.tiff").write_bytes(b"not read again")
    memory.pipe("/data/dog/b.tiff", b"3")
    memory.rm("/data/cat/a.tiff")
    memory.pipe("/data/cat/c.tiff", b"4")
    assert remote.copied(Url("memory://data"), tmp_path) == copy
    found = {str(file.relative_to(copy)): file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    assert found == {"cat/c.tiff": b"4", "dog/b.tiff": b"3", "mine.txt": b"mine"}
    with pytest.raises(InputError, match="memory://nothing: not found"):
        remote.copied(Url("memory://nothing"), tmp_path)


@pytest.mark.parametrize("name", ["../x", "cat/../../x", "..\\x", "C:\\x", "a\nb"])
def test_a_key_that_leaves_the_folder_is_refused_and_nothing_is_written(memory, tmp_path, name):
    memory.pipe("/data/a.tiff", b"1")
    memory.store[f"/data/{name}"] = memory.store["/data/a.tiff"]
    with pytest.raises(InputError) as refused:
        remote.copied(Url("memory://data"), tmp_path / "cache")
    assert str(refused.value) == f"memory://data: the name {name!r} does not stay in its folder"
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_what_was_copied_removes_nothing_outside_of_the_copy(memory, tmp_path):
    (tmp_path / "mine").write_text("mine")
    memory.pipe("/data/a.tiff", b"1")
    copy = remote.copied(Url("memory://data"), tmp_path / "cache")
    for name in ("../../mine", str(tmp_path / "mine")):
        write_json(copy.with_suffix(".json"), {name: "1", "b.tiff": "1"})
        (copy / "b.tiff").touch()
        assert remote.copied(Url("memory://data"), tmp_path / "cache") == copy
        assert (tmp_path / "mine").exists()
        assert [file.name for file in copy.iterdir()] == ["a.tiff"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match=r"^gs://bucket/raw: .*gcsfs.*: pip install 'r2l_jax\[cloud\]'$"):
        remote.names(Url("gs://bucket/raw"))
