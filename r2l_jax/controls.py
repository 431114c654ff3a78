"""The programs as Python functions: training, the drift controls, reports and exports.

Each function takes its program's flags as keyword arguments. A run is given as its folder, or as the object that
`train` or `load` returned; data as a folder, a `RawDataset` or, for new images, an array. Results are returned, not
printed. They are stored in the run's folder, or in `output`. Those of models in memory, and of data that the run was
not trained on, are stored only if `output` names a folder.
"""

import base64
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from r2l_jax.cli import progress as bars
from r2l_jax.cli.flags import build, called, leaves
from r2l_jax.config import TrainConfig
from r2l_jax.drift.adjustment.config import AdjustmentConfig, MethodSettings
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.monitoring.config import MonitorConfig
from r2l_jax.drift.synthesis.config import EvaluationConfig, SynthesisConfig
from r2l_jax.errors import InputError, warn
from r2l_jax.programs.export import ExportConfig
from r2l_jax.programs.report import ReportConfig
from r2l_jax.programs.train import TrainingProgram

if TYPE_CHECKING:
    import numpy as np

    from r2l_jax.results.result import Result
    from r2l_jax.training.run import Run

__all__ = ["adapt", "evaluate", "export", "forensics", "monitor", "report", "synthesize", "train"]

# Arguments where help texts name flags.
_FLAG, _QUOTED = re.compile(r"--([a-z]\w*)"), r"`\1`"

# A run is a path, a `Run`, a network, or a list of them; data is a path, a `RawDataset` or an array.
AnyRun = Any
AnyData = Any


def _control(settings: type, *own: str, **renamed: str) -> Callable[[Callable], Callable]:
    """Makes a function a control: it takes the settings of its program as keyword arguments, and prints nothing.

    Arguments of the function take the place of the settings in `own` and `renamed`. In errors, a setting in `renamed`
    has the name of its argument.
    """
    own += (*renamed,)

    def made(function: Callable) -> Callable:
        named = [each for each in inspect.signature(function).parameters.values() if each.kind is not each.VAR_KEYWORD]
        known_names = {each.name for each in named}
        known = known_names.union(own)
        left = [leaf for leaf in leaves(settings) if leaf.name not in known]

        @functools.wraps(function)
        def call(*given: Any, progress: bool = True, **others: Any) -> Any:
            if wrong := others.keys() & (set(own) - known_names):
                raise TypeError(f"unexpected argument `{min(wrong)}`")
            # Programs print what they find, and a call returns it.
            shown = contextlib.nullcontext() if progress else bars.hidden()
            with shown, contextlib.redirect_stdout(io.StringIO()):
                try:
                    return function(*given, **others)
                except InputError as error:
                    said = re.sub(r"`(\w+)", lambda name: f"`{renamed.get(name[1], name[1])}", str(error))
                    raise error if said == str(error) else InputError(said) from None

        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            *named,
            inspect.Parameter("progress", keyword, default=True),
            *(
                inspect.Parameter(each.name, keyword, default=None if each.is_required else each.default)
                for each in left
            ),
        ]
        call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
        lines = [f"    {leaf.name}: {_FLAG.sub(_QUOTED, leaf.declared.help)}." for leaf in left]
        call.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Settings:", *lines])
        return call

    return made


@_control(TrainingProgram)
def train(data: AnyData = None, **settings: Any) -> "Run":
    """Trains a run, or resumes it, and returns its best models.

    `data` is the folder of a data set (see `dataset`) or of raw files in sub-folders of classes, or a `RawDataset`; by
    default, the embedded one. `progress` shows bars. The run is `<logdir>/<experiment_name>/<run_name>`; its `score`
    is on validation samples, and its `tested` on test samples, if there are any, with an interval.
    """
    from r2l_jax.apps.share.hub import load
    from r2l_jax.programs import train as program

    named = {name: settings.pop(name) for name in ("dataset", "data_dir") if name in settings}
    with _named_data(data, named) as source:
        config = called(TrainingProgram, {**source, **settings})
        program.main(config)
        several = config.training.data.n_splits != 1
        trained = load(config.training.run_dir, None if several else 0, code=config.training.code)
        for fold in trained:
            # Held by the models from here on, since a caller may keep nothing else of data in memory.
            _ = fold.dataset
        return trained


