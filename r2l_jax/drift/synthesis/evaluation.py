"""Tests trained models under drift: all folds of a run or a group in each group of cases, on the same samples."""

import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.cli import stop
from r2l_jax.cli.commands import closing
from r2l_jax.cli.flags import flat
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.drift import cases, measure, shot_groups, statistics
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import CLEAN, Case
from r2l_jax.drift.measure import ENSEMBLE, Model, Outcomes, Samples
from r2l_jax.drift.renderer import grouped
from r2l_jax.drift.synthesis import comparison, summary
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.synthesis.measured import Measured
from r2l_jax.drift.trained_folds import TrainedFold, folds_of, ids_of, member_of
from r2l_jax.errors import InputError
from r2l_jax.model.processor_hash import processor_hash
from r2l_jax.results import store
from r2l_jax.results.heat_map import heat_map
from r2l_jax.results.locks import writing_to_all
from r2l_jax.results.result import DROP, SCORE, Cell, Column, Figure, Result, Table, cached, read, write
from r2l_jax.training.record import run_names


class Evaluated(NamedTuple):
    """The summaries of runs under drift by the names of the runs, and the result that shows all runs."""

    summaries: Mapping[str, Result]
    shown: Result


def run(config: EvaluationConfig) -> Evaluated:
    """Tests every run or group of seeds in each group of cases, except for those that an earlier call has finished.

    The folder `evaluation` of a run or a group gets a result for each group of cases, with the outcome of each sample,
    and their summary. Several runs are compared in a result in the output folder. Results that have cases which are not
    tested now stay there; the new ones go to a numbered folder beside them, unless the settings name a folder.

    Raises:
        InputError: a folder is not a finished run, the cases do not fit the runs, or another program is writing to the
            output folder.
        Interrupted: SIGINT or SIGTERM arrived; the same call resumes with the group of cases where this one stopped.
    """
    uris = dict(zip(run_names(config.run), config.run, strict=True))
    folds = {label: folds_of(config.of_run(uri)) for label, uri in uris.items()}
    _check(config, folds)
    groups = {label: _groups_of_samples(config, of_run) for label, of_run in folds.items()}
    ids = {label: ids_of(of_run) for label, of_run in folds.items()}
    folders = {label: _folder(config, label, uri, ids[label]) for label, uri in uris.items()}
    together = {f"{label}/{name}": training for label, each in ids.items() for name, training in each.items()}
    output = _beside(config, config.output_dir, together) if len(uris) > 1 else folders[next(iter(uris))]
    tested, summaries = [], {}
    with writing_to_all([output, *folders.values()]), stop.after_step():
        for label, of_run in folds.items():
            blocks = _blocks(config, label, of_run, folders[label])
            found, ensemble = Measured.of(label, of_run[0].fold, config.cases, blocks, config.about)
            tested.append(found)
            metadata = {"cases": _names(config), "training": ids[label], "flags": flat(config)}
            summaries[label] = summary.summarize(config, found, ensemble, metadata, groups[label])
            write(folders[label], summaries[label])
        shown = summaries[tested[0].label]
        if len(tested) > 1:
            metadata = {"cases": _names(config), "training": together, "flags": flat(config)}
            shown = comparison.compare(tested, metadata)
            write(output, shown)
    print(
        dataclasses.replace(shown, tables={name: shown.tables[name] for name in shown.tables if name != "cases"}).text()
    )
    print(f"\n{closing(output, config.run, config.output is None)}")
    return Evaluated(summaries, shown)


def _folder(config: EvaluationConfig, label: str, uri: str, training: Mapping[str, str]) -> pathlib.Path:
    """Returns the folder of a run's results."""
    if config.output is None:
        return _beside(config, pathlib.Path(uri) / "evaluation", training)
    return config.output_dir if len(config.run) == 1 else config.output_dir / label.strip("/").replace("/", "_")


def _beside(config: EvaluationConfig, folder: pathlib.Path, training: Mapping[str, str]) -> pathlib.Path:
    """Returns the folder for results of trained models: one that holds none of them in cases which are not tested now.

    That is the given folder or a numbered one in it.
    """
    if config.output is not None:
        return folder
    for place in itertools.chain([folder], (folder / str(number) for number in itertools.count(2))):
        held = read(place)
        others = set(held.metadata.get("cases", ())).difference(_names(config)) if held else set()
        if held is None or not others or held.metadata.get("training") != training:
            return place
    raise AssertionError("unreachable")


