"""Starts every program twice at once on one folder: one does the work, the other says who does."""

import re
import subprocess
import time

import pytest
from attacks import COMMANDS, command, reference, results

LINE = re.compile(r"\w+\.py: error: .*: another program is writing to this folder\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("predict", "study", "download")])
def test_one_of_two_does_the_work(here, tmp_path, name):
    expected = reference(name, tmp_path / "one", here)
    (tmp_path / "two").mkdir()
    both = []
    for pause in (0.3, 0):
        twin = command(name, tmp_path / "two", here)
        both.append(subprocess.Popen(twin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        time.sleep(pause)
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in both]
    # Where the second comes late, it finds all done.
    assert sorted(status for _, status in ended) in ([0, 1], [0, 0]), ended
    for stderr, status in ended:
        if status:
            assert LINE.search(stderr), stderr
            assert "Traceback" not in stderr
    assert results(tmp_path / "two") == expected