@_control(EvaluationConfig, "run", "sheet")
def evaluate(
    run: AnyRun, data: AnyData = None, pipeline: Any = None, camera: Any = None, metric: Any = None, **settings: Any
) -> "Result":
    """Tests a model under drift: other pipelines, exposures, sensors and cameras, and corruptions.

    `run` is a run, a list of runs to compare, or a trained network without a run: a function of images `(B, H, W, 3)`
    in [0, 1] that returns logits, in `jax.numpy` or in NumPy (then it has no gradients), a Flax module, or what
    `r2l_jax.from_torch` or `from_onnx` returned. A network needs `data`, and sees images of the `pipeline`: a name, an
    `isp.Pipeline`, or a function that makes one for a camera; by default, the parametrized one at the camera's
    calibration. A sensor drift may be an `isp.CameraState` or a dict, such as `sensor={"exposure": -1}`.

    `data`, a `RawDataset`, replaces the run's own. If the run was trained on these samples, its test samples are
    measured, or its validation samples if it has no test samples; otherwise, all samples are measured.

    A network may be a MAITE model, and `data` a MAITE data set of pictures with the `camera` that is assumed to have
    taken them, see `r2l_jax.maite.dataset`; the default pipeline then restores the pictures. A MAITE `metric`, or a
    pair of one and the name of a number that it computes, replaces the score; it is computed again without each group
    of samples, for intervals.
    """
    from r2l_jax.apps.share import maite
    from r2l_jax.drift.synthesis import envelope, evaluation

    for name, value in (("pipeline", pipeline), ("metric", metric)):
        if value is not None and not _is_network(run):
            raise InputError(f"`{name}` is for a network without a run: a run has its own")
    several = list(run) if isinstance(run, list | tuple) else [run]
    several, data, of_network = maite.accepted(several, data, camera, pipeline, metric)
    with contextlib.ExitStack() as stack:
        uris, how = list[str](), dict[str, Any](code=[])
        checkpoints = set[str]()
        for each in several:
            names = [pathlib.Path(uri).name for uri in uris]
            uri, opens = stack.enter_context(_opened(each, data, settings, of_network, names))
            uris.append(uri)
            checkpoints.add(opens.get("checkpoint", "best"))
            how |= {**opens, "code": [*dict.fromkeys([*how["code"], *opens.get("code", ())])]}
        if len(checkpoints) > 1 and "checkpoint" not in settings:
            raise InputError("all runs must be at the same checkpoint, got best and last: give `checkpoint`")
        config = called(EvaluationConfig, {**how, **settings, "run": uris})
        if config.limits.envelope:
            return envelope.run(config)
        return evaluation.run(config).shown


@_control(ForensicsConfig, "run")
def forensics(run: AnyRun, data: AnyData = None, **settings: Any) -> "dict[str, Result]":
    """Finds the processing that a model is sensitive to, tolerates, and fails under; returns the results by analysis.

    For several folds or seeds, the results have the medians over the models. `data` is as for `evaluate`.
    """
    from r2l_jax.drift.forensics import forensics as control
    from r2l_jax.results import result

    with _opened(run, data, settings) as (uri, how):
        config = called(ForensicsConfig, {**how, **settings, "run": uri})
        found = control.run(config)
        if len(found) == 1:
            return next(iter(found.values()))
        whole = {name: result.read(config.output_dir / name) for name in config.analyses}
        return {name: each for name, each in whole.items() if each is not None}