def _names(config: EvaluationConfig) -> list[str]:
    return [case.name for case in config.cases]


def _check(config: EvaluationConfig, folds: Mapping[str, Sequence[TrainedFold]]) -> None:
    """Raises an InputError unless all runs share one data set, and can be tested with the settings."""
    members = {label: dict(grouped(of_run, lambda each: member_of(each.name))) for label, of_run in folds.items()}
    if config.about == "recipe":
        statistics.check_about("recipe", *map(len, members.values()))
    first = next(iter(folds.values()))[0].fold.dataset
    for (label, of_run), uri in zip(members.items(), config.run, strict=True):
        counts = {name: _independent(folds) for name, folds in of_run.items()}
        if len({*counts.values()}) > 1:
            found = ", ".join(f"{count} ({label}/{name})" for name, count in counts.items())
            raise InputError(f"`run={uri}`: all members must be measured on as many samples or groups, got {found}")
        if min(counts.values()) < 2:
            raise InputError(
                f"`run={uri}` is measured on a single group of samples, and an interval needs two: train with "
                "`n_splits=groups` or a larger `test_size`"
            )
        fold = folds[label][0].fold
        if (fold.dataset.name, fold.dataset.fingerprint) != (first.name, first.fingerprint):
            data = f"{fold.dataset.name}, not on the {first.name} of `run={config.run[0]}`"
            raise InputError(f"`run={uri}` was trained on {data}: evaluate them one by one")
        every = np.arange(len(first))
        if not np.array_equal(fold.dataset.groups_of(every), first.groups_of(every)):
            raise InputError(f"`run={uri}` has other groups than `run={config.run[0]}`: evaluate them one by one")
        cases.check(config.cases, fold.config, fold.dataset, f"`run={uri}`")


def _independent(folds: Sequence[TrainedFold]) -> int:
    """Returns how many groups, or independent samples, the folds of a run are measured on."""
    groups = [each.fold.dataset.groups_of(each.fold.measured_indices) for each in folds]
    return len(np.unique(np.concatenate(groups)))


def _groups_of_samples(config: EvaluationConfig, folds: Sequence[TrainedFold]) -> summary.Groups:
    """Groups the measured samples of all models by their class, and by the requested shot metadata."""
    fold = folds[0].fold
    indices = np.unique(np.concatenate([trained.fold.measured_indices for trained in folds]))
    of_classes = fold.task.groups(fold.dataset.labels[indices])
    classes = {name: indices[taken] for name, taken in of_classes.items() if taken.any()}
    return {**({"class": classes} if classes else {}), **shot_groups.groups(fold.dataset, indices, config.by)}


def _blocks(config: EvaluationConfig, label: str, folds: Sequence[TrainedFold], folder: pathlib.Path) -> list[Outcomes]:
    """Measures models in each group of cases, and returns the outcomes in all cases for each set of samples."""
    fold, blocks = folds[0].fold, list[Outcomes]()
    for group, of_group in grouped(config.cases, lambda case: case.group):
        changed = [case for case in of_group if case == CLEAN or not cases.equals_clean(case, fold.config)]
        if not changed:
            continue
        adapted = [cases.for_run(case, fold.config.processing) for case in changed]
        # Data sets of other intensities are loaded once, and freed with the group.
        load = functools.cache(functools.partial(at_intensity, fold.config.data, fingerprint=fold.dataset.fingerprint))
        inputs = _inputs(config, folds, of_group, adapted, load)
        make = functools.partial(_make, config, label, folds, of_group, adapted, load, blocks)
        found = measure.unpacked_blocks(cached(folder / group, inputs, make).outcomes, fold.task.score)
        blocks = [whole.joined(part) for whole, part in zip(blocks, found, strict=True)] if blocks else found
    return blocks


def _inputs(
    config: EvaluationConfig,
    folds: Sequence[TrainedFold],
    of_group: Sequence[Case],
    tested: Sequence[Case],
    load: Callable[[float], RawDataset],
) -> store.Identity:
    """Collects everything that the result of a group of cases depends on."""
    group, fold = of_group[0].group, folds[0].fold
    datasets = [fold.dataset, *map(load, dict.fromkeys(case.iso for case in tested if case.iso is not None))]
    samples = {tuple(trained.fold.measured_indices.tolist()) for trained in folds}
    # Pipelines start from the camera's calibration values, and states are relative to them. In other cases, the model's
    # values apply.
    camera = None
    if group in ("pipelines", "exposures", "sensor", "cameras"):
        camera = dataclasses.asdict(cases.camera_of(fold.dataset))
    # A pipeline is identified by its content, not by the path of its file.
    pipelines = {
        case.name: [*case.pipeline.identity, processor_hash(case.pipeline(cases.camera_of(fold.dataset)))]
        for case in tested
        if case.pipeline is not None
    }
    settings = {
        "cases": [case.identity for case in of_group],
        "seed": config.seed if group in ("exposures", "sensor", "cameras", "corruptions") else None,
    }
    models = [[trained.name, trained.fold.identity, trained.fold.training] for trained in folds]
    data = [[dataset.content_of(indices) for dataset in datasets for indices in sorted(samples)], camera]
    return store.identity(settings, data, [models, pipelines])


