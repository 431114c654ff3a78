"""The state in which training begins."""

import custom_code
import jax
import numpy as np
import pytest
import tifffile
from flax import nnx
from safetensors.numpy import load_file, save_file
from small_runs import model

import isp
from r2l_jax.cli.flags import replace
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.training import train
from r2l_jax.training.plan import Plan, initial_state, moments, provide
from r2l_jax.training.run import load
from r2l_jax.training.steps import StepSettings, make_steps, processor_of


@pytest.fixture
def weights_file(tmp_path):
    """ImageNet weights, if a small head had any; of a thousand classes, as they come."""
    rng = np.random.default_rng(0)
    shapes = {"conv1.weight": (8, 3, 3, 3), "fc.weight": (1000, 8), "fc.bias": (1000,)}
    shapes |= {f"bn1.{name}": (8,) for name in ("weight", "bias", "running_mean", "running_var")}
    file = tmp_path / "weights.safetensors"
    save_file({name: rng.random(shape, np.float32) for name, shape in shapes.items()}, file)
    return file


@pytest.fixture(scope="module")
def three_classes(base, tmp_path_factory):
    """A run on mosaics of three classes, whose steps are too small to change a float32."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("three")
    for label in ("a", "b", "c"):
        (folder / label).mkdir()
        for number in range(4):
            tifffile.imwrite(folder / label / f"{number}.tiff", rng.integers(0, 2**16, (32, 32), dtype=np.uint16))
    data = {"dataset": "Folder", "data_dir": str(folder), "camera": "drone", "train_size": 0.5}
    settings = {"epochs": 1, "lr": 1e-20, "batch_size": 2, "save_locally": True, "augmentation": "none"}
    config = replace(base, run_name="three", **data, **settings)
    train.run(config)
    return config


def provided(config, **origins):
    """Returns the head of a run's model after parts of it were taken from elsewhere."""
    (fold,) = load(config.run_dir)
    state = nnx.state(fold.model)
    provide(state, replace(config, **origins), fold.architecture, 0)
    return nnx.to_pure_dict(state)["head"]


def test_the_head_of_a_run_with_other_classes_is_taken_but_for_its_last_layer(three_classes, one_epoch, capsys):
    head, earlier = provided(three_classes, classifier_uri=str(one_epoch.run_dir)), model(one_epoch)
    said = f"`classifier_uri={one_epoch.run_dir}` has different classes: layer fc of the head keeps random weights\n"
    assert said in capsys.readouterr().out
    np.testing.assert_array_equal(head["conv1"]["kernel"], earlier["head.conv1.kernel"])
    assert (earlier["head.fc.kernel"].shape, head["fc"]["kernel"].shape) == ((8, 5), (8, 3))
    np.testing.assert_array_equal(head["fc"]["kernel"], model(three_classes)["head.fc.kernel"])


@pytest.mark.shows("train --classifier_pretrained --pretrained_weights")
def test_a_head_starts_from_pretrained_weights_but_for_its_last_layer(one_epoch, weights_file):
    head, weights = (
        provided(one_epoch, classifier_pretrained=True, pretrained_weights=str(weights_file)),
        load_file(weights_file),
    )
    np.testing.assert_array_equal(head["conv1"]["kernel"], weights["conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(head["fc"]["kernel"], model(one_epoch)["head.fc.kernel"])


def test_running_statistics_start_at_those_of_the_images(three_classes):
    """Three updates would leave 0.9**3 of a variance of 1."""
    (fold,) = load(three_classes.run_dir)
    raws, _ = fold.dataset.samples(fold.split.train)
    images, normalizer = np.asarray(fold.model.processor(raws)), fold.model.normalizer
    np.testing.assert_allclose(normalizer.mean[...], images.mean((0, 1, 2)), rtol=0.02)
    np.testing.assert_allclose(normalizer.var[...], images.var((0, 1, 2)), rtol=0.05)


def test_statistics_do_not_depend_on_the_batch_size(base):
    dataset = datasets.load(base.data.dataset, **base.data.source)
    # Of batches of four, the last one is half full.
    made = StepSettings.of(base, dataset, 1).architecture
    few, all_at_once = (moments(made.processor(), np.arange(10), dataset, size, deviations=True) for size in (4, 10))
    np.testing.assert_allclose(few, all_at_once, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [4, 16])
def test_statistics_of_bright_even_images_are_not_lost_to_rounding(base, batch_size):
    """E[x^2] - E[x]^2 in float32 would be wrong by a tenth of this variance, and negative for some images."""
    rng = np.random.default_rng(0)
    images = (0.95 + 1e-3 * rng.standard_normal((50, 32, 32, 3)) + [[[0, 1e-3, 2e-3]]]).astype(np.float32)
    names, labels = tuple(map(str, range(50))), np.arange(50, dtype=np.int32) % 5
    dataset = RawDataset("even", "classification", (*"abcde",), None, names, labels, lambda i: (images[i], labels[i]))
    made = StepSettings.of(replace(base, processing_mode="none"), dataset, 1).architecture
    mean, var = moments(made.processor(), np.arange(3, 50), dataset, batch_size)
    some = images[3:].astype(np.float64)
    # A mean of 1,024 terms rounds by up to 32 * 2**-24 of its size.
    np.testing.assert_allclose(mean, some.mean((0, 1, 2)), rtol=2e-6)
    np.testing.assert_allclose(var, some.var((0, 1, 2)), rtol=1e-3)


OWN = """
from flax import nnx
import r2l_jax

def make(rngs):
    mean, std = (0.4, 0.5, 0.6), (0.3, 0.2, 0.1)
    return r2l_jax.from_flax(nnx.Sequential(lambda images: images.mean((1, 2)), nnx.Linear(3, 5, rngs=rngs)), mean, std)
"""


def test_a_neural_processor_is_normalized_before_a_head_with_its_own_normalization(base, tmp_path):
    head = custom_code.write(tmp_path / "own.py", OWN)
    plan = Plan(replace(base, run_name="neural", processing_mode="neural_network", classifier_network=head))
    (fold,), steps = plan.folds, make_steps(plan.steps)
    state = initial_state(plan, steps, fold, jax.random.key(0))
    normalizer = processor_of(state.model)["normalizer"]
    raws = plan.dataset.samples(fold.split.train)[0].astype(np.float64)
    tiles = raws.reshape(-1, 16, 2, 16, 2).swapaxes(2, 3).reshape(-1, 4)
    colors = isp.cfa.tile(plan.dataset.camera.pattern).ravel()
    pixels = np.stack([tiles[:, colors == color].mean(1) for color in range(3)], -1)
    np.testing.assert_allclose(normalizer["mean"], pixels.mean(0), rtol=1e-4)
    np.testing.assert_allclose(normalizer["std"], np.sqrt(pixels.var(0) + 1e-5), rtol=1e-3)
