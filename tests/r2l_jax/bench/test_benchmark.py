import itertools

import jax
import numpy as np
import pytest
import small_runs
from flax import nnx

import tasks
from r2l_jax.bench import baselines, benchmark, inputs, timing
from r2l_jax.bench.benchmark import Row
from r2l_jax.bench.timing import Measured
from r2l_jax.runtime.errors import InputError

SIZES = benchmark.Sizes(batch=(2, 32, 32), step=(2, 32, 32), large=(2, 64, 64), mosaic=(32, 48), frame=(1024, 1500))
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


def test_both_sides_normalize_alike():
    pytest.importorskip("torch")
    (ours, _), baseline = both_sides("parametrized_forward")
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


def test_on_a_gpu_pytorch_computes_there_and_rows_have_no_bars():
    gpu = {row.name: row for row in benchmark.rows(SIZES, on_gpu=True)}
    assert set(ROWS) - set(gpu) == {"demosaic_opencv"}
    assert {row.bar for row in gpu.values()} == {None}
    for name, row in gpu.items():
        if name.startswith(("static", "denoise", "demosaic")) and name != "demosaic_kornia":
            assert row.measure.baseline is None
        elif isinstance(row.measure, benchmark.Comparison):
            assert row.measure.baseline.keywords["device"] == "cuda"


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


def test_a_row_without_enough_memory_does_not_end_the_run(monkeypatch):
    def measure(repeats):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.")

    monkeypatch.setattr(benchmark, "rows", lambda *settings: [Row("step", measure, 1.0)])
    (row,) = benchmark.run()["rows"]
    assert (row["value"], row["note"], row["missed"]) == (None, "the device has too little memory", False)


@pytest.mark.parametrize(
    ("baseline", "bar", "at_most", "missed"),
    [
        ([9, 10, 11], 1.0, False, False),
        ([7, 8, 9], 1.0, False, True),
        ([20, 22, 24], None, False, False),
        (None, 1.5, False, True),
        (None, 1.0, True, True),
        (None, 1.3, True, False),
    ],
)
def test_a_row_misses_its_bar_if_it_does_by_more_than_noise(monkeypatch, baseline, bar, at_most, missed):
    ours = [10, 11, 12]
    measured = Measured(
        baseline[1] / 11 if baseline else 1.2, {"ours": ours} | ({"baseline": baseline} if baseline else {})
    )
    monkeypatch.setattr(benchmark, "rows", lambda *settings: [Row("step", lambda _: measured, bar, at_most=at_most)])
    assert benchmark.missed(benchmark.run()) == ["step"] * missed


def test_ours_is_measured_in_full_when_a_baseline_fails_later(monkeypatch, tmp_path):
    module = "calls = iter([None])\ndef demosaicing_CFA_Bayer_bilinear(raw): next(calls)\n"
    names = "demosaicing_CFA_Bayer_Malvar2004 = demosaicing_CFA_Bayer_Menon2007 = demosaicing_CFA_Bayer_bilinear"
    (tmp_path / "colour_demosaicing.py").write_text(module + names)
    monkeypatch.syspath_prepend(tmp_path)
    row = measure("demosaic_bilinear", 3)
    assert (row["value"], row["note"]) == (None, "the baseline failed: StopIteration:")
    assert {name: len(times) for name, times in row["samples_ms"].items()} == {"ours": 3, "floor": 3}


def test_a_baseline_whose_process_ends_is_noted(monkeypatch, tmp_path):
    (tmp_path / "colour_demosaicing.py").write_text("import os; os._exit(3)")
    monkeypatch.syspath_prepend(tmp_path)
    assert measure("demosaic_bilinear")["note"].startswith("the baseline failed: BrokenProcessPool: ")


def test_memory_is_the_largest_of_the_pipelines():
    row = measure("memory")
    multiples = dict(multiple.split() for multiple in row["note"].split(", "))
    assert multiples.keys() == {"parametrized", "full"}
    assert f"{row['value']:.2f}x" == max(multiples.values())
    # At least the input and the output are in memory at the same time. Small frames have few patches to reuse memory.
    assert 1 <= row["value"] < 8


def test_rows_are_chosen_by_the_beginning_of_their_names(monkeypatch):
    monkeypatch.setattr(benchmark.Comparison, "__call__", lambda self, repeats: Measured(None, {}))
    chosen = benchmark.run(["demosaic_bilinear", "demosaic_malvar2004"], 1, SIZES)["rows"]
    assert [row["name"] for row in chosen] == ["demosaic_bilinear", "demosaic_malvar2004"]
    with pytest.raises(InputError, match="no row's name begins with 'bilinear'; the rows are parametrized_forward, "):
        benchmark.run(["demosaic", "bilinear"], 1, SIZES)


def test_sides_take_turns_and_the_first_call_is_not_counted():
    ticks = itertools.count(0.0)
    samples = timing.alternate({"ours": lambda: next(ticks), "baseline": lambda: next(ticks)}, 3)
    assert samples == {"ours": [2.0, 4.0, 6.0], "baseline": [3.0, 5.0, 7.0]}


@pytest.mark.parametrize(("seconds", "rounds"), [(np.inf, timing.MOST), (0.0, timing.FEWEST)])
def test_repeats_fit_the_time(monkeypatch, seconds, rounds):
    monkeypatch.setattr(timing, "REST_SECONDS", 0.0)
    monkeypatch.setattr(timing, "SECONDS", seconds)
    assert len(timing.alternate({"ours": lambda: 0.0}, None)["ours"]) == rounds
