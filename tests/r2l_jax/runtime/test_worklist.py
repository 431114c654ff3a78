import functools
import json
import threading

import pickled_jobs
import pytest

from r2l_jax.runtime import cluster
from r2l_jax.runtime.errors import InputError, one_line, warn
from r2l_jax.runtime.worklist import SERIAL, Done, Table, Workers, divided, finished, one_by_one, read_manifest, worked

MEGABYTE = 2**20


def finish(work, items, **options):
    """The items that one process has done, and the number of those that failed."""
    each = functools.partial(one_by_one, lambda _, item: work(item))
    done, failed = finished(worked(each, [[item] for item in items], SERIAL), items, **options)
    return sorted(done), failed


ERRORS = [ValueError("one\ntwo"), MemoryError(), KeyError("x"), OSError("full")]


@pytest.mark.parametrize("error", [*ERRORS, InputError("b: bad"), InputError("a\x1b[2J\u202eb: no such file")])
def test_an_item_never_ends_the_others_whatever_it_raises(capsys, error):
    def work(name):
        if name in "eb":
            raise error
        return name

    assert finish(work, list("aebcdf")) == (list("acdf"), 2)
    lines = capsys.readouterr().err.splitlines()
    said = one_line(error).removeprefix("b: ") or type(error).__name__
    # In the order of the items.
    of_items = [f"error: e: {said}", f"error: b: {said}"]
    assert lines == (2 * [f"error: {one_line(error)}"] if isinstance(error, InputError) else of_items)


def test_warnings_about_items_are_one_line_with_their_number(capsys):
    def work(name):
        if name != "c":
            warn(f"{name}: is dark")
        return name

    assert finish(work, list("dacb")) == (list("abcd"), 0)
    assert capsys.readouterr().err == "warning: a: is dark (and so for 2 more of 4 files)\n"


def test_an_interruption_ends_all_after_those_that_have_been_begun():
    begun, released, ended = threading.Event(), threading.Event(), []

    def work(name):
        if name == "slow":
            begun.set()
            released.wait()
        ended.append(name)

    def interrupt(results):
        begun.wait()
        threading.Timer(0.2, released.set).start()
        raise KeyboardInterrupt

    # As a program does while it ends, this holds the exception, and with it all that is not closed.
    with pytest.raises(KeyboardInterrupt) as held:
        finish(work, ["quick", "slow"], record=interrupt)
    assert sorted(ended) == ["quick", "slow"], held


def test_each_worker_has_several_chunks_and_each_item_is_in_one():
    chunks = divided([[number] for number in range(80)], lambda item: MEGABYTE, workers=2)
    assert [item for chunk in chunks for item in chunk] == list(range(80))
    assert [len(chunk) for chunk in chunks] == [10] * 8


@pytest.mark.parametrize(
    ("units", "size", "workers", "expected"),
    [
        (1000 * [[0]], 50 * MEGABYTE, 1, {10}),  # A chunk takes no longer, however many files there are.
        (9216 * [[0]], 0, 1, {1024}),  # Files whose size is not known, and small ones, take time as well.
        ([[0], [0]], 1000 * MEGABYTE, 8, {1}),
        ([32 * [0], 32 * [0], 3 * [0]], MEGABYTE, 8, {32, 3}),  # Units stay together.
        ([], MEGABYTE, 8, set()),
    ],
)
def test_sizes_of_chunks(units, size, workers, expected):
    assert {len(chunk) for chunk in divided(units, lambda item: size, workers)} == expected


def load():
    return 10


def work(loaded, chunk):
    if 3 in chunk:
        raise InputError("three")
    return [Done({item: loaded * item for item in chunk}, {})]


def test_work_is_spread_and_failed_chunks_name_their_items(monkeypatch):
    monkeypatch.setattr(cluster, "running", pickled_jobs.running)
    ended = worked(work, [[number] for number in range(16)], Workers("local:2", load), lambda item: MEGABYTE)
    expected = [Done({item: 10 * item, item + 1: 10 * item + 10}, {}) for item in range(0, 16, 2)]
    expected[1] = Done({}, {2: "2: three", 3: "3: three"})
    # As they ended, which here is from the last to the first.
    assert list(ended) == expected[::-1]


def row(name, version="1"):
    return {"name": name, "version": version}


@pytest.fixture
def table(tmp_path):
    return Table(tmp_path / "done.csv", ["name", "version"])


def test_rows_are_sorted_after_those_of_other_calls(table):
    table.add([row("other"), row("c"), row("a"), row("b")])
    table.sort("abc")
    assert list(table.rows()) == ["other", "a", "b", "c"]
    table.write([])
    table.sort("abc")
    assert not table.file.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"name,version\na,1", b"name,version\n\0\0\0\n"])
def test_a_damaged_table_has_no_rows_and_is_begun_anew(table, content):
    table.file.write_bytes(content)
    assert table.rows() == {}
    table.add([row("a")])
    assert list(table.rows()) == ["a"]


def test_a_table_of_other_columns_is_refused_and_stays(table):
    table.file.write_text("name,version,label\na,1,mine\n")
    with pytest.raises(InputError, match=r"done.csv has other columns than name, version: choose another output"):
        table.rows()
    assert table.file.read_text().endswith("mine\n")


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"seed": 1, "camera": {"a": 1}}, r"--output=\S*out holds sets of seed=1, not 2: choose another folder"),
        ({"seed": 2, "camera": {"a": 2}}, r"--output=\S*out holds sets of other camera: choose another folder"),
        ({"seed": 2}, r"--output=\S*out: its manifest.json is damaged: choose another folder"),
    ],
)
def test_a_manifest_of_other_settings_is_refused(tmp_path, stored, message):
    file, fixed = tmp_path / "out" / "manifest.json", {"seed": 2, "camera": {"a": 1}}
    file.parent.mkdir()
    assert read_manifest(file, fixed, "sets") is None
    file.write_text(json.dumps({**fixed, "more": 3}))
    assert read_manifest(file, fixed, "sets") == {**fixed, "more": 3}
    beside = tmp_path / "out.manifest.json"
    for manifest, kind in ((file, "folder"), (beside, "file")):
        manifest.write_text(json.dumps(stored))
        said = message.replace("manifest.json", manifest.name).replace("folder", kind)
        with pytest.raises(InputError, match=said):
            read_manifest(manifest, fixed, "sets")
