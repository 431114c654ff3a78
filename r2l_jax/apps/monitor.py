"""Watches the images of a camera: makes windows of raw files, judges them, and writes what was found."""

import contextlib
import functools
import itertools
import pathlib
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tensorboardX import SummaryWriter

from r2l_jax.apps.lab.lab import read_tolerances
from r2l_jax.apps.predict import check_raw, read_file
from r2l_jax.apps.render import find_raw_files
from r2l_jax.data.files.known_camera import KnownCamera, find_known_camera
from r2l_jax.data.files.shot import UNKNOWN, read_shot
from r2l_jax.drift.results import Tolerances, plain, read_result
from r2l_jax.drift.watch import reference
from r2l_jax.drift.watch.config import LEAST_WINDOW, MonitorConfig
from r2l_jax.drift.watch.expected import CAMERA
from r2l_jax.drift.watch.monitor import Watch
from r2l_jax.drift.watch.results import Watched, Window
from r2l_jax.drift.watch.tolerated import tolerated
from r2l_jax.runtime import remote, stop, tables
from r2l_jax.runtime.commands import closing, command
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import AT_ONCE, EVENTS, naming, replacing, write_json
from r2l_jax.runtime.flags import flat
from r2l_jax.runtime.jobs import finished, in_threads
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.remote import Place
from r2l_jax.runtime.resume import Table
from r2l_jax.training.run import Run, load

FILE, FIGURE = "monitor.json", "windows.png"

# The table of the files of each window, and its columns.
_TABLE = "files.csv"
_COLUMNS = ("file", "window")

# The settings that windows in one folder share.
_SHARED = ("run", "checkpoint", "by", "window", "camera", "false_alarm_every")

# The last letters of a window's name that its label in the figure has room for.
_LONGEST = 24

# Seconds between two looks at a folder. A file is read once it has not changed from one look to the next.
_PAUSE = 2.0


def run(config: MonitorConfig) -> bool:
    """Watches the images that the settings name, and returns whether there is an alarm.

    The reference is `<run>/monitor/reference.safetensors`. It is made if it is missing, and the data of the run is not
    needed afterwards. With `input`, writes to `<output>`: `monitor.json` (all results), `windows.png` (the windows one
    after the other), `files.csv` (the files of each window) and TensorBoard events.

    Raises:
        InputError: the run does not take raw files, there is no reference and no data to make it, no file can be read,
            or the output folder cannot be used.
    """
    opened = load(config.run, 0, config.checkpoint, config.code, config.data_dir)
    check_raw(opened)
    print(f"{config.run}: the {config.checkpoint} checkpoint of {len(opened.folds)} training(s)")
    folder = pathlib.Path(config.run)
    file = (folder.parent if folder.is_file() else folder) / config.results / reference.FILE
    with writing_to(file.parent):
        known, made = reference.of_run(opened, file)
    samples = f"{len(known)} {known.measured} samples, {file.stat().st_size / 1e6:.1f} MB"
    print(f"{file}: {'written, ' if made else ''}{samples}")
    if not config.input:
        return False
    with writing_to(config.output_dir):
        return _Monitor(config, opened, known).run()


def windows_of(keyed: Mapping[str, Sequence[Place]], size: int) -> dict[str, list[Place]]:
    """Divides the files of each key into windows of a size; a last one of at least `LEAST_WINDOW` counts."""
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
    with remote.brought(file) as path:
        shot = read_shot(path)
    return shot.title if by == "model" else (shot.date or UNKNOWN)[:10]


def said_of_unknown(keyed: Mapping[str, Sequence[Place]], by: str | None) -> str | None:
    """Returns a warning if windows mix files of days or models that are not known; None otherwise."""
    if by not in ("day", "model") or UNKNOWN not in keyed:
        return None
    known = "the date" if by == "day" else "the camera"
    count, files = len(keyed[UNKNOWN]), sum(map(len, keyed.values()))
    return (
        f"{count} of {files} files do not name {known}, and share windows: to keep them apart, put the files of each "
        f"{by} in a folder of its own, and give --by=folder"
    )


