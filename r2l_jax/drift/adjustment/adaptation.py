"""Drift adjustment by adaptation: a trained model's processing, re-tuned on a few labelled images of drifted data."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import isp
from r2l_jax.config import PIPELINE_NAMES, FinishedRun
from r2l_jax.data.files.cameras import find_camera
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases
from r2l_jax.drift.acquisition import drifted
from r2l_jax.drift.adjustment.adaptation_tables import parameters_table, starts_table
from r2l_jax.drift.analysis import Analysis, once
from r2l_jax.drift.cases import Case
from r2l_jax.drift.search import ranges
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.drift.search.measure import LEAST_DROP, Measured, Measurer, ticking, whole_batches
from r2l_jax.drift.search.ranges import gains, tuned
from r2l_jax.drift.search.searcher import Found, Search, Searcher
from r2l_jax.model.model_hash import model_hash
from r2l_jax.model.raw_to_logit import RawToLogit, pipeline_of
from r2l_jax.runtime import store
from r2l_jax.runtime.environment import environment
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import write_json
from r2l_jax.runtime.flags import NOT_NEGATIVE, POSITIVE, flat, setting
from r2l_jax.runtime.hosts import is_first, on_every_process, on_first_process
from r2l_jax.runtime.pictures import contact_sheet
from r2l_jax.runtime.stop import StopSignals
from r2l_jax.runtime.tables import table
from r2l_jax.training.trained import TrainedFold, load_pipelines

# Exposures that the searches start at, in stops, as many of the first as are asked for.
STOPS = (0, 1, 2, 3, 4, 5, 6, -1, -2)

# The drift of real data, photographed anew.
_DATA = "data"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptationConfig(FinishedRun):
    """With --mode=adapt.

    Raises:
        InputError: values that are not known or out of range.
    """

    intensities: tuple[float, ...] = setting("adapt to other measured intensities", ())
    exposures: tuple[float, ...] = setting("adapt to exposures by the model of the sensor, as factors on the light", ())
    pipelines: tuple[str, ...] = setting(
        f"adapt other pipelines, at the camera's calibration, to the head: {PIPELINE_NAMES}", ()
    )
    cameras: tuple[str, ...] = setting(
        "adapt to pictures that other cameras take of the scenes: drone, microscopy, JSON files", ()
    )
    drifted_data_dir: str | None = setting("adapt to other data of the same classes, such as another Folder", None)
    drifted_camera: str | None = setting("for --drifted_data_dir: its camera, as train.py's --camera", None)
    labelled: int = setting("how many images to adapt by", 32, bound=POSITIVE)
    parameters: tuple[str, ...] = setting(
        "parameters to adapt, or all; default: all that are tuned by hand (isp.Parameter)", ()
    )
    starts: int = setting(f"exposures to search from, the first of {STOPS} stops", 6, bound=POSITIVE)
    steps: int = setting("of each search", 120, bound=POSITIVE)
    lr: float = setting(
        "about how far a parameter moves in a step, as a fraction of its natural range", 0.01, bound=POSITIVE
    )
    batch_size: int = setting("samples at once, and in a step of one search", 16, bound=POSITIVE)
    track_n_images: int = setting("how many samples the pictures show", 5, bound=POSITIVE)
    seed: int = setting("of the labelled images, the batches and the noise", 0, bound=NOT_NEGATIVE)

    def __post_init__(self):
        super().__post_init__()
        if self.starts > len(STOPS):
            raise InputError(f"--starts must be at most {len(STOPS)}, got {self.starts}")
        if self.drifted_camera and not self.drifted_data_dir:
            raise InputError("--drifted_camera is the camera of --drifted_data_dir: give --drifted_data_dir as well")
        if len({_camera_drift(name) for name in self.cameras}) < len(set(self.cameras)):
            raise InputError(f"--cameras: two of {', '.join(self.cameras)} have one name")
        if not self.drifts():
            raise InputError(
                "no drift to adapt to: give --intensities, --exposures, --pipelines, --cameras or --drifted_data_dir"
            )

    def drifts(self) -> list[Case]:
        """The drifts, each once."""
        return list(self._drifts)

    @functools.cached_property
    def _drifts(self) -> tuple[Case, ...]:
        cameras = [_camera_drift(name) for name in self.cameras]
        data = [Case(_DATA, _DATA)] if self.drifted_data_dir else []
        return tuple(
            dict.fromkeys(
                cases.intensities(self.intensities)
                + cases.exposures(self.exposures)
                + cases.pipelines(self.pipelines)
                + cameras
                + data
            )
        )

    @property
    def output_dir(self) -> pathlib.Path:
        """Where the results go."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / "adjustment"

    @property
    def settings(self) -> dict[str, Any]:
        """The flags that a drift's result depends on, beside the drift."""
        names = ("labelled", "parameters", "starts", "steps", "lr", "batch_size", "track_n_images", "seed")
        return {name: getattr(self, name) for name in names}


