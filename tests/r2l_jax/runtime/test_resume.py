import json

import pytest

from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.resume import Table, read_manifest


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
        ({"seed": 1, "camera": {"a": 1}}, "manifest.json lists sets of seed=1, not 2: choose another --output"),
        ({"seed": 2}, "manifest.json is damaged: choose another --output"),
    ],
)
def test_a_manifest_of_other_settings_is_refused(tmp_path, stored, message):
    file, fixed = tmp_path / "manifest.json", {"seed": 2, "camera": {"a": 1}}
    assert read_manifest(file, fixed, "sets") is None
    file.write_text(json.dumps({**fixed, "more": 3}))
    assert read_manifest(file, fixed, "sets") == {**fixed, "more": 3}
    file.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=message):
        read_manifest(file, fixed, "sets")
