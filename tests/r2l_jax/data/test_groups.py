"""Groups of samples that depend on each other."""

import pathlib

import pytest

from r2l_jax.data.groups import named_groups, numbered
from r2l_jax.errors import InputError

FILES = [pathlib.PurePath(name) for name in ("a/p2_1.tif", "a/p10_1.tif", "b/p2_7.tif")]


def test_groups_are_numbered_as_they_appear():
    assert numbered(["p2", "p10", "p2", "p1"]).tolist() == [0, 1, 0, 2]


def test_a_folder_a_pattern_or_a_table_names_the_groups(tmp_path):
    assert named_groups("folder", FILES) == ["a", "a", "b"]
    assert named_groups(r"(p\d+)_", FILES) == ["p2", "p10", "p2"]
    table = tmp_path / "groups.csv"
    # As Excel writes it, with another column, a name without its suffix, and one that no file has.
    table.write_text("﻿name,stain,group\na/p2_1.tif,x,two\nb/p2_7,x,two\na/p10_1.tif,y,ten\nc/other.tif,x,none\n")
    assert named_groups(str(table), FILES) == ["two", "ten", "two"]
    # Frames have no suffix.
    table.write_text("name,group\nframe_1.dng,one\nframe_2,two\n")
    assert named_groups(str(table), [pathlib.PurePath(name) for name in ("frame_1", "frame_2")]) == ["one", "two"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (r"(p1\d)_", r" does not match the name p2_1.tif"),
        (r"p\d+", "must have a group in parentheses"),
        ("(p", "is not a regular expression: missing"),
        (r"_(\d)|x", "at least two groups, got only '1' for 2 images"),
    ],
)
def test_refuses_patterns(how, message):
    with pytest.raises(InputError, match=f"^`group=.*{message}"):
        named_groups(how, FILES[:2])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("name,group\na/p2_1.tif,1\na/p2_1.tif,2\n", "groups.csv: names a/p2_1.tif twice$"),
        ("name,group\na/p2_1.tif,\n", "groups.csv: must give a/p2_1.tif a group$"),
        ("name,patient\na/p2_1.tif,1\n", "groups.csv: must have the columns name and group, got name, patient$"),
        ("name,group\na/p2_1.tif,1\n", r"must name all images, but lacks a/p10_1.tif \(and 1 more\)$"),
        ("name,group\na/p2_1,1\na/p10_1,1\nb/p2_7,1\n", "at least two groups, got only '1' for 3 images"),
    ],
)
def test_refuses_tables(tmp_path, lines, message):
    table = tmp_path / "groups.csv"
    table.write_text(lines)
    with pytest.raises(InputError, match=message):
        named_groups(str(table), FILES)
