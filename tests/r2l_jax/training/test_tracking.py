import time

import numpy as np
import pytest
from PIL import Image
from small_runs import events

from r2l_jax.training.tracking import Tracker


def recorded(folder, name):
    """Returns a picture, and the tensor behind it."""
    file = folder / "results/epoch_0002" / name
    return np.asarray(Image.open(f"{file}.png")), np.load(f"{file}.npy")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_parameters_are_scalars_by_their_place_and_large_ones_histograms(tmp_path):
    nine, ten = np.arange(9.0, dtype=np.float32).reshape(3, 3), np.arange(10.0, dtype=np.float32)
    with Tracker(tmp_path, 0, save_tensors=False) as tracker:
        tracker.processor({"matrix": nine, "layer": ten, "gamma": np.float32(2.2)}, {"matrix": 0.25}, 2)
    found = events(tmp_path)
    names = {"processor/gamma", "processor_gradient_norm/matrix"}
    names |= {f"processor/matrix/{row}/{column}" for row in range(3) for column in range(3)}
    assert set(found.Tags()["scalars"]) == names
    assert found.Tags()["histograms"] == ["processor/layer"]
    (one,) = found.Scalars("processor/matrix/1/2")
    assert (one.step, one.value) == (2, 5)
    assert found.Scalars("processor_gradient_norm/matrix")[0].value == 0.25


def test_images_are_rows_in_their_order_with_the_tensors_behind_them(tmp_path):
    first, second = np.random.default_rng(0).uniform(-0.5, 1.5, (2, 3, 4, 4, 3)).astype(np.float32)
    with Tracker(tmp_path, 0, save_tensors=True) as tracker:
        tracker.images("stages", {"demosaic": first, "sharpening": second}, 2)
    for name, batch in (("stages/0_demosaic", first), ("stages/1_sharpening", second)):
        row = np.concatenate(list(np.clip(batch, 0, 1)), 1)
        picture, tensor = recorded(tmp_path, name)
        np.testing.assert_array_equal(picture, np.round(255 * row).astype(np.uint8))
        np.testing.assert_array_equal(tensor, batch)


def test_gradients_are_magnitudes_of_which_the_brightest_hundredth_of_each_image_is_full(tmp_path):
    ramp = np.linspace(-1, 0, 300).reshape(10, 10, 3)
    batch = np.stack([ramp, 1e-6 * ramp, 0 * ramp]).astype(np.float32)
    with Tracker(tmp_path, 0, save_tensors=True) as tracker:
        tracker.images("gradients", {"demosaic": batch}, 2)
    picture, tensor = recorded(tmp_path, "gradients/0_demosaic")
    large, small, none = np.split(picture, 3, 1)
    np.testing.assert_allclose(large, 255 * np.minimum(-ramp / np.quantile(-ramp, 0.99), 1), atol=0.501)
    np.testing.assert_allclose(small.astype(int), large, atol=1)
    assert not none.any()
    np.testing.assert_array_equal(tensor, batch)


def test_what_an_interrupted_run_recorded_of_its_next_epochs_is_superseded(tmp_path):
    for first_epoch, values in ((0, (1.0, 2.0, 3.0)), (1, (5.0,))):
        time.sleep(1.1 * first_epoch)  # Event files are named by the second.
        left = tmp_path / "results/epoch_0002/stages/.0_demosaic.png.7.part"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
        with Tracker(tmp_path, first_epoch, save_tensors=False) as tracker:
            assert not left.exists()
            for epoch, value in enumerate(values, first_epoch):
                tracker.scalars({"loss/val": value}, epoch)
    assert [(one.step, one.value) for one in events(tmp_path).Scalars("loss/val")] == [(0, 1.0), (1, 5.0)]


@pytest.mark.parametrize(("save_tensors", "enabled"), [(False, True), (True, False)])
def test_tensors_and_files_are_written_only_if_asked_for(tmp_path, save_tensors, enabled):
    with Tracker(tmp_path, 0, save_tensors, enabled) as tracker:
        tracker.images("stages", {"demosaic": np.zeros((1, 4, 4, 3), np.float32)}, 2)
    assert not list(tmp_path.rglob("*.npy"))
    assert [len(list(tmp_path.rglob(name))) for name in ("*.png", "events*")] == [enabled] * 2