def remedy_command(config: MonitorConfig, folders: Iterable[str], segments: bool) -> str:
    """Returns the command that predicts the files in some folders with adapted models, into files that are new."""
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
    """Returns the name of a file or folder that is not here, and neither is a manifest of it."""
    stems = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    return next(f"{each}{suffix}" for each in stems if not any(pathlib.Path().glob(f"{each}{suffix}*")))


class _Resumed(Watched, kw_only=True):
    """The results of an earlier call, with its models and its flags."""

    models: list[str]
    flags: dict[str, Any]


class _Monitor:
    """Judges the windows of one call, and writes the results.

    Args:
        config: the settings.
        run: the models.
        known: their reference.
    """

    def __init__(self, config: MonitorConfig, run: Run, known: reference.Reference):
        self._config, self._run, self._output = config, run, config.output_dir
        self._camera: KnownCamera | None = None if config.camera is None else find_known_camera(config.camera)
        self._table = Table(self._output / _TABLE, _COLUMNS)
        self._known = known
        self._latest: Watched | None = None
        self._alarms = 0

    def run(self) -> bool:
        """Judges all windows, and returns whether there is an alarm."""
        with self._writing_events() as writer:
            found = self._follow(writer) if self._config.follow else self._judge_all(writer)
        print("\n".join([found.verdict, *_details(found)]))
        print(closing(self._output, [self._config.run], self._config.output is None))
        return found.alarm

    def _judge_all(self, writer: SummaryWriter) -> Watched:
        """Judges the windows of all files. The alarm of any of them is false with the probability `level`."""
        files = find_raw_files(self._config.input)
        keys = {file: key_of(file, self._config.by) for file in files}
        keyed = {key: [file for file in files if keys[file] == key] for key in sorted(set(keys.values()))}
        if (said := said_of_unknown(keyed, self._config.by)) is not None:
            print(f"warning: {said}", file=sys.stderr)
        windows = windows_of(keyed, self._config.window)
        left = len(files) - sum(map(len, windows.values()))
        if not windows:
            raise InputError(f"a window takes {LEAST_WINDOW} files, and there are {len(files)}")
        if left:
            print(f"{left} of {len(files)} files are left over: a window takes {LEAST_WINDOW}")
        # Bonferroni's correction: the call's level is divided among the windows.
        watch = Watch(self._run, self._known, self._config.level / len(windows))
        self._table.write([])
        for name, members in windows.items():
            self._judge(watch, name, members, writer)
        if not watch.windows:
            raise InputError(f"no window has {LEAST_WINDOW} files that can be read")
        heading = ["window", "images", "p-value", "alarm", "strongest sign"]
        print(tables.table([heading, *map(_row, watch.windows)]))
        least = min(window.p_value for window in watch.windows)
        return self._write(watch, min(1.0, least * len(windows)))

    def _follow(self, writer: SummaryWriter) -> Watched:
        """Judges windows as files arrive, until the program is asked to stop."""
        watch = Watch(self._run, self._known, 1 / self._config.false_alarm_every, self._earlier())
        done, failed = set(self._table.rows()), set[str]()
        versions: dict[Place, str] = {}
        print(f"watching {', '.join(self._config.input)}  (Ctrl-C ends it)", flush=True)
        with stop.after_step():
            while not stop.requested():
                new = [file for file in _present(self._config.input) if str(file) not in done | failed]
                before, versions = versions, {file: remote.version(file) for file in new}
                keyed: dict[str, list[Place]] = {}
                for file in new:
                    if versions[file] and versions[file] == before.get(file):
                        keyed.setdefault(key_of(file, self._config.by), []).append(file)
                for key, files in keyed.items():
                    for start in range(0, len(files) - self._config.window + 1, self._config.window):
                        part = files[start : start + self._config.window]
                        name = f"{key} {_count(watch.windows, key) + 1}".strip()
                        judged = self._judge(watch, name, part, writer)
                        done |= set(self._table.rows())
                        failed |= {str(file) for file in part} - done
                        if judged is not None:
                            print("  ".join(_row(judged)), flush=True)
                            self._write(watch, min(each.p_value for each in watch.windows))
                _wait()
        return self._write(watch, min((each.p_value for each in watch.windows), default=1.0))

    def _judge(self, watch: Watch, name: str, files: Sequence[Place], writer: SummaryWriter) -> Window | None:
        """Reads and judges a window; None if too few of its files can be read."""
        read = functools.partial(read_file, run=self._run, camera=self._camera, size=self._run.shape)
        results, _ = finished(in_threads(read, files, AT_ONCE), files)
        if len(results) < LEAST_WINDOW:
            return None
        window = watch.judge(name, np.stack(list(results.values())))
        self._table.add({"file": str(file), "window": name} for file in results)
        step = len(watch.windows)
        numbers = {"p_value": window.p_value, "confidence": window.confidence}
        for tag, value in {**numbers, **{f"tests/{test}": each for test, each in window.tests.items()}}.items():
            writer.add_scalar(tag, value, step)
        return window

    def _write(self, watch: Watch, p_value: float) -> Watched:
        """Writes the results of all windows so far, and returns them."""
        config = self._config
        often = f"one in {config.false_alarm_every} windows" if config.follow else f"at most {config.level:g} of calls"
        numbered = {f"{fold.folder.parent.name}/{fold.number}": fold.training for fold in self._run if fold.metrics}
        content = Watched(
            training=numbered,
            alarm=any(window.alarm for window in watch.windows),
            p_value=p_value,
            false_alarms=often,
            windows=watch.windows,
            score=self._run.task.score,
            reference=watch.without_drift,
            undiagnosed=watch.undiagnosed,
            **self._explained(watch),
        )
        self._latest = content
        models = [fold.identity for fold in self._run]
        write_json(self._output / FILE, {**plain(content), "models": models, "flags": flat(config), **environment()})
        if watch.windows:
            with replacing(self._output / FIGURE) as part:
                _figure(watch.windows, watch.level).savefig(part, format="png", dpi=110)
        return content

    def _explained(self, watch: Watch) -> dict[str, Any]:
        """Explains the windows with an alarm, if there are more of them than before."""
        names = ("causes", "expected_score", "by_confidence", "remedy", "tolerated")
        if self._latest is not None and sum(each.alarm for each in watch.windows) == self._alarms:
            return {name: getattr(self._latest, name) for name in names}
        self._alarms = sum(each.alarm for each in watch.windows)
        drifted = {window.name for window in watch.windows if window.alarm}
        rows = self._table.rows().values()
        folders = dict.fromkeys(str(remote.place(row["file"]).parent) for row in rows if row["window"] in drifted)
        found = watch.explain(remedy_command(self._config, folders, self._run.task.name == "segmentation"))
        inside = tolerated(found.causes, self._tolerances())
        return dict(
            zip(names, (list(found.causes), found.score, found.by_confidence, found.remedy, inside), strict=True)
        )

    def _tolerances(self) -> list[Tolerances]:
        """Reads what forensics found that each model tolerates; nothing unless it is known of all of them."""
        folds = [fold for fold in self._run if fold.metrics]
        found = [read_tolerances(str(fold.folder.parent), Run([fold])) for fold in folds]
        known = [each for each in found if each is not None]
        return known if len(known) == len(self._run.folds) else []

    def _earlier(self) -> list[Window]:
        """Reads the windows that an earlier call has judged.

        Raises:
            InputError: they are of other models or settings.
        """
        file = self._output / FILE
        earlier = read_result(file, _Resumed)
        if earlier is None:
            self._table.write([])
            return []
        flags, mine = earlier.flags, plain(flat(self._config))
        same = earlier.models == [fold.identity for fold in self._run] and flags.get("follow")
        if not same or any(flags.get(name) != mine[name] for name in _SHARED):
            raise InputError(f"{file} is of another model or of other settings: choose another --output")
        self._latest, self._alarms = earlier, sum(window.alarm for window in earlier.windows)
        # A call that was killed has left the files of windows without a result: these are judged again.
        judged = {window.name for window in earlier.windows}
        self._table.write(row for row in self._table.rows().values() if row["window"] in judged)
        return earlier.windows

    @contextlib.contextmanager
    def _writing_events(self) -> Iterator[SummaryWriter]:
        """Yields a writer of TensorBoard events. Events of earlier calls are removed, unless files are followed."""
        if not self._config.follow:
            for file in self._output.glob(EVENTS):
                file.unlink()
        with naming(self._output / EVENTS), SummaryWriter(str(self._output)) as writer:
            yield writer