@_control(AdjustmentConfig, "run", drifted_data_dir="data")
def adapt(run: AnyRun, data: AnyData = None, *, groups: Any = None, **settings: Any) -> "Run | Result":
    """Adapts a model to drifted data, without labels or with a few.

    With an array of new raw images `(N, H, W)`, in [0, 1] or integers of a known white level, it returns the adapted
    model, whose statistics are mixed with those of the images. `method="processing"` also tunes the processing. Without
    drift, it warns and returns the model as it is, unless `force` is set. `groups` are as for `monitor`.

    With a `RawDataset` of drifted samples, or with simulated drifts such as `exposures=0.5`, it returns a result, which
    says how much of the score is recovered; `metadata["adapted"]` has the folder of the adapted run of each drift.
    """
    from r2l_jax.data.raw_dataset import RawDataset
    from r2l_jax.data.sets import datasets
    from r2l_jax.drift.adjustment import adjustment, methods
    from r2l_jax.drift.monitoring import reference
    from r2l_jax.training.run import Run, load

    if _is_network(run):
        raise InputError("`run` must be a run: a network alone has no processing to adapt")
    if data is not None and not isinstance(data, RawDataset | str | os.PathLike):
        model, method = run if isinstance(run, Run) else load(run), settings.pop("method", "statistics")
        if method not in ("statistics", "processing"):
            raise InputError(f"`method` must be statistics or processing without labels, got {method!r}")
        tuning = {"parameters", "steps", "batch_size", "seed"} if method == "processing" else set[str]()
        if unknown := settings.keys() - {"force", *tuning}:
            raise InputError(f"`{min(unknown)}` has no effect on an array of images without labels")
        if not settings.get("force"):
            raws, groups = model.unlabeled(data), _group_numbers(groups, len(data))
            if (reason := reference.unnoticed(model, raws, lambda: reference.make(model), groups)) is not None:
                named = groups is not None or all(fold.dataset.groups is None for fold in model)
                hint = "" if named else "if the images are of several groups, give `groups`; "
                warn(f"the model stays as it is: {reason}; {hint}`force` adapts it")
                return model
        if method == "statistics":
            return model.adapted(data, **settings)
        wanted = {**settings, "method": method, "unlabeled": len(data)}
        return methods.tuned(model, data, called(MethodSettings, wanted))
    if groups is not None:
        raise InputError("`groups` has an effect only on an array of raw images: a data set has its own groups")
    place = datasets.given(data) if isinstance(data, RawDataset) else data
    drifted = {} if data is None else {"drifted_data_dir": place}
    with _opened(run, None, settings) as (uri, how):
        config = called(AdjustmentConfig, {**how, **drifted, **settings, "run": uri})
        found = adjustment.run(config)
        adapted = {drift.name: str(config.output_dir / drift.name) for drift in config.drifts}
        return dataclasses.replace(found, metadata={**found.metadata, "adapted": adapted})