def _camera_drift(name: str) -> Case:
    return Case(f"camera={pathlib.Path(name).stem}", "cameras")


class _Drifted(NamedTuple):
    """A model under a drift: what it is, the data, and which samples to adapt and to measure on."""

    model: RawToLogit
    dataset: RawDataset
    labelled: np.ndarray
    measured: np.ndarray


def run(config: AdaptationConfig) -> dict[str, Any]:
    """Adapts the processing of every fold of a run to each drift, and measures what that wins back.

    The head and all statistics stay as they are. From several exposures, a search lowers the task loss of the labelled
    images over the processing's parameters; the start that ends at the lowest loss of these images is taken, and
    measured on others. Of the run's own scenes, some to train on are the labelled images, and all to validate on the
    others.

    Writes `<output>/adaptation.json` (all numbers, and how to reproduce them), and in `<output>/fold_<k>/<drift>/`
    `adaptation.json` (the parameters found), `curves.png`, `pictures.png` (undrifted, before, after) and TensorBoard's
    events of the pictures. A drift that an earlier call of the same settings has finished is taken as it is.

    Returns:
        What adaptation.json holds.

    Raises:
        InputError: a folder that is no finished run, a processing without parameters, or a drift that does not fit the
            data.
        Interrupted: SIGINT or SIGTERM came; the same call goes on where this one stopped.
    """
    folds = load_pipelines(config.run, config.data_dir, config.own_pipelines)
    on_every_process(lambda: [_check(config, fold) for fold in folds])
    drifts = config.drifts()
    with StopSignals() as stop:
        results = {
            fold.fold.number: {drift.name: _adapted(config, fold, drift, stop) for drift in drifts} for fold in folds
        }
    content = {
        "score": folds[0].task.score,
        "drifts": {drift.name: _over_folds([result[drift.name] for result in results.values()]) for drift in drifts},
        "folds": results,
        "flags": flat(config),
        **environment(),
    }
    on_first_process(lambda: write_json(config.output_dir / "adaptation.json", content))
    if is_first():
        print(f"{make_table(content)}\n\nresults in {config.output_dir}\ntensorboard --logdir '{config.output_dir}'")
    return content


def make_table(content: Mapping[str, Any]) -> str:
    """What each drift takes, and what adaptation wins back, as text; means over the folds."""
    rows = [["drift", f"{content['score']} undrifted", "before", "after", "won back"]]
    for name, drift in content["drifts"].items():
        cells = [f"{drift[key]['mean']:.4f}" for key in ("undrifted", "before", "after")]
        won = drift["won_back"]["mean"]
        rows.append([name, *cells, "-" if won is None else f"{won:.0%}"])
    return table(rows)


