"""The ledger of a study: how long each job took, for the estimate of those that are left."""

import hashlib
import json
import pathlib
from typing import Annotated

import msgspec

from r2l_jax.apps.study.plan import Kind, StudyJob
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import flat

NAME = "jobs.json"


class Entry(msgspec.Struct):
    """A finished job.

    Attributes:
        kind: its kind.
        settings: a hash of its settings.
        seconds: how long it took, if one call ran it from start to end.
        passes: its work, see `estimate.passes`.
    """

    kind: Kind
    settings: str
    seconds: Annotated[float, msgspec.Meta(ge=0)]
    passes: Annotated[int, msgspec.Meta(ge=0)]


class Ledger:
    """The finished jobs of a study, in the file `jobs.json`.

    Args:
        output: the folder of the study.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, output: pathlib.Path):
        self._file = output / NAME
        self._entries: dict[str, Entry] = {}
        if self._file.exists():
            try:
                self._entries = msgspec.convert(json.loads(self._file.read_text()), dict[str, Entry])
            except (OSError, ValueError, msgspec.ValidationError) as error:
                raise InputError(f"{self._file} is damaged ({error}): remove it; only an estimate is lost") from None

    def has(self, job: StudyJob) -> bool:
        """Tells whether a job of the same settings is finished."""
        entry = self._entries.get(job.name)
        return entry is not None and entry.settings == _hash(job)

    def add(self, job: StudyJob, seconds: float, passes: int) -> None:
        """Adds a finished job; one that is there already had nothing left to do now, and stays."""
        if not self.has(job):
            self._entries[job.name] = Entry(job.kind, _hash(job), seconds, passes)
            write_json(self._file, msgspec.to_builtins(self._entries))

    def seconds_per_pass(self, kind: Kind) -> float | None:
        """Returns the mean seconds of a pass in the finished jobs of a kind; None without such jobs."""
        entries = [entry for entry in self._entries.values() if entry.kind == kind]
        passes = sum(entry.passes for entry in entries)
        return sum(entry.seconds for entry in entries) / passes if passes else None


def _hash(job: StudyJob) -> str:
    return hashlib.sha256(json.dumps(flat(job.config), sort_keys=True).encode()).hexdigest()
