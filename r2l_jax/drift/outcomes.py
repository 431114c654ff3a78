"""The outcome of each sample in each case, which makes all comparisons of trainings paired.

An outcome is two numbers, see `Task.outcome`: 1 or 0 of 1 for classification; for segmentation, the intersection and
the union, as shares of the image.
"""

import base64
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import safetensors

from r2l_jax.drift import statistics
from r2l_jax.drift.results import Count
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_safetensors

# The name of the file that `write` writes, beside the results of a program.
FILE = "outcomes.safetensors"


class Outcomes(NamedTuple):
    """The outcomes of a fold.

    Attributes:
        samples: the samples' indices in the data set `(S,)`.
        cases: the numerators and denominators of the samples in each case, by its name, `(2, S)`.
        scenes: the number of each sample's scene `(S,)`, from 0; None if each shows a scene of its own.
    """

    samples: np.ndarray
    cases: Mapping[str, np.ndarray]
    scenes: np.ndarray | None = None

    def contributions(self, case: str) -> np.ndarray:
        """Computes an outcome of each scene whose mean is the score, see `statistics.contributions`."""
        of_samples = statistics.contributions(*self.cases[case].astype(np.float64))
        return of_samples if self.scenes is None else statistics.by_scene(of_samples, self.scenes)


def joined(folds: Sequence[Outcomes], case: str) -> np.ndarray:
    """Computes the outcomes of a run of several folds in a case, one for each scene.

    Folds that measure the same samples, such as test samples, are averaged; the scenes of others are concatenated.
    """
    each = [fold.contributions(case) for fold in folds]
    same = all(np.array_equal(fold.samples, folds[0].samples) for fold in folds)
    return np.mean(each, 0) if same else np.concatenate(each)


def to_text(outcomes: np.ndarray) -> str:
    """Returns the outcomes of a case `(2, S)` as text."""
    return base64.b64encode(_packed(outcomes).tobytes()).decode()


def from_text(text: str, samples: np.ndarray) -> np.ndarray:
    """Returns the outcomes of a case of samples from text."""
    content, count = base64.b64decode(text), len(samples)
    return _unpacked(np.frombuffer(content, np.float32 if len(content) == 8 * count else np.uint8), count)


def write(file: pathlib.Path, runs: Mapping[str, Mapping[int, Outcomes]]) -> None:
    """Writes the outcomes of runs by their names and the numbers of their folds."""
    arrays, about = {}, []
    for run, folds in runs.items():
        for fold, outcomes in folds.items():
            scenes = None if outcomes.scenes is None else outcomes.scenes.tolist()
            about.append(_Fold(run, fold, list(outcomes.cases), outcomes.samples.tolist(), scenes))
            arrays[f"{len(arrays)}"] = np.stack([_packed(each) for each in outcomes.cases.values()])
    write_safetensors(file, arrays, {"outcomes": msgspec.json.encode(about).decode()})


def read(file: pathlib.Path) -> dict[str, dict[int, Outcomes]]:
    """Reads the outcomes that `write` has written, by run and fold.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    runs: dict[str, dict[int, Outcomes]] = {}
    try:
        with safetensors.safe_open(file, "np") as opened:
            about = msgspec.json.decode((opened.metadata() or {})["outcomes"], type=list[_Fold])
            for number, fold in enumerate(about):
                rows = [_unpacked(row, len(fold.samples)) for row in opened.get_tensor(f"{number}")]
                cases = dict(zip(fold.cases, rows, strict=True))
                scenes, count = fold.scenes, len(fold.samples)
                if scenes is not None:
                    if len(scenes) != count or any(scene >= count for scene in scenes):
                        raise ValueError(f"{count} samples need {count} numbers of scenes below {count}")
                    scenes = np.array(scenes, np.int64)
                of_fold = Outcomes(np.array(fold.samples, np.int64), cases, scenes)
                runs.setdefault(fold.run, {})[fold.fold] = of_fold
    except (OSError, LookupError, ValueError, safetensors.SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}): make it anew or move it away") from None
    return runs


class _Fold(msgspec.Struct, omit_defaults=True):
    """The description of an array of outcomes, which has a row for each case."""

    run: str
    fold: Count
    cases: list[str]
    samples: list[Count]
    scenes: list[Count] | None = None


def _packed(outcomes: np.ndarray) -> np.ndarray:
    """Packs outcomes `(2, S)` into bits if each is 1 or 0 of 1, else into float32 numbers, in one row."""
    counted, total = outcomes
    if (total == 1).all() and np.isin(counted, (0, 1)).all():
        return np.packbits(counted.astype(bool))
    return outcomes.astype(np.float32).ravel()


def _unpacked(row: np.ndarray, count: int) -> np.ndarray:
    if row.dtype != np.uint8:
        return row.reshape(2, count)
    return np.stack([np.unpackbits(row, count=count), np.ones(count)]).astype(np.float32)