@_control(MonitorConfig, "run", "input", "follow", "false_alarm_every")
def monitor(run: AnyRun, images: Any = None, *, groups: Any = None, **settings: Any) -> "Result | None":
    """Tests whether new images differ from those of the training, diagnoses the drift, and estimates what it costs.

    `images` are raw files and folders, or an array of raw images `(N, H, W)` from the run's camera, with the group of
    each, such as its patient, as `groups`, or a `RawDataset`; `None` only stores the reference of the run. The result's
    `metadata["alarm"]` tells whether there is an alarm. Each call replaces the result of the call before; to keep both,
    name a folder for one as `output`. A report shows all results in the run's folder.
    """
    import numpy as np

    from r2l_jax.apps import monitor as app
    from r2l_jax.data.raw_dataset import RawDataset
    from r2l_jax.results import result
    from r2l_jax.training.run import load

    if _is_network(run):
        raise InputError("`run` must be a run: a network alone has no test samples to compare with")
    with _opened(run, None, settings) as (uri, how), contextlib.ExitStack() as stack:
        if isinstance(images, RawDataset):
            data, every = images, np.arange(len(images))
            images = np.asarray(data.samples(every)[0])
            if groups is None and data.groups is not None:
                groups = [data.group_names[number] for number in data.groups]
        files: Any = () if images is None else images
        if not isinstance(files, str | os.PathLike) and len(files) and not isinstance(files[0], str | os.PathLike):
            opens = {name: how[name] for name in ("code", "checkpoint") if name in how}
            folder, model, images = stack.enter_context(_folder()), load(uri, **opens), np.asarray(files)
            if images.ndim != 3:
                raise InputError(f"`images` must be raw images (N, H, W), or files, got shape {images.shape}")
            if (np.array(images.shape[1:]) < model.shape[:2]).any():
                sizes = ["x".join(map(str, each)) for each in (model.shape[:2], images.shape[1:])]
                raise InputError(f"`images` must have the size of the training, {sizes[0]}, got {sizes[1]}")
            for number, image in enumerate(model.checked(images)):
                # Stored files are divided by the white level of the training.
                np.save(folder / f"{number:06d}.npy", image * np.float32(model.about.white_level or 1))
            files = folder
            if (numbers := _group_numbers(groups, len(images))) is not None:
                table = "\n".join(f"{number:06d}.npy,{group}" for number, group in enumerate(numbers))
                settings["group"] = folder / "groups.csv"
                settings["group"].write_text(f"name,group\n{table}\n")
        elif groups is not None:
            raise InputError("`groups` are those of an array of raw images: give `group` for those of files")
        config = called(MonitorConfig, {**how, **settings, "run": uri, "input": files})
        app.run(config)
        return result.read(config.output_dir) if config.input and not config.accept else None


def _group_numbers(groups: Any, images: int) -> "np.ndarray | None":
    from r2l_jax.data.groups import numbered

    if groups is not None and len(groups) != images:
        raise InputError(f"`groups` must have one for each of {images} images, got {len(groups)}")
    return None if groups is None else numbered(list(groups))


@_control(SynthesisConfig)
def synthesize(data: AnyData = None, *, output: str | os.PathLike, **settings: Any) -> pathlib.Path:
    """Writes a data set under other pipelines, exposures, sensors and cameras, and corruptions, as pictures.

    `data` is as for `train`. With `format="dng"`, the sets are raw images, without pipelines and corruptions. Returns
    `output`, the folder of all sets.
    """
    from r2l_jax.programs import synthesize as program

    named = {name: settings.pop(name) for name in ("dataset", "data_dir") if name in settings}
    with _named_data(data, named) as source:
        program.main(called(SynthesisConfig, {**source, **settings, "output": str(output)}))
    return pathlib.Path(output)