def _details(found: Watched) -> list[str]:
    """Returns lines about what a drift costs and what may be done."""
    if not found.alarm:
        return []
    scores = [each for each in (found.reference, *found.by_confidence) if each]
    lines = [f"{found.score} by other methods: " + ", ".join(f"{each.method} {each.mean:.3f}" for each in scores)]
    if found.expected_score is None or found.expected_score.method != CAMERA:
        said = "the camera does not explain this drift, so the reference cannot tell the score"
        lines.append(found.undiagnosed or said)
    if outside := [name for name, inside in found.tolerated.items() if not inside]:
        lines.append(f"forensics found that the model does not tolerate this: {', '.join(outside)}")
    elif found.tolerated:
        lines.append(f"forensics found that the model tolerates this: {', '.join(found.tolerated)}")
    if found.remedy and found.remedy.gain:
        brings = f"would bring {found.remedy.gain.points} points"
        helps, refused = f"{brings}: {found.remedy.command}", f"would not help: it {brings}"
        lines.append(f"adapting by statistics {helps if found.remedy.helps else refused}")
    elif found.remedy:
        lines.append(f"adapting by statistics would not help: {found.remedy.refused}")
    return lines


def _row(window: Window) -> list[str]:
    """Returns the cells of a window in a table."""
    signs = window.causes or window.statistics
    sign = str(window.causes[0]) if window.causes else signs[0].name
    return [window.name, str(window.images), f"{window.p_value:.4g}", *(("yes", sign) if window.alarm else ("no", ""))]


