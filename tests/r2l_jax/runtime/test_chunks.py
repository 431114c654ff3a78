import pickled_jobs

from r2l_jax.runtime import cluster
from r2l_jax.runtime.chunks import Workers, divided, spread
from r2l_jax.runtime.errors import InputError

MEGABYTE = 2**20


def sizes(chunks):
    return [len(chunk) for chunk in chunks]


def test_each_worker_has_several_chunks_and_each_item_is_in_one():
    chunks = divided([[number] for number in range(80)], lambda item: MEGABYTE, workers=2)
    assert [item for chunk in chunks for item in chunk] == list(range(80))
    assert sizes(chunks) == [10] * 8


def test_a_chunk_takes_no_longer_however_many_files_there_are():
    chunks = divided([[number] for number in range(1000)], lambda item: 50 * MEGABYTE, workers=1)
    assert set(sizes(chunks)) == {10}
    # Files whose size is not known, and small ones, take time as well.
    assert max(sizes(divided([[number] for number in range(9000)], lambda item: 0, workers=1))) == 1024


def test_a_file_larger_than_a_chunk_is_a_chunk_and_units_stay_together():
    assert sizes(divided([["a"], ["b"]], lambda item: 1000 * MEGABYTE, workers=8)) == [1, 1]
    assert sizes(divided([["a"] * 32, ["b"] * 32, ["c"] * 3], lambda item: MEGABYTE, workers=8)) == [32, 32, 3]
    assert divided([], lambda item: MEGABYTE, workers=8) == []


def load():
    return 10


def work(loaded, chunk):
    if 3 in chunk:
        raise InputError("three")
    return [loaded * item for item in chunk]


def test_work_is_spread_and_what_fails_is_said(monkeypatch):
    monkeypatch.setattr(cluster, "running", pickled_jobs.running)
    found = list(spread(Workers("local:2", load), work, [[number] for number in range(16)], lambda item: MEGABYTE))
    expected = [([item, item + 1], [10 * item, 10 * item + 10], "") for item in range(0, 16, 2)]
    expected[1] = ([2, 3], None, "three")
    # As they ended, which here is from the last to the first.
    assert found == expected[::-1]
