"""Monitors a camera: groups its raw files into windows, tests them for drift, and writes the result."""

import contextlib
import dataclasses
import functools
import itertools
import pathlib
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from r2l_jax.apps.files import find_raw_files, read_file
from r2l_jax.cli import progress, stop
from r2l_jax.cli.commands import closing, command
from r2l_jax.cli.flags import flat
from r2l_jax.cli.stop import Interrupted
from r2l_jax.data.files import remote
from r2l_jax.data.files.known_camera import KnownCamera, find_known_camera
from r2l_jax.data.files.remote import Place
from r2l_jax.data.files.shot import UNKNOWN, read_shot
from r2l_jax.data.groups import FOLDER, named_groups
from r2l_jax.drift import limits
from r2l_jax.drift.monitoring import alarm, reference
from r2l_jax.drift.monitoring.config import LEAST_WINDOW, MonitorConfig
from r2l_jax.drift.monitoring.diagnosis import LEAST_IMAGES
from r2l_jax.drift.monitoring.monitor import Explained, Monitor, Window, undiagnosed
from r2l_jax.errors import InputError
from r2l_jax.jobs import AT_ONCE, finished, in_threads
from r2l_jax.results import result, store
from r2l_jax.results.locks import writing_to
from r2l_jax.training.run import Run, load

# The settings that windows in one folder share.
_SHARED = ("run", "checkpoint", "by", "group", "window", "camera", "false_alarm_every", "follow")

# Seconds between two checks of a folder. A file is read once it is unchanged between two checks.
_PAUSE = 2.0


def run(config: MonitorConfig) -> bool:
    """Monitors the images that the settings name, and returns whether there is an alarm.

    The reference is `<run>/monitor/reference.safetensors`. It is made if it is missing; afterwards, the run's data is
    not needed. With `input`, writes the result to `<output>`.

    Raises:
        InputError: the run does not take raw files, there is no reference and no data to make it, no file can be read,
            or the output folder cannot be used.
    """
    opened = load(config.run, 0, config.checkpoint, config.code, config.data_dir)
    opened.reading()  # Raises an InputError if the models take no raw files.
    print(f"{config.run}: the {config.checkpoint} checkpoint of {len(opened.folds)} model(s)")
    file = reference.file_of(config.run)
    with writing_to(file.parent):
        known, made = reference.of_run(opened, file)
    samples = f"{len(known)} {known.measured} samples, {file.stat().st_size / 1e6:.1f} MB"
    print(f"{file}: {'written, ' if made else ''}{samples}")
    if not config.input:
        return False
    if config.accept:
        return _accept(config, opened, file)
    if config.alarm == "loss":
        _check_loss(config, opened, known, file)
    with writing_to(config.output_dir):
        return _Call(config, opened, known).run()


def windows_of(keyed: Mapping[str, Sequence[Place]], size: int) -> dict[str, list[Place]]:
    """Divides the files of each key into windows of a size; the last one may be smaller, down to `LEAST_WINDOW`."""
    found = {}
    for key, files in keyed.items():
        parts = [list(files[start : start + size]) for start in range(0, len(files), size)]
        parts = [part for part in parts if len(part) >= LEAST_WINDOW]
        found |= {f"{key} {number}".strip(): part for number, part in enumerate(parts, 1)}
    return found


def key_of(file: Place, by: str | None) -> str:
    """Returns the day, the camera model or the folder of a file; an empty key if windows are made of all files."""
    if by is None:
        return ""
    if by == "folder":
        return str(file.parent)
    with remote.downloaded(file) as path:
        shot = read_shot(path)
    return shot.title if by == "model" else (shot.date or UNKNOWN)[:10]


