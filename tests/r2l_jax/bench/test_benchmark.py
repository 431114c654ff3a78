import collections

import jax
import numpy as np
import pytest
import small_runs
from flax import nnx

import isp
import tasks
from r2l_jax.bench import baselines, benchmark, fresh, inputs, rows, timing
from r2l_jax.runtime.errors import InputError

# With smaller frames, the memory that the process needs otherwise would dominate.
FRAMES = ((1024, 1500), (1024, 3000))
SIZES = benchmark.Sizes(
    batch=(2, 32, 32), step=(2, 32, 32), large=(2, 64, 64), mosaic=(32, 48), frames=FRAMES, search=(4, 32, 32)
)
ROWS = {row.name: row for row in benchmark.rows(SIZES)}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Makes turns of one call, and PyTorch use one thread: on busy cores, several threads wait long for each other."""
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def measure(name, repeats=1):
    (row,) = benchmark.run([name], repeats, SIZES)["rows"]
    return row


def both_sides(name):
    """Returns the results of both sides of a comparison."""
    comparison = ROWS[name].measure
    arrays = comparison.inputs()
    return comparison.ours(*arrays)(), comparison.baseline(*arrays)()


# The other static pipelines demosaic by the functions of the rows "demosaic_...".
@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("demosaic", "static_bilinear"))])
def test_both_sides_render_the_same_pictures(name):
    if name.endswith(("opencv", "kornia")):
        pytest.importorskip({"opencv": "cv2", "kornia": "kornia"}[name.split("_")[-1]])
    ours, baseline = both_sides(name)
    if name.endswith("opencv"):
        # In 16 bits, and the outermost pixels by another rule.
        ours, baseline = ours[1:-1, 1:-1], baseline[1:-1, 1:-1] / (2**16 - 1)
    if name.endswith("kornia"):
        ours, baseline = ours[2:-2, 2:-2], np.moveaxis(baseline.numpy()[0], 0, -1)[2:-2, 2:-2]
    np.testing.assert_allclose(ours, baseline, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith("denoise")])
def test_both_sides_denoise_alike(name):
    ours, baseline = both_sides(name)
    np.testing.assert_allclose(ours, baseline, atol=1e-3)


@pytest.mark.parametrize("name", ["parametrized_forward", "halide_by_hand", "halide_autoscheduled"])
def test_both_sides_normalize_alike(name):
    pytest.importorskip("halide" if name.startswith("halide") else "torch")
    (ours, _), baseline = both_sides(name)
    np.testing.assert_allclose(np.moveaxis(ours, -1, 1), baseline, atol=1e-3)


def test_both_sides_have_the_same_gradients():
    pytest.importorskip("torch")
    (ours, _), baseline = both_sides("parametrized_gradient")
    assert set(ours) == set(baseline)
    for name, expected in baseline.items():
        expected = np.squeeze(expected.numpy())
        assert np.linalg.norm(ours[name][...] - expected) < 1e-3 * np.linalg.norm(expected), name


def tensors(results):
    """Returns the tensors in the result of a baseline's call."""
    if isinstance(results, dict):
        return list(results.values())
    return list(results) if isinstance(results, tuple) else [results]


@pytest.mark.parametrize(
    ("work", "inputs_of"),
    [
        ("parametrized_forward", inputs.raws),
        ("parametrized_gradient", inputs.raws_and_weights),
        ("train_step", inputs.raws_and_labels),
        ("evaluation", inputs.raws_and_labels),
    ],
)
def test_pytorch_computes_on_the_device_it_is_told(work, inputs_of):
    pytest.importorskip("torchvision")
    # PyTorch refuses to compute with tensors of two devices. This one has shapes only.
    call = getattr(baselines, work)(*inputs_of((2, 32, 32)), device="meta")
    assert {tensor.device.type for tensor in tensors(call())} == {"meta"}


