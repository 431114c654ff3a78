"""Data sets of several intensities."""

import dataclasses

import brightness
import numpy as np
import pytest

from r2l_jax.data.sets import datasets
from r2l_jax.errors import InputError

LIGHT = np.linspace(0.2, 0.8, 5)
LABELS = np.array([0, 1, 0, 1, 1])
FULL, HALF, TENTH = (
    dataclasses.replace(brightness.images(LIGHT * iso, LABELS), labels=LABELS) for iso in (1.0, 0.5, 0.1)
)


@pytest.fixture
def pool():
    return datasets.pooled({0.1: TENTH, 0.5: HALF, 1.0: FULL})


def test_a_pool_holds_each_scene_at_each_intensity_side_by_side(pool):
    raws, targets = pool.samples(np.arange(15))
    light = (raws.mean((1, 2)) - 0.1).reshape(5, 3)
    np.testing.assert_allclose(light, LIGHT[:, None] * [0.1, 0.5, 1.0], rtol=1e-5)
    np.testing.assert_array_equal(targets, np.repeat(LABELS, 3))
    np.testing.assert_array_equal(pool.labels, targets)
    assert pool.names[3:6] == ("sample_1@iso=0.1", "sample_1@iso=0.5", "sample_1@iso=1")
    assert [pool.shot(index).iso for index in (3, 4, 5)] == [0.1, 0.5, 1.0]


def test_a_pool_hashes_the_mosaics_of_each_intensity(pool, tmp_path):
    same, other = (datasets.pooled({0.1: TENTH, 0.5: each, 1.0: FULL}) for each in (HALF, TENTH))
    assert pool.sample_hashes(range(15)) == same.sample_hashes(range(15))
    changed = [a != b for a, b in zip(pool.sample_hashes(range(15)), other.sample_hashes(range(15)), strict=True)]
    assert changed == 5 * [False, True, False]
    files = [tuple((tmp_path / f"{scene}_{name}",) for scene in range(5)) for name in ("dark", "full")]
    dark, full = (dataclasses.replace(FULL, files=each) for each in files)
    found = datasets.pooled({0.1: dark, 1.0: full}).files
    assert [path.name for (path,) in found[:4]] == ["0_dark", "0_full", "1_dark", "1_full"]


def test_pools_of_other_intensities_are_other_data(pool):
    others = datasets.pooled({0.1: TENTH, 1.0: FULL}), datasets.pooled({0.1: TENTH, 0.25: HALF, 1.0: FULL}), FULL
    assert len({pool.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert datasets.pooled({1.0: FULL}) is FULL
    with pytest.raises(InputError, match=r"^`iso=0\.5` and `iso=0\.1` must have the same samples$"):
        datasets.pooled({0.1: TENTH, 0.5: dataclasses.replace(HALF, names=HALF.names[::-1])})


def test_the_intensities_of_a_scene_are_a_group(pool):
    assert pool.groups.tolist() == np.repeat(np.arange(5), 3).tolist()
    assert FULL.groups is None
    assert FULL.groups_of(np.array([4, 1])).tolist() == [4, 1]
    # Patients stay groups, whatever the number of intensities.
    patients = [dataclasses.replace(each, groups=["p", "q", "p", "q", "q"]) for each in (TENTH, FULL)]
    found = datasets.pooled({0.1: patients[0], 1.0: patients[1]})
    assert found.groups.tolist() == np.repeat([0, 1, 0, 1, 1], 2).tolist()


def test_groups_take_turns(pool):
    assert pool.taking_turns(np.array([14, 3, 12, 5, 0, 4])).tolist() == [14, 3, 0, 12, 5, 4]
    assert FULL.taking_turns(np.array([4, 1])).tolist() == [4, 1]


def test_other_groups_are_other_content(pool):
    others = [dataclasses.replace(FULL, groups=groups) for groups in ([0, 0, 1, 1, 1], [0, 1, 1, 1, 1], None)]
    assert len({each.content for each in others}) == 3
    with pytest.raises(InputError, match="groups must have one for each of 5 samples, got 4"):
        dataclasses.replace(FULL, groups=[0, 0, 1, 1])


def test_intensities_that_are_not_there_are_refused():
    with pytest.raises(InputError, match=r"`iso` must be one of the published intensities 0.01, .*, got 0.3"):
        datasets.load("Synthetic", iso=(0.1, 0.3))