def groups_of(files: Sequence[Place], config: MonitorConfig) -> np.ndarray | None:
    """Returns the group of each file; None if it is not given."""
    if config.group is None or not files:
        return None
    paths = [pathlib.PurePath(str(file)) for file in files]
    if config.group != FOLDER:  # A table has paths from the folder of the input.
        at = [next((name for name in config.input if path.is_relative_to(name)), "") for path in paths]
        paths = [
            path.relative_to(name) if path != pathlib.PurePath(name) else path
            for path, name in zip(paths, at, strict=True)
        ]
    return np.array(named_groups(config.group, paths, least=1))


def unknown_key_warning(keyed: Mapping[str, Sequence[Place]], by: str | None) -> str | None:
    """Returns a warning if windows mix files whose day or camera model is unknown; None otherwise."""
    if by not in ("day", "model") or UNKNOWN not in keyed:
        return None
    known = "the date" if by == "day" else "the camera"
    count, files = len(keyed[UNKNOWN]), sum(map(len, keyed.values()))
    return (
        f"{count} of {files} files do not name {known}, so they share windows; to separate them, put the files of each "
        f"{by} in their own folder and give `by=folder`"
    )


def remedy_command(config: MonitorConfig, folders: Iterable[str], segments: bool) -> str:
    """Returns the command that predicts the files in some folders with adapted models, and writes to new files."""
    flags = {
        "run": config.run,
        "input": ",".join(folders),
        "output": _new_name("predictions", ".csv"),
        "masks": _new_name("masks", "") if segments else None,
        # Without these, the program would open another model, or read the files differently.
        "checkpoint": None if config.checkpoint == "best" else config.checkpoint,
        "camera": config.camera,
        "code": ",".join(config.code) or None,
    }
    given = [f"--{name}={shlex.quote(value)}" for name, value in flags.items() if value is not None]
    return " ".join([command("predict"), *given, "--adapt=statistics"])


def _new_name(stem: str, suffix: str) -> str:
    """Returns the name of a file or folder that no name in the working directory begins with."""
    stems = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    return next(f"{each}{suffix}" for each in stems if not any(pathlib.Path().glob(f"{each}{suffix}*")))


def _accept(config: MonitorConfig, run: Run, file: pathlib.Path) -> bool:
    """Stores the images of the input as the reference; there is no alarm."""
    files = find_raw_files(config.input)
    results = _read(files, run, None if config.camera is None else find_known_camera(config.camera))
    with writing_to(file.parent):
        raws = np.stack([*results.values()]) if results else np.zeros((0, *run.shape))
        accepted = reference.accepted(run, raws, groups_of([*results], config))
        kept = reference.replace(accepted, run, file)
    said = f", the old one is {kept}" if kept else ""
    print(f"{file}: {len(accepted)} images accepted as the reference{said}")
    return False


def _check_loss(config: MonitorConfig, run: Run, known: reference.Reference, file: pathlib.Path) -> None:
    """Raises an InputError if the loss under a drift cannot be known with a reference and windows of this size."""
    if known.targets is None:
        raise InputError(f"`alarm=loss` needs labels, and {file} has accepted images without: give `alarm=drift`")
    if refused := undiagnosed(min(LEAST_IMAGES[0], config.window), len(known), run.shape):
        raise InputError(f"`alarm=loss` needs a diagnosis: {refused}")


def _read(files: Sequence[Place], run: Run, camera: KnownCamera | None) -> dict[Place, np.ndarray]:
    """Reads the raw files that can be read."""
    read = functools.partial(read_file, run=run, camera=camera, size=run.shape)
    return finished(in_threads(read, files, AT_ONCE), files)[0]


