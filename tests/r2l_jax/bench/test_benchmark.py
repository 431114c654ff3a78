import dataclasses
import itertools
import json
import time
import types

import numpy as np
import pytest
from programs import call

from r2l_jax.bench import benchmark, timing
from r2l_jax.errors import InputError

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


# The corruptions that draw nothing, but for the rounding of a JPEG file.
SAME = {"contrast", "brightness", "saturate", "gaussian_blur", "defocus_blur", "zoom_blur", "pixelate"}


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("corruptions")])
def test_both_sides_corrupt_alike(name):
    corruption, library = name.removeprefix("corruptions_"), "imagecorruptions"
    for other in ("kornia", "albumentations"):
        if name.endswith(other):
            corruption, library = corruption.removesuffix(f"_{other}"), other
    pytest.importorskip(library)
    ours, baseline = both_sides(ROWS[name])
    baseline = np.moveaxis(baseline.numpy(), 1, -1) if library == "kornia" else np.stack(baseline) / 255
    (images,) = ROWS[name].inputs()
    added, expected = (np.asarray(each, np.float64) - images for each in (ours, baseline))
    if corruption in SAME:
        # Others truncate to 8 bits, and albumentations mirrors borders.
        inside = np.s_[:, 4:-4, 4:-4] if library == "albumentations" else np.s_[:]
        np.testing.assert_allclose(added[inside], expected[inside], atol=2e-6 if library == "kornia" else 0.01)
    # Few images tell nothing of weather, which draws one pattern for each; the elastic transform has another strength.
    if corruption not in ("fog", "frost", "snow", "spatter", "elastic_transform"):
        assert added.std() == pytest.approx(expected.std(), rel=0.2)


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
    ("baseline", "bar", "missed"),
    [([9.0, 10.0, 11.0], 1.0, False), ([7.0, 8.0, 9.0], 1.0, True), ([7.0, 8.0, 9.0], None, False)],
)
def test_a_row_misses_its_bar_if_it_does_by_more_than_noise(monkeypatch, baseline, bar, missed):
    samples = {"ours": [(10.0, 1.0), (11.0, 3.0), (12.0, 2.0)], "baseline": [(time, 5.0) for time in baseline]}
    monkeypatch.setattr(benchmark.Row, "measure", lambda row, repeats: (samples, ""))
    monkeypatch.setattr(benchmark, "rows", lambda *_: [dataclasses.replace(ROWS["train_step"], bar=bar)])
    result = benchmark.run()
    assert benchmark.missed(result) == ["train_step"] * missed
    # The median of times, and the least of CPU times.
    assert (result["rows"][0]["value"], result["rows"][0]["cpu_value"]) == (baseline[1] / 11, 5)
    done = call("benchmark.py", "--rows=train_step", "--repeats=3")
    assert (done.returncode, done.stderr) == ((1, "missed: train_step\n") if missed else (0, ""))


def test_rows_are_chosen_by_the_beginning_of_their_names(monkeypatch):
    monkeypatch.setattr(benchmark.Row, "measure", lambda row, repeats: ({"ours": [(1.0, 1.0)]}, ""))
    chosen = benchmark.run(["demosaic_bilinear", "demosaic_malvar2004"], 1, SIZES)["rows"]
    assert [row["name"] for row in chosen] == ["demosaic_bilinear", "demosaic_malvar2004"]
    with pytest.raises(InputError, match=r"`rows` must be prefixes of parametrized_forward, .*, got 'bilinear'"):
        benchmark.run(["demosaic", "bilinear"], 1, SIZES)


@pytest.mark.shows("benchmark --rows --repeats --json")
def test_the_program_measures_as_its_flags_say(monkeypatch):
    asked = []
    monkeypatch.setattr(
        benchmark.Row, "measure", lambda *row_and_repeats: asked.append(row_and_repeats) or ({"ours": [(1.0, 1.0)]}, "")
    )
    monkeypatch.setattr(benchmark, "rows", lambda *_: [*ROWS.values()])
    names = ["demosaic_bilinear", "demosaic_malvar2004"]
    done = call("benchmark.py", f"--rows={','.join(names)}", "--repeats=3", "--json")
    assert [(row.name, repeats) for row, repeats in asked] == [(name, 3) for name in names]
    assert [row["name"] for row in json.loads(done.stdout)["rows"]] == names


def test_cpu_time_is_that_of_work_and_not_of_waiting():
    wall, cpu = timing.milliseconds(lambda: time.sleep(0.05))
    assert wall >= 50
    assert cpu < 20


def test_only_the_last_call_of_a_turn_counts(monkeypatch):
    clock = types.SimpleNamespace(wall=5.0, cpu=1.0)
    read = types.SimpleNamespace(perf_counter=lambda: clock.wall, process_time=lambda: clock.cpu)
    monkeypatch.setattr(timing, "time", read)
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.5)
    # The first call compiles.
    took = iter([(0.375, 0.75), (0.25, 0.125)])

    def call():
        wall, cpu = next(took)
        clock.wall, clock.cpu = clock.wall + wall, clock.cpu + cpu

    assert timing.milliseconds(call) == (250, 125)


def test_drifts_have_cpu_times_and_no_baseline():
    row = measure("drifts_light")
    assert row["value"] is row["cpu_value"] is row["baseline_ms"] is None
    assert row["pixels"] == 2 * 32 * 32
    assert row["cpu_ns_per_pixel"] > 0
    assert row["note"] == ""


def test_sides_take_turns_and_the_first_call_is_not_counted():
    ticks = itertools.count(0.0)
    samples = timing.alternate({"ours": lambda: next(ticks), "baseline": lambda: next(ticks)}, 3)
    assert samples == {"ours": [2.0, 4.0, 6.0], "baseline": [3.0, 5.0, 7.0]}
