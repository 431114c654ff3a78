"""Groups samples by facts of their shots: on which camera does a model fail?"""

from collections.abc import Mapping, Sequence

import numpy as np

from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.runtime.errors import InputError

# Values of a field beyond these, such as the dates of all samples, have no table that anyone reads.
_MOST_GROUPS = 50

_UNKNOWN = "unknown"


def groups(dataset: RawDataset, indices: np.ndarray, field: str) -> dict[str, np.ndarray]:
    """Groups samples by the value of a field of their shots.

    Args:
        dataset: the data set.
        indices: the samples.
        field: a field of `Shot`.

    Returns:
        The samples of each value, by the value in words, in the order of the values.

    Raises:
        InputError: the data set knows no shots, no file tells the field, or there are too many values.
    """
    if dataset.shot is None:
        raise InputError(f"--by={field}: {dataset.name} does not know with what its samples were taken; a Folder does")
    found: dict[str | float, list[int]] = {}
    for index in indices.tolist():
        value = getattr(dataset.shot(index), field)
        found.setdefault(_UNKNOWN if value is None else value, []).append(index)
    if set(found) == {_UNKNOWN}:
        raise InputError(f"--by={field}: none of the {len(indices)} files tells its {field}")
    if len(found) > _MOST_GROUPS:
        raise InputError(f"--by={field}: {len(found)} values are too many groups; at most {_MOST_GROUPS} make a table")
    ordered = sorted(found, key=lambda value: (isinstance(value, str), value))
    return {
        f"{value:g}" if isinstance(value, float) else str(value): np.array(found[value], indices.dtype)
        for value in ordered
    }


def check(dataset: RawDataset, indices: np.ndarray, fields: Sequence[str]) -> dict[str, Mapping[str, np.ndarray]]:
    """Groups samples by each of several fields; raises the InputErrors of `groups`."""
    return {field: groups(dataset, indices, field) for field in fields}