class SmallHead(nnx.Module):
    """Stands for a ResNet, which takes long to compile."""

    def __init__(self, name, *, num_classes, dtype, rngs):
        self.fc = nnx.Linear(3, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.fc(images.mean((1, 2)))


@pytest.mark.slow
def test_training_steps_are_timed(monkeypatch):
    monkeypatch.setattr(tasks, "resnet", SmallHead)
    assert len(measure("train_step", 2)["samples_ms"]["ours"]) == 2


@pytest.mark.slow
def test_both_sides_evaluate_all_samples(monkeypatch):
    pytest.importorskip("torchvision")
    monkeypatch.setattr(tasks, "resnet", SmallHead)
    # All nine classes.
    raw, labels = inputs.raws_and_labels((12, 32, 32))
    sums = ROWS["evaluation"].measure.ours(raw, labels)()
    loss, confusion = ROWS["evaluation"].measure.baseline(raw, labels)()
    np.testing.assert_array_equal(sums["confusion"].sum(1), confusion.sum(1))
    assert 0 < float(sums["loss"]) / len(raw) < 10
    assert 0 < loss.item() < 10


@pytest.mark.slow
def test_segmentation_steps_have_a_dice_loss(monkeypatch):
    pytest.importorskip("segmentation_models_pytorch")
    monkeypatch.setattr(tasks, "unet", small_runs.unet)
    comparison = ROWS["torch_compile_unetplusplus_step"].measure
    arrays = comparison.inputs()
    _, ours = comparison.ours(*arrays)()
    theirs = baselines.segmentation_step(*arrays)()
    # A dice loss, which is 1 without any overlap.
    assert 0 < float(ours) < 1
    assert 0 < theirs.item() < 1


@pytest.mark.slow
def test_searches_find_the_same_together_and_apart(monkeypatch):
    monkeypatch.setattr(tasks, "resnet", SmallHead)
    together, apart = both_sides("search_1_at_a_step")
    assert len(together) == len(apart) == 16
    for one, (other,) in zip(together, apart, strict=True):
        np.testing.assert_allclose(one.parameters["white_balance"], other.parameters["white_balance"], rtol=1e-4)


def test_every_published_pipeline_has_a_row_and_every_denoiser_is_compiled():
    kinds = collections.Counter(name.split("_")[0] for name in ROWS)
    assert (kinds["static"], kinds["demosaic"], kinds["denoise"], len(ROWS)) == (12, 5, 3, 39)
    assert len(set(fresh.PIPELINES)) == 19
    compiled = {algorithms[2] for algorithms in fresh.PIPELINES if algorithms}
    assert compiled == set(isp.ALGORITHMS["denoise"]) - {"none"}


def test_rows_for_gpus_have_pytorch_on_the_gpu_and_bars_of_their_own():
    gpu = {row.name: row for row in benchmark.rows(SIZES, "gpu")}
    assert set(ROWS) - set(gpu) == {"halide_autoscheduled", "halide_by_hand", "demosaic_opencv", "memory"}
    bars = {name: row.bars for name, row in gpu.items() if row.bars != rows.Bars()}
    assert bars == {"parametrized_forward": rows.Bars(most_floors=1 / 0.6), "torch_compile_step": rows.Bars(1.3)}
    assert gpu["torch_compile_step"].reached(1.4) == "pass"
    assert gpu["train_step"].reached(0.5) == "no bar"
    for name, row in gpu.items():
        if not isinstance(row.measure, rows.Comparison):
            continue
        if name.startswith(("static", "denoise", "demosaic")) and name != "demosaic_kornia":
            assert row.measure.baseline is None
        elif not name.startswith("search"):  # Their baseline is this library.
            assert row.measure.baseline.keywords["device"] == "cuda"


def test_without_a_baseline_ours_is_compared_with_the_floor():
    (row,) = benchmark.run(["demosaic_malvar2004"], 1, SIZES, "gpu")["rows"]
    assert row["samples_ms"].keys() == {"ours", "floor"}
    assert (row["value"], row["reached"], row["baseline_ms"]) == (None, "not compared", None)
    assert row["times_floor"] == row["ours_ms"] / row["floor_ms"]
    assert row["megapixels_per_second"] == pytest.approx(32 * 48 / 1e6 / (row["ours_ms"] / 1e3))
    assert ROWS["search_1_at_a_step"].pixels is None
    noted = {"rows": [row | {"note": "a note"}], "machine": {"cores": 2}, "versions": {"jax": "0.10", "torch": None}}
    heading, _, line, _, machine, versions = benchmark.table(noted).splitlines()
    assert (heading.split()[0], line.split()[0]) == ("row", row["name"])
    assert line.split()[3:8] == ["-", "-", "-", "-", "not"]
    assert line.endswith("a note")
    assert (machine, versions) == ("cores 2", "jax 0.10")


def test_a_row_without_enough_memory_does_not_end_the_run(monkeypatch):
    def measure(repeats):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(benchmark, "rows", lambda sizes, device: [rows.Row("step", measure, rows.Bars(1.0))])
    (row,) = benchmark.run()["rows"]
    assert (row["value"], row["note"], row["missed"]) == (None, "the device has too little memory", False)


@pytest.mark.slow
def test_a_row_compares_medians_with_its_bar():
    row = measure("demosaic_bilinear", 3)
    medians = {name: sorted(times)[1] for name, times in row["samples_ms"].items()}
    assert medians == {name: row[f"{name}_ms"] for name in ("ours", "baseline", "floor")}
    assert row["value"] == medians["baseline"] / medians["ours"]
    assert row["times_floor"] == medians["ours"] / medians["floor"]
    speed_up = rows.Row("", ROWS["memory"].measure, rows.Bars(10.0, 20.0))
    assert [speed_up.reached(value) for value in (9.9, 10.0, 20.0, None)] == ["fail", "pass", "stretch", "not compared"]
    assert [ROWS["memory"].reached(value) for value in (3.1, 3.0, 1.5)] == ["fail", "pass", "stretch"]


TEN = [10, 11, 12]


@pytest.mark.parametrize(
    ("others", "reached", "missed"),
    [
        ({"baseline": [9, 10, 11]}, "fail", False),
        ({"baseline": [7, 8, 9]}, "fail", True),
        ({"baseline": [20, 22, 24], "floor": [4, 5, 6]}, "stretch", False),
        ({"baseline": [20, 22, 24], "floor": [3, 4, 4]}, "stretch", True),
    ],
)
def test_a_row_misses_a_bar_if_it_does_by_more_than_noise(monkeypatch, others, reached, missed):
    value = others["baseline"][1] / TEN[1]
    row = rows.Row(
        "step", lambda _: rows.Measured(value, {"ours": TEN, **others}), rows.Bars(1.0, 2.0, most_floors=2.0)
    )
    monkeypatch.setattr(benchmark, "rows", lambda sizes, device: [row])
    result = benchmark.run()
    assert result["rows"][0]["reached"] == reached
    assert "floor" not in others or result["rows"][0]["times_floor"] > 2
    assert benchmark.missed(result) == ["step"] * missed


@pytest.mark.parametrize(
    ("module", "note"),
    [
        ("raise ModuleNotFoundError(name='colour')", "colour is not installed"),
        ("raise OSError('no such\\nlibrary')", "the baseline failed: OSError: no such library"),
        ("import os; os._exit(3)", "the baseline's process ended with 3"),
    ],
)
def test_the_error_of_a_baseline_is_noted_and_ours_is_measured(monkeypatch, tmp_path, module, note):
    (tmp_path / "colour_demosaicing.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    row = measure("demosaic_bilinear")
    assert (row["value"], row["reached"], row["note"]) == (None, "not compared", note)
    assert row["samples_ms"].keys() == {"ours", "floor"}


def test_ours_is_measured_in_full_when_a_baseline_fails_later(monkeypatch, tmp_path):
    module = "calls = iter([None])\ndef demosaicing_CFA_Bayer_bilinear(raw): next(calls)\n"
    names = "demosaicing_CFA_Bayer_Malvar2004 = demosaicing_CFA_Bayer_Menon2007 = demosaicing_CFA_Bayer_bilinear"
    (tmp_path / "colour_demosaicing.py").write_text(module + names)
    monkeypatch.syspath_prepend(tmp_path)
    row = measure("demosaic_bilinear", 3)
    assert (row["value"], row["note"]) == (None, "the baseline failed: StopIteration:")
    assert {name: len(times) for name, times in row["samples_ms"].items()} == {"ours": 3, "floor": 3}


def test_compile_times_name_the_slowest_and_repeat_it(monkeypatch):
    seconds = {(): iter([1.0]), ("none",) * 3: iter([3.0, 2.0, 4.0])}
    monkeypatch.setattr(fresh, "PIPELINES", tuple(seconds))
    monkeypatch.setattr(timing, "in_fresh_process", lambda work, algorithms, *settings: next(seconds[algorithms]))
    row = measure("compile_gradient", 3)
    slowest = [3000.0, 2000.0, 4000.0]
    assert (row["note"], row["value"]) == ("static_none_none_none", 3.0)
    assert row["samples_ms"] == {"ours": slowest, row["note"]: slowest, "parametrized": [1000.0]}


@pytest.mark.slow
def test_a_pipeline_is_compiled_in_a_fresh_process(monkeypatch):
    monkeypatch.setattr(fresh, "PIPELINES", (("none", "none", "none"),))
    assert 0 < measure("compile_gradient")["value"] < 60


@pytest.mark.slow
def test_memory_is_the_largest_of_the_pipelines():
    row = measure("memory")
    multiples = dict(multiple.split() for multiple in row["note"].split(", "))
    assert multiples.keys() == {"parametrized", "full"}
    assert f"{row['value']:.2f}x" == max(multiples.values())
    # At least the input and the output are in memory at the same time. Small frames have few patches to reuse memory.
    assert 1 <= row["value"] < 8


@pytest.mark.slow
def test_frames_are_timed_by_the_pixel():
    row = measure("frame_time_per_pixel", 3)
    small, large = (sorted(row["samples_ms"][f"{size} megapixels"])[1] for size in ("1.536", "3.072"))
    assert row["value"] == pytest.approx(large / small / 2)
    assert row["note"] == f"1.536 megapixels {small:.0f} ms, 3.072 megapixels {large:.0f} ms"


def test_rows_are_chosen_by_the_beginning_of_their_names(monkeypatch):
    monkeypatch.setattr(rows.Comparison, "__call__", lambda self, repeats: rows.Measured(None, {}))
    chosen = benchmark.run(["demosaic_bilinear", "demosaic_malvar2004"], 1, SIZES)["rows"]
    assert [row["name"] for row in chosen] == ["demosaic_bilinear", "demosaic_malvar2004"]
    with pytest.raises(InputError, match="no row's name begins with 'bilinear'; the rows are parametrized_forward, "):
        benchmark.run(["demosaic", "bilinear"], 1, SIZES)