class Report:
    """A report: an HTML page, which a notebook shows in a frame. `path` is its file."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def __repr__(self) -> str:
        return f"Report({str(self.path)!r})"

    def _repr_html_(self) -> str:
        content = base64.b64encode(self.path.read_bytes()).decode()
        return f'<iframe src="data:text/html;base64,{content}" style="width:100%;height:700px;border:0"></iframe>'


@_control(ReportConfig, "run", "compare")
def report(run: AnyRun, **settings: Any) -> Report:
    """Collects the training and all results of a run, or of several side by side, on one HTML page."""
    from r2l_jax.programs import report as program

    several = run if isinstance(run, list | tuple) else [run]
    with contextlib.ExitStack() as stack:
        uris = [stack.enter_context(_opened(each, None, settings))[0] for each in several]
        if "output" not in settings and any(_scratch and uri.startswith(_scratch.name) for uri in uris):
            raise InputError("give `output`: a model in memory has no folder for its report")
        config = called(ReportConfig, {**settings, "run": uris})
        program.main(config)
    return Report(config.file)


@_control(ExportConfig, "run", "output", "camera", input="data")
def export(run: AnyRun, output: str | os.PathLike, data: AnyData = None, **settings: Any) -> pathlib.Path:
    """Exports a model as ONNX, StableHLO and other files to a new folder, checks each, and returns the folder.

    Files are checked on samples of the run's data, or of `data`, a `RawDataset`.

    Raises an InputError if any file could not be made, or differs from the model.
    """
    from r2l_jax.programs import export as program

    with _opened(run, data, settings) as (uri, how):
        config = called(ExportConfig, {**how, **settings, "run": uri, "output": str(output)})
        # What fails is said there, beside warnings.
        failed = io.StringIO()
        with contextlib.redirect_stderr(failed):
            status = program.main(config)
    if status:
        raise InputError(failed.getvalue().strip() or f"the export to {output} is not complete")
    print(failed.getvalue(), end="", file=sys.stderr)
    return pathlib.Path(output)


_scratch: "tempfile.TemporaryDirectory[str] | None" = None


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    """Makes a folder for the results of models and data in memory, which lasts as long as the process."""
    global _scratch
    _scratch = _scratch or tempfile.TemporaryDirectory(prefix="r2l_jax_")
    yield pathlib.Path(tempfile.mkdtemp(dir=_scratch.name))


@contextlib.contextmanager
def _named_data(data: AnyData, named: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the settings that name a data set, which is held meanwhile."""
    from r2l_jax.data.raw_dataset import RawDataset
    from r2l_jax.data.sets import datasets

    if isinstance(data, RawDataset):
        if named:
            raise InputError(f"`{min(named)}` has no effect with `data`")
        yield {"dataset": datasets.given(data)}
    elif data is not None:
        if not isinstance(data, str | os.PathLike):
            _check_dataset(data)
        if "data_dir" in named:
            raise InputError("`data_dir` has no effect with `data`")
        yield {"dataset": "Folder", **named, "data_dir": str(data)}
    else:
        yield dict(named)


def _is_network(run: AnyRun) -> bool:
    """Tells whether a caller has given a network in place of a run."""
    from r2l_jax.training.run import Run

    return not isinstance(run, str | os.PathLike | Run | list | tuple)