class _Call:
    """Judges the windows of one call, and writes the result.

    Args:
        config: the settings.
        run: the models.
        known: their reference.
    """

    def __init__(self, config: MonitorConfig, run: Run, known: reference.Reference):
        self._config, self._run, self._known, self._output = config, run, known, config.output_dir
        self._camera: KnownCamera | None = None if config.camera is None else find_known_camera(config.camera)
        self._tolerance = config.tolerance / 100 if config.alarm == "loss" else None
        flags = flat(config)
        shared = {name: flags[name] for name in _SHARED}
        self._identity = store.identity(shared, model=[fold.identity for fold in run])

    def run(self) -> bool:
        """Judges all windows, and returns whether there is an alarm."""
        found = self._follow() if self._config.follow else self._judge_all()
        print("\n\n".join([found.text(), *found.metadata["verdict"]]))
        print(closing(self._output, [self._config.run], self._config.output is None))
        return found.metadata["alarm"]

    def _judge_all(self) -> result.Result:
        """Judges the windows of all files. The probability of a false alarm in any of them is at most `level`."""
        files = find_raw_files(self._config.input)
        keys = {file: key_of(file, self._config.by) for file in files}
        keyed = {key: [file for file in files if keys[file] == key] for key in sorted(set(keys.values()))}
        if (said := unknown_key_warning(keyed, self._config.by)) is not None:
            print(f"warning: {said}", file=sys.stderr)
        windows = windows_of(keyed, self._config.window)
        left = len(files) - sum(map(len, windows.values()))
        if not windows:
            raise InputError(f"a window takes at least {LEAST_WINDOW} files, got {len(files)}")
        if left:
            print(f"{left} of {len(files)} files are left over: a window takes at least {LEAST_WINDOW}")
        # Bonferroni's correction: the call's level is divided among the windows.
        monitor = Monitor(self._run, self._known, self._config.level / len(windows), tolerance=self._tolerance)
        for name, members in windows.items():
            if (judged := self._judge(monitor, name, members)) is not None:
                said = "alarm" if judged.alarm else "no alarm"
                progress.say(f"window {name}: {said}, p = {judged.p_value:.2g}")
        if not monitor.windows:
            raise InputError(f"no window has {LEAST_WINDOW} readable files")
        return self._write(monitor, len(windows), f"at most {100 * self._config.level:.3g}% of calls")

    def _follow(self) -> result.Result:
        """Judges windows as files arrive, until the program is asked to stop."""
        every = self._config.false_alarm_every
        monitor = Monitor(self._run, self._known, 1 / every, *self._earlier(), tolerance=self._tolerance)
        write = functools.partial(self._write, monitor, 0, f"one in {every} windows")
        done = {file for window in monitor.windows for file in window.files}
        versions: dict[Place, str] = {}
        print(f"monitoring {', '.join(self._config.input)}  (Ctrl-C to stop)", flush=True)
        with stop.after_step(), contextlib.suppress(Interrupted):
            while not stop.requested():
                new = [file for file in _present(self._config.input) if str(file) not in done]
                before, versions = versions, {file: remote.version(file) for file in new}
                keyed: dict[str, list[Place]] = {}
                for file in new:
                    if versions[file] and versions[file] == before.get(file):
                        keyed.setdefault(key_of(file, self._config.by), []).append(file)
                for key, files in keyed.items():
                    for start in range(0, len(files) - self._config.window + 1, self._config.window):
                        part = files[start : start + self._config.window]
                        name = f"{key} {_count(monitor.windows, key) + 1}".strip()
                        judged = self._judge(monitor, name, part)
                        done |= set(map(str, part))
                        if judged is not None:
                            columns = write().tables["windows"].columns
                            cells = zip(columns, judged.row, strict=True)
                            print("  ".join(column.text(cell) for column, cell in cells), flush=True)
                _wait()
        return write()

    def _judge(self, monitor: Monitor, name: str, files: Sequence[Place]) -> Window | None:
        """Reads and judges a window; None if too few of its files can be read."""
        results = _read(files, self._run, self._camera)
        if len(results) < LEAST_WINDOW:
            return None
        raws, groups = np.stack([*results.values()]), groups_of([*results], self._config)
        return monitor.judge(name, [*map(str, results)], raws, groups)

    def _write(self, monitor: Monitor, planned: int, false_alarms: str) -> result.Result:
        """Writes the result of all windows so far, which share the level if some were planned, and returns it."""
        monitor.explain()
        drifted = [file for window in monitor.windows if window.alarm for file in window.files]
        folders = dict.fromkeys(str(remote.place(file).parent) for file in drifted)
        metadata = {
            "training": {f"{fold.folder.parent.name}/{fold.number}": fold.training for fold in self._run},
            "flags": flat(self._config),
            "identity": self._identity,
            "false_alarms": false_alarms,
        }
        remedy = remedy_command(self._config, folders, self._run.task.has_masks)
        made = monitor.result(planned, remedy, metadata)
        notes = [*made.metadata["notes"], *self._rates(monitor, planned, false_alarms), *self._placed(monitor)]
        made = dataclasses.replace(made, metadata={**made.metadata, "notes": notes})
        result.write(self._output, made)
        return made

    def _rates(self, monitor: Monitor, planned: int, false_alarms: str) -> list[str]:
        """States the false alarm rate, whose mean over references is promised, and its range with one reference."""
        largest, known = max((len(window.files) for window in monitor.windows), default=0), len(self._known)
        if not largest:
            return []
        if any(window.groups for window in monitor.windows):
            rate = f"false alarms: {false_alarms} on average over references of {monitor.known_groups} groups"
            notes = [f"{rate}, if the means of groups are normally distributed"]
            if self._config.group is None:
                notes.append("the images of each window count as one group: if they are of several, give `group`")
            return notes
        low, high = alarm.rates_of_one_reference(monitor.level, largest, known)
        if planned:
            ends = " to ".join(f"{min(1.0, planned * rate):.1%}" for rate in (low, high))
        else:
            ends = f"one in {1 / high:.0f} to {1 / low:.0f}"
        return [f"false alarms: {false_alarms} on average; for 95% of references of {known} images, {ends}"]

    def _placed(self, monitor: Monitor) -> list[str]:
        """Says whether the diagnosis is inside the operating envelope of the run, if one is stated."""
        diagnosis, statement = monitor.explained.diagnosis, limits.stated(self._run)
        if not diagnosis or statement is None or not statement["holds"]:
            return []
        beyond = limits.outside(statement, {each.name: each.value for each in diagnosis})
        within = f"outside the operating envelope ({', '.join(beyond)})" if beyond else "inside the operating envelope"
        share, lost = limits.percent(statement["fraction"]), f"{100 * statement['tolerance']:g} points"
        return [f"the diagnosis is {within}, inside which at least {share} of cameras lose at most {lost}"]

    def _earlier(self) -> tuple[list[Window], Explained]:
        """Reads the windows that an earlier call has judged, and their explanation.

        Raises:
            InputError: they belong to other models or settings, or are damaged.
        """
        earlier = result.read(self._output)
        if earlier is None:
            return [], Explained()
        if reasons := store.differences(earlier.metadata.get("identity"), self._identity):
            raise InputError(f"{self._output / result.FILE} has {', '.join(reasons)}: choose another `output`")
        try:
            parts = earlier.metadata["windows"], earlier.metadata["explained"]
            return msgspec.convert(parts, tuple[list[Window], Explained])
        except (LookupError, msgspec.ValidationError) as error:
            raise InputError(f"{self._output / result.FILE} is damaged ({error}): choose another `output`") from None


def _present(inputs: Sequence[str]) -> list[Place]:
    """Returns the raw files that are in some folders now."""
    found = []
    for name in inputs:
        if not pathlib.Path(name).is_dir():
            raise InputError(f"`follow` monitors folders on this machine, got {name}")
        with contextlib.suppress(InputError):  # The folder is still empty.
            found += find_raw_files([name])
    return list({file.resolve(): file for file in found}.values())


def _count(windows: Sequence[Window], key: str) -> int:
    return sum(window.name.rpartition(" ")[0] == key for window in windows)


def _wait() -> None:
    """Waits until the next check of a folder, or until the program is asked to stop."""
    until = time.monotonic() + _PAUSE
    while time.monotonic() < until and not stop.requested():
        time.sleep(0.05)
