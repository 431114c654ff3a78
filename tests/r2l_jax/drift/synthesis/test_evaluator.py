import dataclasses

import brightness
import by_hand
import numpy as np
import pytest
from small_runs import metrics

import isp
from r2l_jax.drift import cases
from r2l_jax.drift.synthesis.evaluator import Evaluator
from r2l_jax.training.run import open_runs

OTHER = "bilinear.unsharp_masking.median_denoising"
INTENSITIES = np.linspace(0.3, 0.7, 12)


@pytest.fixture(scope="module")
def fold():
    dataset = brightness.images(INTENSITIES, INTENSITIES > brightness.BRIGHT)
    return brightness.fold(dataset, range(2), range(2, 12))


def test_own_images_score_as_the_best_epoch_did(one_epoch):
    ((fold,),) = open_runs([str(one_epoch.run_dir)])
    own = Evaluator(8).evaluate(fold, fold.dataset, [cases.OWN])["own"]
    assert own["accuracy"] == pytest.approx(metrics(one_epoch)["best_val_accuracy"])
    assert own["loss"] == pytest.approx(metrics(one_epoch)["best_val_loss"], rel=1e-4)
    np.testing.assert_array_equal(own["confusion"], metrics(one_epoch)["val_confusion_matrix"])


def test_pipelines_are_followed_by_the_models_normalizer_and_head(fold):
    tests = Evaluator(8).evaluate(fold, fold.dataset, cases.pipelines([OTHER]))
    loss, confusion = by_hand.evaluate(fold, isp.static(fold.dataset.camera, *OTHER.split(".")))
    assert tests[OTHER]["loss"] == pytest.approx(loss, rel=1e-4)
    np.testing.assert_array_equal(tests[OTHER]["confusion"], confusion)


def test_numbers_of_a_corruption_follow_from_its_formula(fold):
    """The brightest corruption makes all images bright; the identity changes nothing."""
    known = [cases.OWN, *cases.corruptions(["identity"], [3]), *cases.corruptions(["brightness"], [5])]
    tests = Evaluator(8).evaluate(fold, fold.dataset, known)
    dark, bright = (int(count) for count in np.bincount(INTENSITIES[2:] > brightness.BRIGHT))
    assert (tests["own"]["accuracy"], tests["own"]["confusion"]) == (1, [[dark, 0], [0, bright]])
    assert tests["identity.3"]["loss"] == pytest.approx(tests["own"]["loss"], rel=1e-5)
    all_bright = tests["brightness.5"]
    assert all_bright["confusion"] == [[0, dark], [0, bright]]
    assert all_bright["accuracy"] == pytest.approx(bright / 10)
    assert all_bright["recall"] == {"dark": 0, "bright": 1}
    assert all_bright["precision"]["bright"] == pytest.approx(bright / 10)
    above = np.minimum(INTENSITIES[2:] ** (1 / 2.2) + 0.3, 1) - brightness.BRIGHT ** (1 / 2.2)
    signs = np.where(INTENSITIES[2:] > brightness.BRIGHT, -1, 1)
    assert all_bright["loss"] == pytest.approx(np.log1p(np.exp(2 * signs * above)).mean(), rel=1e-4)


def test_results_depend_neither_on_the_batch_size_nor_on_other_cases(fold):
    known = [cases.OWN, *cases.exposures([0.3]), *cases.corruptions(["gaussian_noise"], [5])]
    whole = Evaluator(8).evaluate(fold, fold.dataset, known)
    parts = Evaluator(3).evaluate(fold, fold.dataset, known[::-1])
    other = Evaluator(8, seed=1).evaluate(fold, fold.dataset, known[-1:])
    for case in known:
        assert parts[case.name]["loss"] == pytest.approx(whole[case.name]["loss"], rel=1e-5)
        assert parts[case.name]["confusion"] == whole[case.name]["confusion"]
    assert other["gaussian_noise.5"]["loss"] != pytest.approx(whole["gaussian_noise.5"]["loss"], rel=1e-6)


def test_mosaics_are_read_once_for_all_cases_and_not_kept(fold):
    read = []
    dataset = dataclasses.replace(fold.dataset, read=lambda index: read.append(index) or fold.dataset.read(index))
    Evaluator(5).evaluate(fold, dataset, [cases.OWN, *cases.corruptions(["identity"], [3])])
    assert sorted(read) == sorted(fold.valid_indices)
    assert "decoded" not in vars(dataset)


def test_test_samples_are_measured_if_there_are_any(fold):
    tested = dataclasses.replace(fold, valid_indices=fold.train_indices, test_indices=fold.valid_indices)
    own = Evaluator(8).evaluate(fold, fold.dataset, [cases.OWN])
    assert Evaluator(8).evaluate(tested, fold.dataset, [cases.OWN]) == own
    assert (fold.measured, tested.measured) == ("validation", "test")
    assert [each.measuring(fold.valid_indices[:3]).measured_indices.size for each in (fold, tested)] == [3, 3]
