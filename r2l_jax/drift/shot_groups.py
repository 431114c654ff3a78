"""Groups samples by the metadata of their shots: on which camera does a model fail?"""

from collections.abc import Sequence

import numpy as np

from r2l_jax.data.files.shot import UNKNOWN
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.errors import InputError

# A table of more groups, such as one for the date of each sample, is unreadable.
_MOST_GROUPS = 50


def groups(dataset: RawDataset, indices: np.ndarray, fields: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Groups samples by each of several fields of `Shot`.

    Returns the samples of each value of a field, by the value in words, in the order of the values.

    Raises:
        InputError: the data set has no shots, no file has a field, or a field has too many values.
    """
    return {field: _groups(dataset, indices, field) for field in fields}


def _groups(dataset: RawDataset, indices: np.ndarray, field: str) -> dict[str, np.ndarray]:
    if dataset.shot is None:
        known = "a run of several intensities" if field == "iso" else "a Folder"
        raise InputError(f"`by={field}`: {dataset.name} has no shot metadata; {known} has")
    if field == "camera" and not dataset.cameras:
        raise InputError(f"`by=camera`: all samples of {dataset.name} are from one camera")
    found: dict[str, list[int]] = {}
    values: dict[str, str | float] = {}
    for index in indices.tolist():
        value = getattr(dataset.shot(index), field)
        value = UNKNOWN if value is None else value
        # Numbers that read the same, such as 1/60 and 0.0166667 of another camera, are one group.
        name = f"{value:g}" if isinstance(value, float) else str(value)
        values.setdefault(name, value)
        found.setdefault(name, []).append(index)
    if set(found) == {UNKNOWN}:
        raise InputError(f"`by={field}`: none of the {len(indices)} files states its {field}")
    if len(found) > _MOST_GROUPS:
        raise InputError(f"`by={field}`: a table takes at most {_MOST_GROUPS} groups, got {len(found)} values")
    ordered = sorted(found, key=lambda name: (name == UNKNOWN, values[name]))
    return {name: np.array(found[name], indices.dtype) for name in ordered}