def _over_folds(results: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    summary = {}
    for name in ("undrifted", "before", "after", "won_back"):
        values = [result[name] for result in results]
        known = [value for value in values if value is not None]
        mean, std = (float(np.mean(known)), float(np.std(known))) if known else (None, None)
        summary[name] = {"mean": mean, "std": std, "folds": values}
    return summary


def _check(config: AdaptationConfig, fold: TrainedFold) -> None:
    """Raises an InputError unless a fold can be adapted to all drifts, before anything is computed."""
    if config.intensities and fold.config.data.dataset == "Folder":
        raise InputError(
            f"--intensities: --run={config.run} was trained on a Folder, which holds one intensity; --exposures "
            "computes others"
        )
    cases.check_pipelines(config.drifts(), fold.dataset)
    for drift in config.drifts():
        pipeline = pipeline_of(_drifted(config, fold, drift).model)
        _parameters(config, pipeline)
        ranges.check(pipeline.facts, jax.device_get(pipeline.parameters()))


def _parameters(config: AdaptationConfig, pipeline: isp.Pipeline) -> tuple[str, ...]:
    known = tuple(pipeline.parameters())
    if "all" in config.parameters:
        return known
    for name in config.parameters:
        if name not in known:
            raise InputError(f"--parameters must be of all, {', '.join(known)}, got {name!r}")
    return config.parameters or tuned(pipeline.facts)


def _camera(name: str, dataset: RawDataset) -> isp.Camera:
    camera = find_camera(name, "--cameras")
    if camera is None:
        raise InputError("--cameras=auto: mosaics are taken of the data set's scenes; name a camera or a JSON file")
    pattern = cases.camera_of(dataset).pattern
    if camera.pattern != pattern:
        raise InputError(
            f"--cameras={name}: its pattern is {camera.pattern}, the data set's {pattern}; no parameter of the "
            "processing adjusts that"
        )
    return camera


def _model(fold: TrainedFold, drift: Case) -> RawToLogit:
    """A fold's model, with the pipeline of a drift in place of its own."""
    if drift.pipeline is None:
        return fold.model
    return RawToLogit(drift.pipeline(cases.camera_of(fold.dataset)), fold.model.normalizer, fold.model.head)


def _drifted(config: AdaptationConfig, fold: TrainedFold, drift: Case) -> _Drifted:
    rng = np.random.default_rng(config.seed)
    if drift.group == _DATA:
        dataset = _other_data(config, fold)
    else:
        cameras = {_camera_drift(name).name: name for name in config.cameras}
        camera = _camera(cameras[drift.name], fold.dataset) if drift.name in cameras else None
        dataset = drifted(fold.config, fold.dataset, drift, camera, config.seed)
    if dataset.fingerprint == fold.dataset.fingerprint:
        # The same scenes: what was trained on is not measured on.
        labelled, measured = rng.permutation(fold.fold.train_indices), fold.fold.valid_indices
        labelled = labelled[: config.labelled]
    else:
        shuffled = rng.permutation(len(dataset))
        labelled, measured = shuffled[: config.labelled], np.sort(shuffled[config.labelled :])
    if len(labelled) < config.labelled or not len(measured):
        raise InputError(
            f"--labelled={config.labelled} is too many for {drift.name}: it has {len(labelled)} images to adapt by and "
            f"{len(measured)} others to measure on"
        )
    return _Drifted(_model(fold, drift), dataset, labelled, measured)


def _other_data(config: AdaptationConfig, fold: TrainedFold) -> RawDataset:
    """Loads the data of --drifted_data_dir, which must have the classes and the pattern of the run's data."""
    folder = config.drifted_data_dir
    # Without a folder, a synthetic data set would be rendered anew.
    if folder is None or not pathlib.Path(folder).is_dir():
        raise InputError(f"--drifted_data_dir={folder} is no folder")
    settings: dict[str, Any] = fold.config.data.source | {"data_dir": folder}
    if config.drifted_camera:
        settings["camera"] = config.drifted_camera
    dataset = datasets.load(fold.config.data.dataset, **settings)
    if dataset.classes != fold.dataset.classes:
        raise InputError(
            f"--drifted_data_dir={folder} must have the classes {', '.join(fold.dataset.classes)}, "
            f"got {', '.join(dataset.classes)}"
        )
    pattern, wanted = (cases.camera_of(each).pattern for each in (dataset, fold.dataset))
    if pattern != wanted:
        raise InputError(
            f"--drifted_data_dir={folder} must have the pattern {wanted}, got {pattern}; no parameter of the "
            "processing adjusts that"
        )
    return dataset


def _adapted(config: AdaptationConfig, fold: TrainedFold, drift: Case, stop: StopSignals) -> dict[str, Any]:
    """Returns the adaptation of a fold to a drift, made now or by an earlier call, and prints its tables."""
    folder = config.output_dir / f"fold_{fold.fold.number}" / drift.name
    under = on_every_process(lambda: _drifted(config, fold, drift))
    identity = on_every_process(lambda: _identity(config, fold, drift, under))
    content = once(
        folder / "adaptation.json", fold, identity, lambda unfinished: _adapt(config, fold, under, stop, unfinished)
    )
    if is_first():
        print(f"fold {fold.fold.number}: {drift.name}\n{content['table']}\nresults in {folder}\n")
    return content


def _identity(config: AdaptationConfig, fold: TrainedFold, drift: Case, under: _Drifted) -> store.Identity:
    """Collects everything that an adaptation depends on."""
    drifted_data = under.dataset.content_of([*under.labelled, *under.measured])
    return store.identity(
        {**config.settings, "drift": drift._replace(pipeline=None)._asdict(), "drifted_data": drifted_data},
        model=fold.fingerprint,
        drifted_model=[*(drift.pipeline.identity if drift.pipeline else ()), model_hash(under.model)],
        data=fold.dataset.content_of(fold.fold.valid_indices),
    )


def _adapt(
    config: AdaptationConfig, fold: TrainedFold, under: _Drifted, stop: StopSignals, file: pathlib.Path
) -> Analysis:
    frozen = Frozen(under.model, fold.task)
    group = _parameters(config, pipeline_of(under.model))
    stops = STOPS[: config.starts] if gains(frozen.facts, group) else (0,)
    searches = [Search(group, 0.0, config.seed, exposure=2.0**stop) for stop in stops]
    searcher = Searcher(frozen, direction="best", learning_rate=config.lr, batch_size=config.batch_size)
    raws, targets = on_every_process(lambda: under.dataset.samples(under.labelled))
    found = searcher.run(searches, raws, targets, config.steps, stop.agreed, file)

    measurer = Measurer(frozen)

    def measure(parameters: list[dict[str, np.ndarray]], indices: np.ndarray, title: str) -> list[Measured]:
        batches = whole_batches(under.dataset, indices, config.batch_size)
        total = len(parameters) * len(batches)
        with ticking(title, total, stop.agreed, lambda: "stopped; the same command goes on from there") as tick:
            return measurer.measure(parameters, batches, tick)

    # No adaptation is one, too: on few images a search may end where it is worse.
    starts = [None, *stops]
    ends = [frozen.default, *(one.parameters for one in found)]
    on_labelled = measure(ends, under.labelled, "labelled images")
    on_measured = measure(ends, under.measured, "other images")
    chosen = int(np.argmin([measured.loss for measured in on_labelled]))
    before, after = on_measured[0], on_measured[chosen]
    own = Frozen(fold.model, fold.task)
    own_batches = whole_batches(fold.dataset, fold.fold.valid_indices, config.batch_size)
    (undrifted,) = Measurer(own).measure([own.default], own_batches)
    lost = undrifted.score - before.score
    content = {
        "undrifted": undrifted.score,
        "before": before.score,
        "after": after.score,
        "won_back": (after.score - before.score) / lost if lost >= LEAST_DROP else None,
        "start": starts[chosen],
        "starts": [
            {"stops": stops, "labelled_loss": labelled.loss, "labelled_score": labelled.score, "score": measured.score}
            for stops, labelled, measured in zip(starts, on_labelled, on_measured, strict=True)
        ],
        "default": {name: value.tolist() for name, value in frozen.default.items()},
        "parameters": {name: np.asarray(value).tolist() for name, value in ends[chosen].items()},
    }
    adapted = frozen.pipeline(ends[chosen])
    pictures = {"curves": _curves(found, stops), "pictures": _pictures(config, fold, under, frozen, adapted)}
    tables = [starts_table(content, fold.task.score), parameters_table(frozen, group, ends[chosen])]
    return Analysis(content, "\n\n".join(tables), pictures)


def _curves(found: list[Found], starts: Sequence[int]) -> Figure:
    """The task loss of the batches over the steps, a line for each start."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for stops, one in zip(starts, found, strict=True):
        axes.plot(one.task_loss, linewidth=1, label=f"{stops:+d} stops")
    axes.set(xlabel="step", ylabel="task loss of labelled images")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", title="start")
    return figure


def _pictures(
    config: AdaptationConfig, fold: TrainedFold, under: _Drifted, frozen: Frozen, adapted: isp.Pipeline
) -> Image.Image:
    """Draws measured samples undrifted, as the head learned them, under the drift, and after adaptation."""
    indices = under.measured[: config.track_n_images]
    raws, _ = under.dataset.samples(indices)
    pictures = {"before": frozen.pipeline(frozen.default)(raws), "after": adapted(raws)}
    if under.dataset.fingerprint == fold.dataset.fingerprint:
        own = Frozen(fold.model, fold.task)
        pictures = {"undrifted": own.pipeline(own.default)(fold.dataset.samples(indices)[0]), **pictures}
    # One by one, since whatever maps over a dict sorts it by name.
    pictures = {name: np.asarray(images) for name, images in pictures.items()}
    return contact_sheet(
        {f"{number} {name}": images[number] for number in range(len(indices)) for name, images in pictures.items()},
        columns=len(pictures),
    )