def _make(
    config: EvaluationConfig,
    label: str,
    folds: Sequence[TrainedFold],
    of_group: Sequence[Case],
    adapted: Sequence[Case],
    load: Callable[[float], RawDataset],
    clean: Sequence[Outcomes],
) -> Result:
    """Measures models in those cases of a group other than their clean images, `adapted` to the size of these."""
    group, fold = of_group[0].group, folds[0].fold
    sets = grouped(folds, lambda each: (each.fold.number, *each.fold.measured_indices.tolist()))
    members = {member_of(trained.name) for trained in folds}
    together = fold.task.can_average and len(members) > 1 and all(len(of_set) == len(members) for _, of_set in sets)
    found = [
        measure.measure(
            {trained.name: Model(trained.fold.model) for trained in of_set},
            adapted,
            Samples.of(of_set[0].fold, config.batch_size, config.seed)._replace(load=load),
            ensemble=f"{ENSEMBLE}/fold_{number}" if together else None,
            title=f"{label}, {group}",
        )
        for (number, *_), of_set in sets
    ]
    blocks = [before.joined(part) for before, part in zip(clean, found, strict=True)] if clean else found
    tested, _ = Measured.of(label, fold, [CLEAN, *of_group], blocks)
    metadata = {
        "title": summary.NAMES[group].capitalize(),
        "notes": [f"measured on {tested.drawn}, {fold.about.state}"],
        "score": tested.score_name,
        "measured": f"{fold.measured} samples",
        "cases": [case.name for case in of_group],
        "dataset": fold.dataset.name,
        "classes": fold.task.classes,
        "training": ids_of(folds),
        "flags": flat(config),
    }
    figures = {} if group == CLEAN.group else {"scores": _scores(tested, of_group, blocks)}
    return Result(metadata, {"models": _table(tested, of_group, blocks)}, figures, measure.packed_blocks(found))


def _table(tested: Measured, of_group: Sequence[Case], blocks: Sequence[Outcomes]) -> Table:
    """Makes a table with a row for each model, or ensemble, in each case."""
    fold, rows = tested.fold, list[list[Cell]]()
    columns = [Column("model"), Column("case"), Column(tested.score_name, "points", SCORE), Column("loss")]
    columns += [Column("drop", "points", DROP), *(Column(name, "points", SCORE) for name in fold.task.metrics)]
    for block in blocks:
        for name in block.models:
            for case in of_group:
                source, clean = tested.source(case), block.score(name)
                score = block.score(name, source)
                row = [name, case.name, score, block.loss_of(name, source), clean - score]
                rows.append(row + [block.score(name, source, None, each) for each in fold.task.metrics.values()])
    return Table("Models", columns, rows)


def _scores(tested: Measured, of_group: Sequence[Case], blocks: Sequence[Outcomes]) -> Figure:
    """Draws the mean scores by kind and severity, or else the scores of the models in each case."""
    label = tested.score_name
    caption = f"{label} on clean images: {tested.clean.mean():.3f}"
    if all(case.kind for case in of_group):
        graded: dict[Any, Case] = {(case.kind, case.severity): case for case in of_group}
        kinds, severities = (list(dict.fromkeys(part)) for part in zip(*graded, strict=True))
        values = [[tested.score(graded[kind, severity]) for severity in severities] for kind in kinds]
        titles = [str(each) for each in severities]
        return heat_map(values, kinds, titles, label=label, column_title="severity", caption=caption)
    names = {name: block for block in blocks for name in block.models}
    framed = [(row, place) for row in range(len(names)) for place, case in enumerate(of_group) if tested.is_clean(case)]
    values = [[block.score(name, tested.source(case)) for case in of_group] for name, block in names.items()]
    return heat_map(values, list(names), [case.name for case in of_group], label=label, framed=framed, caption=caption)
