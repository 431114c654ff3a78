import numpy as np
import pytest

from r2l_jax.drift import outcomes
from r2l_jax.drift.outcomes import Outcomes
from r2l_jax.runtime.errors import InputError

SAMPLES = np.array([7, 3, 11, 2, 5, 19, 4, 6, 8])
BITS = np.stack([np.arange(9) % 2, np.ones(9)])
SHARES = np.stack([np.linspace(0, 0.4, 9), np.linspace(0, 0.5, 9)]).astype(np.float32)


def test_bits_and_shares_come_back_as_they_were_written(tmp_path):
    runs = {
        "a run": {0: Outcomes(SAMPLES, {"own": BITS, "contrast.1": 1 - [[1], [0]] * BITS})},
        "masks": {2: Outcomes(SAMPLES[:4], {"own": SHARES[:, :4]}), 3: Outcomes(SAMPLES, {"own": SHARES})},
    }
    outcomes.write(tmp_path / "outcomes.safetensors", runs)
    found = outcomes.read(tmp_path / "outcomes.safetensors")
    assert {run: list(folds) for run, folds in found.items()} == {"a run": [0], "masks": [2, 3]}
    for run, folds in runs.items():
        for number, fold in folds.items():
            np.testing.assert_array_equal(found[run][number].samples, fold.samples)
            assert list(found[run][number].cases) == list(fold.cases)
            for case, each in fold.cases.items():
                np.testing.assert_array_equal(found[run][number].cases[case], each)


@pytest.mark.parametrize(("each", "characters"), [(BITS, 4), (SHARES, 96)])
def test_text_holds_bits_where_it_can(each, characters):
    text = outcomes.to_text(each)
    assert len(text) == characters
    np.testing.assert_array_equal(outcomes.from_text(text, SAMPLES), each)


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "outcomes.safetensors"
    outcomes.write(file, {"run": {0: Outcomes(SAMPLES, {"own": BITS})}})
    content = file.read_bytes()
    for damaged in (content[:-1], content.replace(b"samples", b"sampled"), b""):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"outcomes\.safetensors cannot be read"):
            outcomes.read(file)


def test_scenes_of_several_samples_come_back_and_count_once(tmp_path):
    file, scenes = tmp_path / "outcomes.safetensors", np.array([0, 0, 1, 1, 2, 2, 3, 3, 4])
    outcomes.write(file, {"run": {0: Outcomes(SAMPLES, {"own": BITS}, scenes), 1: Outcomes(SAMPLES, {"own": BITS})}})
    found = outcomes.read(file)["run"]
    np.testing.assert_array_equal(found[0].scenes, scenes)
    assert found[1].scenes is None
    # Four scenes have one of two right, and the last none of one.
    np.testing.assert_allclose(found[0].contributions("own"), 5 / 9 * np.array([1, 1, 1, 1, 0]))
    np.testing.assert_array_equal(found[1].contributions("own"), BITS[0])
    for wrong in (scenes[1:], 3 * scenes):
        outcomes.write(file, {"run": {0: Outcomes(SAMPLES, {"own": BITS}, wrong)}})
        with pytest.raises(InputError, match="9 samples need 9 numbers of scenes below 9"):
            outcomes.read(file)


def test_folds_of_the_same_samples_are_averaged_and_others_concatenated():
    right, wrong = np.array([[1.0, 1], [1, 1]]), np.array([[0.0, 1], [1, 1]])
    first = Outcomes(np.array([3, 5]), {"own": right})
    assert outcomes.joined([first, Outcomes(np.array([3, 5]), {"own": wrong})], "own").tolist() == [0.5, 1]
    assert outcomes.joined([first, Outcomes(np.array([4, 6]), {"own": wrong})], "own").tolist() == [1, 1, 0, 1]
