"""Works on many raw files in parts, each of which is a cached result, so that another call resumes."""

import functools
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from r2l_jax import jobs
from r2l_jax.data.files import remote
from r2l_jax.data.files.file_metadata import hash_files
from r2l_jax.data.files.remote import Place
from r2l_jax.errors import one_line
from r2l_jax.jobs import Ended, Job
from r2l_jax.results import result, store
from r2l_jax.results.result import Result
from r2l_jax.training.run import BATCH

# The number of parts, which lets all workers finish at about the same time, and the most batches in a part.
_PARTS, _BATCHES = 32, 8


class Worked(NamedTuple):
    """Results in the order of the files, and how many files failed or had an earlier result."""

    results: dict[Place, Any]
    failed: int
    before: int


def in_parts(
    files: Sequence[Place],
    folder: Path,
    work: Callable[[Sequence[Place]], Iterable[Ended]],
    settings: Any,
    model: Any,
    targets: Callable[[Place], list[Path]],
    scheduler: str = "serial",
) -> Worked:
    """Works on files, with a progress bar and, at the end, the errors on stderr.

    Parts are computed again if their settings, models, code or files have changed, or if a file in them failed.

    Args:
        files: the raw files.
        folder: a folder for the parts' results alone.
        work: works on files, and yields an `Ended` for each, in order, with a result that JSON can hold.
        settings: everything that results depend on besides files and models.
        model: the identities of models and pipelines.
        targets: the files that the work on a file writes.
        scheduler: where parts are worked on, see `jobs.SETTING`.
    """
    size = BATCH * int(np.clip(-(-len(files) // (_PARTS * BATCH)), 1, _BATCHES))
    parts, before, given = dict[str, Sequence[Place]](), set[str](), []
    version_of = _versions(files)
    for start in range(0, len(files), size):
        part = files[start : start + size]
        versions = [[str(file), version_of[file]] for file in part]
        inputs = store.identity(settings, versions, model)
        name = store.hash_json(inputs)[:16]
        is_known = all(version for _, version in versions)
        if not (is_known and all(target.exists() for file in part for target in targets(file))):
            shutil.rmtree(folder / name, ignore_errors=True)
        if (folder / name / result.FILE).exists():
            before.add(name)
        parts[name] = part
        given.append(Job(name, functools.partial(_part, folder / name, inputs, work, part)))
    counts = [0]

    def ended() -> Generator[Ended, None, None]:
        for name, found, error, *_ in jobs.run(given, scheduler):
            if error is not None:
                found = [[None, one_line(f"{file}: {error}"), ()] for file in parts[name]]
            if any(failed is not None for _, failed, _ in found):
                shutil.rmtree(folder / name, ignore_errors=True)
            elif name in before:
                counts[0] += len(found)
            yield from (Ended(file, *each) for file, each in zip(parts[name], found, strict=True))

    # Removed first: the files of other parts are about to be replaced.
    for other in folder.glob("*/"):
        if other.name not in parts:
            shutil.rmtree(other, ignore_errors=True)
    results, failed = jobs.finished(ended(), files)
    return Worked({file: results[file] for file in files if file in results}, failed, counts[0])


def _versions(files: Sequence[Place]) -> dict[Place, str]:
    """Returns a hash of the content of each file, of a URL's metadata instead; empty if unknown."""
    here = [file for file in files if isinstance(file, Path) and file.is_file() and os.access(file, os.R_OK)]
    return {file: remote.version(file) for file in files} | dict(zip(here, hash_files(here), strict=True))


def _part(
    folder: Path, inputs: store.Identity, work: Callable[[Sequence[Place]], Iterable[Ended]], files: Sequence[Place]
) -> list[list[Any]]:
    """Returns the result, the error and the warnings of each file of a part."""

    def make() -> Result:
        with tqdm(work(files), total=len(files), unit="file", leave=False, disable=None) as ended:
            return Result({"ended": [[each.result, each.error, each.warnings] for each in ended]})

    return result.cached(folder, inputs, make).metadata["ended"]
