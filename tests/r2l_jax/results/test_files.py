import os
import time

import pytest

from r2l_jax.errors import one_line
from r2l_jax.results.files import atomic_folder, clear_parts, common_folder, read_csv, replacing, write_csv


def test_control_characters_are_escaped_in_messages():
    assert one_line("a\x1b]0;title\x07 \udcff") == r"a\x1b]0;title\x07 \udcff"


def test_a_table_keeps_the_names_of_all_files(tmp_path):
    names = ["a.tif", 'a "b",\nc.tif', '"\r\n,"', "\n\n", "=1\n,x", os.fsdecode(b"\xe9\n")]
    write_csv(tmp_path / "table.csv", [{"file": name} for name in names])
    assert [row["file"] for row in read_csv(tmp_path / "table.csv")] == names


def test_a_short_write_of_numpy_is_a_full_disk(tmp_path):
    """NumPy's `tofile` raises an error without a number, a file or a reason."""
    with pytest.raises(OSError, match="No space left on device") as raised, replacing(tmp_path / "raw.tiff"):
        raise OSError("16384 requested and 12184 written")
    assert raised.value.filename == str(tmp_path / "raw.tiff")


def test_what_a_killed_program_left_half_written_is_removed(tmp_path):
    left, recent = tmp_path / ".a.tiff.7.part", tmp_path / ".b.tiff.8.part"
    unfinished, other = tmp_path / ".tiles_unfinished_x", tmp_path / ".tiles_unfinished_y"
    for path in (left, recent, unfinished, other):
        path.mkdir() if "tiles" in path.name else path.touch()
    for path, age in ((left, 90), (unfinished, 8 * 86_400)):
        os.utime(path, (time.time() - age,) * 2)
    clear_parts(tmp_path)
    with atomic_folder(tmp_path / "tiles") as folder:
        (folder / "a.tiff").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".b.tiff.8.part",
        ".tiles_unfinished_y",
        "a.tiff",
        "tiles",
    ]


def test_a_folder_that_cannot_be_moved_is_an_error_unless_another_process_has_made_it(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "tiles") as folder:
        folder.rmdir()
    with atomic_folder(tmp_path / "tiles") as folder:
        (tmp_path / "tiles").mkdir()
        (tmp_path / "tiles/theirs").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["tiles", "theirs"]


def test_relative_folders_have_a_relative_common_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(common_folder(["runs/a", "./runs/a/b"])) == "runs/a"
    assert str(common_folder(["a", "b/../c"])) == "."
    assert common_folder(["a", str(tmp_path / "b")]) == tmp_path
