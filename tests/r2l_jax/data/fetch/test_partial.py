import collections
import shutil

import pytest

from r2l_jax.data.fetch.partial import Remote, check_free_disk
from r2l_jax.runtime.errors import InputError


def test_a_download_needs_the_space_of_what_is_still_to_come(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", ["total", "used", "free"])
    (tmp_path / "begun.part").write_bytes(bytes(600))
    (tmp_path / "too_long.part").write_bytes(bytes(70))
    sizes = {"begun": 1000, "new": 50, "too_long": 40}
    missing = {tmp_path / name: Remote(name, size, None) for name, size in sizes.items()}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2000, 1550, 450))
    check_free_disk(tmp_path, missing)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(2000, 1551, 449))
    with pytest.raises(
        InputError, match=f"^{tmp_path}: 450 bytes are still to be downloaded, but only 449 are free on the disk$"
    ):
        check_free_disk(tmp_path, missing)
