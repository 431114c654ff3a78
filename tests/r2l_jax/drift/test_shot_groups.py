import numpy as np
import pytest

from r2l_jax.data.files.shot import Shot
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import shot_groups
from r2l_jax.errors import InputError


def dataset_of(shots):
    labels = np.zeros(len(shots), np.int32)
    return RawDataset(
        "own", "classification", ("a",), None, ("",) * len(shots), labels, read=print, shot=shots.__getitem__
    )


def groups(field, values):
    """The groups of samples whose shots have these values of a field."""
    dataset = dataset_of([Shot(**{field: value}) for value in values])
    found = shot_groups.groups(dataset, np.arange(len(values)), (field,))[field]
    return [(name, indices.tolist()) for name, indices in found.items()]


def test_numbers_are_ordered_by_their_size_words_by_their_letters_and_the_unknown_come_last():
    found = groups("iso_speed", [1600.0, 200.0, None, 1600.0, 800.0])
    assert found == [("200", [1]), ("800", [4]), ("1600", [0, 3]), ("unknown", [2])]
    assert groups("model", ["x", "A", None, "x"]) == [("A", [1]), ("x", [0, 3]), ("unknown", [2])]
    # Numbers that read the same are one group; 1/50 reads otherwise than 1/60.
    assert groups("exposure_time", [1 / 60, 1 / 50, 0.0166667]) == [("0.0166667", [0, 2]), ("0.02", [1])]


def test_more_than_fifty_groups_and_a_field_that_no_file_tells_are_refused():
    assert len(groups("iso_speed", [float(1 + number) for number in range(50)])) == 50
    with pytest.raises(InputError, match="`by=iso_speed`: a table takes at most 50 groups, got 51 values"):
        groups("iso_speed", [float(1 + number) for number in range(51)])
    with pytest.raises(InputError, match="`by=lens`: none of the 2 files states its lens"):
        groups("lens", [None, None])
