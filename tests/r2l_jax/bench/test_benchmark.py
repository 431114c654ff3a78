import dataclasses
import itertools

import numpy as np
import pytest

from r2l_jax.bench import benchmark, timing
from r2l_jax.bench.timing import Measured
from r2l_jax.runtime.errors import InputError

SIZES = benchmark.Sizes(batch=(2, 32, 32), mosaic=(32, 48))
ROWS = {row.name: row for row in benchmark.rows(SIZES)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Makes turns of one call, and PyTorch use one thread: on busy cores, several threads wait long for each other."""
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def measure(name, repeats=1):
    (row,) = benchmark.run([name], repeats, SIZES)["rows"]
    return row


def both_sides(row):
    """Returns the results of both sides of a comparison."""
    arrays = row.inputs()
    return row.ours(*arrays)(), row.baseline(*arrays)()


# The static pipelines are compared in tests/isp/test_static.py.
@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("demosaic", "denoise"))])
def test_both_sides_render_the_same_pictures(name):
    if name.endswith(("opencv", "kornia")):
        pytest.importorskip({"opencv": "cv2", "kornia": "kornia"}[name.split("_")[-1]])
    ours, baseline = both_sides(ROWS[name])
    if name.endswith("opencv"):
        # In 16 bits, and the outermost pixels by another rule.
        ours, baseline = ours[1:-1, 1:-1], baseline[1:-1, 1:-1] / (2**16 - 1)
    if name.endswith("kornia"):
        ours, baseline = ours[2:-2, 2:-2], np.moveaxis(baseline.numpy()[0], 0, -1)[2:-2, 2:-2]
    np.testing.assert_allclose(ours, baseline, atol=1e-3 if name.startswith("denoise") else 1e-4)


def test_the_table_shows_ours_the_floor_and_the_note_of_a_missing_baseline(monkeypatch, tmp_path):
    (tmp_path / "colour_demosaicing.py").write_text("raise ModuleNotFoundError(name='colour')")
    monkeypatch.syspath_prepend(tmp_path)
    row = measure("demosaic_malvar2004")
    assert (row["value"], row["missed"], row["baseline_ms"]) == (None, False, None)
    assert row["samples_ms"].keys() == {"ours", "floor"}
    assert row["times_floor"] == row["ours_ms"] / row["floor_ms"]
    assert row["ours_ms"] == row["samples_ms"]["ours"][0]
    noted = {"rows": [row], "machine": {"cores": 2}, "versions": {"jax": "0.10", "torch": None}}
    heading, _, line, _, machine, versions = benchmark.table(noted).splitlines()
    assert (heading.split()[0], line.split()[0]) == ("row", row["name"])
    assert line.split()[2:4] == ["-", "-"]
    assert line.endswith("colour is not installed")
    assert (machine, versions) == ("cores 2", "jax 0.10")


@pytest.mark.parametrize(
    ("baseline", "bar", "missed"), [([9, 10, 11], 1.0, False), ([7, 8, 9], 1.0, True), ([7, 8, 9], None, False)]
)
def test_a_row_misses_its_bar_if_it_does_by_more_than_noise(monkeypatch, baseline, bar, missed):
    measured = Measured(baseline[1] / 11, {"ours": [10, 11, 12], "baseline": baseline})
    monkeypatch.setattr(benchmark.Row, "measure", lambda row, repeats: measured)
    monkeypatch.setattr(benchmark, "rows", lambda *_: [dataclasses.replace(ROWS["train_step"], bar=bar)])
    assert benchmark.missed(benchmark.run()) == ["train_step"] * missed


def test_rows_are_chosen_by_the_beginning_of_their_names(monkeypatch):
    monkeypatch.setattr(benchmark.Row, "measure", lambda row, repeats: Measured(None, {}))
    chosen = benchmark.run(["demosaic_bilinear", "demosaic_malvar2004"], 1, SIZES)["rows"]
    assert [row["name"] for row in chosen] == ["demosaic_bilinear", "demosaic_malvar2004"]
    with pytest.raises(InputError, match=r"--rows must be prefixes of parametrized_forward, .*, got 'bilinear'"):
        benchmark.run(["demosaic", "bilinear"], 1, SIZES)


def test_sides_take_turns_and_the_first_call_is_not_counted():
    ticks = itertools.count(0.0)
    samples = timing.alternate({"ours": lambda: next(ticks), "baseline": lambda: next(ticks)}, 3)
    assert samples == {"ours": [2.0, 4.0, 6.0], "baseline": [3.0, 5.0, 7.0]}