def _present(inputs: Sequence[str]) -> list[Place]:
    """Returns the raw files that are in some folders now."""
    found = []
    for name in inputs:
        if not pathlib.Path(name).is_dir():
            raise InputError(f"--follow watches folders on this machine: {name} is not one")
        with contextlib.suppress(InputError):  # The folder is still empty.
            found += find_raw_files([name])
    return list({file.resolve(): file for file in found}.values())


def _count(windows: Sequence[Window], key: str) -> int:
    return sum(window.name.rpartition(" ")[0] == key for window in windows)


def _wait() -> None:
    """Waits until the next look at a folder, or until the program is asked to stop."""
    until = time.monotonic() + _PAUSE
    while time.monotonic() < until and not stop.requested():
        time.sleep(0.05)


def _figure(windows: Sequence[Window], level: float) -> Figure:
    """Draws the p-value of each window, of all tests together and of each, and the confidence."""
    figure = Figure(figsize=(max(6.0, min(14.0, 2.5 + 0.3 * len(windows))), 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    places = np.arange(1, len(windows) + 1)
    for name in windows[0].tests:
        upper.plot(places, [each.tests[name] for each in windows], ".-", linewidth=0.7, alpha=0.6, label=name)
    upper.plot(places, [each.p_value for each in windows], "o-", color="black", label="all tests")
    alarms = [(place, each.p_value) for place, each in zip(places, windows, strict=True) if each.alarm]
    if alarms:
        upper.plot(*zip(*alarms, strict=True), "o", color="tab:red", markersize=9, label="alarm", zorder=3)
    upper.axhline(level, color="tab:red", linestyle="--", linewidth=1, label=f"level {level:.2g}")
    upper.set(yscale="log", ylabel="p-value")
    upper.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    lower.plot(places, [each.confidence for each in windows], "o-", color="tab:blue")
    lower.set(ylabel="confidence", ylim=(0, 1.02))
    if len(windows) <= 30:
        lower.set_xticks(places, [each.name[-_LONGEST:] for each in windows], rotation=60, ha="right", fontsize="small")
    else:
        lower.set_xlabel("window")
    return figure