@contextlib.contextmanager
def _opened(
    run: AnyRun, data: AnyData, settings: Mapping[str, Any], of_network: Any = None, taken: Collection[str] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the folder of a run, a model in memory, or a network, on the data if it is given, and how to open it.

    The folder of a model in memory has a name that is not among those `taken`.
    """
    from r2l_jax.data.sets import datasets
    from r2l_jax.drift.given import on_data
    from r2l_jax.training.run import load

    if data is not None:
        _check_dataset(data)
    if _is_network(run):
        with _folder() as folder:
            yield _of_network(run, data, folder, **of_network or {})
        return
    if isinstance(run, str | os.PathLike):
        if data is None:
            yield str(run), {}
            return
        how = {name: settings[name] for name in ("checkpoint", "code", "data_dir") if name in settings}
        run = load(run, None, **how)
    fold = run.folds[0]
    code = tuple(dict.fromkeys(itertools.chain(*(each.config.code for each in run))))
    how = {"code": code, "checkpoint": fold.about.checkpoint}
    is_own = data is None or datasets.given(data) == fold.about.flags["dataset"]
    if is_own and (uri := _uri_of(run)) is not None:
        place = fold.config.data.data_dir
        yield uri, how if place == fold.about.flags["data_dir"] else {**how, "data_dir": place}
        return
    with _folder() as folder:
        held = []
        name = run.config.tracking.run_name.replace("/", "_") + "_adapted" * bool(fold.about.adapted)
        numbered = (f"{name}{number}" for number in itertools.chain([""], itertools.count(2)))
        target = folder / next(each for each in numbered if each not in taken)
        several = len({each.folder.parent for each in run}) > 1
        for each in run:
            one = each
            if data is not None:
                one, dataset = on_data(each, data)
                held.append(dataset)
            one.write_fold((target / each.folder.parent.name if several else target) / f"fold_{each.number}")
        yield str(target), how


def _check_dataset(data: AnyData) -> None:
    from r2l_jax.data.raw_dataset import RawDataset

    if not isinstance(data, RawDataset):
        made = "r2l_jax.data.from_arrays makes one of arrays, and r2l_jax.data.load of a folder"
        raise InputError(f"`data` must be a RawDataset, got {type(data).__name__}: {made}")


def _uri_of(run: "Run") -> str | None:
    """Returns the folder that holds the models of a run as they are, or None if they are only in memory."""
    from r2l_jax.training.record import fold_folders, members, read_record

    for fold in run:
        file = fold.folder / "metrics.json"
        if fold.adaptation is not None or fold.in_memory is not None or not file.exists():
            return None
        if read_record(file, "").adapted != fold.about.adapted:
            return None
    runs = list(dict.fromkeys(fold.folder.parent for fold in run))
    if len(runs) > 1:
        group = runs[0].parent
        return str(group) if set(members(str(group))) == set(runs) else None
    folders = {fold.folder for fold in run}
    if folders == set(fold_folders(runs[0])):
        return str(runs[0])
    return str(run.folds[0].folder) if len(run.folds) == 1 else None


def _module_of(function: Callable) -> Any:
    """Makes a Flax module of a function of images in `jax.numpy` or NumPy."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from r2l_jax.model.heads import FrozenHead
    from r2l_jax.model.host_networks import NumpyNetwork

    on_host = FrozenHead(NumpyNetwork(function))

    class Function(nnx.Module):
        def __init__(self):
            # Checkpoints take models whose parts all have variables.
            self.none = nnx.Variable(jnp.zeros(()))

        def __call__(self, images: Any) -> Any:
            try:
                return function(images)
            except jax.errors.TracerArrayConversionError:
                return on_host(images)

    return Function()


def _of_network(
    network: Any, data: AnyData, folder: pathlib.Path, pipeline: Any = None, task: str | None = None
) -> tuple[str, dict[str, Any]]:
    """Makes a run of a trained network, without training: it is measured on all data."""
    from flax import nnx

    import isp
    from r2l_jax import named_code
    from r2l_jax.data.raw_dataset import RawDataset
    from r2l_jax.data.sets import datasets
    from r2l_jax.model.heads import NormalizedHead, from_flax
    from r2l_jax.training import train as training

    if not isinstance(data, RawDataset):
        raise InputError(
            "a network without a run needs `data`, a RawDataset such as r2l_jax.data.from_arrays makes, in evaluate, "
            "forensics or export; else use a run"
        )
    kind = type(network)
    if "torch" in sys.modules and isinstance(network, sys.modules["torch"].nn.Module):
        raise InputError(f"`run`: give r2l_jax.from_torch({kind.__name__}, ...), with its mean, std and size")
    if not callable(network):
        example = "lambda images: model.predict_log_proba(images.reshape(len(images), -1))"
        raise InputError(f"`run` must be a run or a function of images, such as {example}, got {kind.__name__}")
    if isinstance(network, nnx.Module):
        head = network if isinstance(network, NormalizedHead) else from_flax(network)
    else:
        head = from_flax(_module_of(network))
    named: dict[str, Any] = {"classifier_network": named_code.given(lambda: head, "network"), "task": task}
    if isinstance(pipeline, isp.Pipeline):
        named["pipeline"] = named_code.given(lambda camera: pipeline, "pipeline")
    elif callable(pipeline):
        named["pipeline"] = named_code.given(pipeline, "pipeline")
    elif pipeline is not None:
        named["pipeline"] = str(pipeline)
    name = getattr(network, "__name__", kind.__name__).strip("<>")
    config = build(
        TrainConfig,
        {"dataset": datasets.given(data), "epochs": 0, "logdir": str(folder), "run_name": name, **named},
    )
    try:
        training.run(config, shows=False)
    except InputError as error:
        raise InputError(str(error).replace(f"classifier_network={named['classifier_network']}", "run")) from None
    return str(config.run_dir), {"code": config.code}
