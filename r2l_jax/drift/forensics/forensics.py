"""Drift forensics: finds the processing that breaks a trained model, and the processing that it tolerates."""

import contextlib
import itertools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from r2l_jax.drift.analysis import Analysis, FoldAnalysis, once
from r2l_jax.drift.forensics import camera_check, group
from r2l_jax.drift.forensics.config import ForensicsConfig
from r2l_jax.drift.forensics.sensitivity import SensitivityAnalysis
from r2l_jax.drift.forensics.shots import ShotsAnalysis
from r2l_jax.drift.forensics.tolerance import ROUNDING, ToleranceAnalysis
from r2l_jax.drift.forensics.worst_case import WorstCaseAnalysis
from r2l_jax.drift.search.frozen import Frozen
from r2l_jax.runtime import stop, store
from r2l_jax.runtime.commands import closing
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.stop import Interrupted
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.record import members
from r2l_jax.training.run import load

# A fold, with the settings for its run.
_Training = tuple[ForensicsConfig, Artifact]


def run(config: ForensicsConfig) -> dict[int, dict[str, dict[str, Any]]]:
    """Analyzes every fold of a run, or of all members of a group of trainings.

    Writes to `<output>/fold_<k>/<analysis>/`: `<analysis>.json` (all numbers, and how to reproduce them), pictures,
    tables in CSV, and TensorBoard events of the pictures. An analysis that an earlier call of the same settings has
    finished is not repeated, and one that was stopped begins anew.

    - `sensitivity`: the gradient of the task loss for every parameter and for the image after every stage.
    - `tolerances`: the interval in which each parameter may move by itself.
    - `worst_case`: the lowest score that a search over the parameters finds.
    - `shots`, with `by`: the scores of groups of shots, by default and in the worst cases.

    Each member of a group has these results in its own folder, and `<output>/forensics.json` has their medians and
    ranges over the members, see `group`.

    Returns:
        The content of the JSON files, by the number of the fold (of the training, for a group) and by analysis.

    Raises:
        InputError: a folder that is not a finished run, a processing without parameters, a group or a pair that the
            processing does not have, or another program that writes to the output folder.
        Interrupted: SIGINT or SIGTERM came; the same call keeps the finished analyses.
    """
    trainings = _trainings(config)
    analyses = make_analyses(config)
    # Checked before the analyses, which take minutes.
    for (_, fold), analysis in itertools.product(trainings, analyses):
        analysis.check_fold(fold)
    if outlook := _outlook(config, trainings, analyses):
        print(outlook, file=sys.stderr)
    with _writing(trainings), stop.after_step():
        done = [_analyze_all(analyses, fold, member.output_dir) for member, fold in trainings]
    is_group = trainings[0][0] is not config
    if is_group:
        group.write(config, {_name(*each): each[1] for each in trainings}, done)
    print(closing(config.output_dir, [config.run], config.output is None))
    numbers = [number if is_group else fold.number for number, (_, fold) in enumerate(trainings)]
    return dict(zip(numbers, done, strict=True))


def _trainings(config: ForensicsConfig) -> Sequence[_Training]:
    """Opens the folds of a run, or of each member of a group, each with the settings for its run.

    Their processing must have parameters.
    """
    configs = [config.of_member(folder) for folder in members(config.run)]
    given = {"code": config.code, "data_dir": config.data_dir, "with_data": True}
    runs = [load(each.run, None, config.checkpoint, **given) for each in configs]
    for run in runs:
        run.check_parameters()
    return [(each, fold) for each, run in zip(configs, runs, strict=True) for fold in run.folds]


@contextlib.contextmanager
def _writing(trainings: Sequence[_Training]) -> Iterator[None]:
    """Keeps other programs from writing to the output folders of runs."""
    with contextlib.ExitStack() as held:
        for folder in dict.fromkeys(member.output_dir for member, _ in trainings):
            held.enter_context(writing_to(folder))
        yield


def _name(member: ForensicsConfig, fold: Artifact) -> str:
    """Returns the name of a training in a group, such as "seed_1/fold_0"."""
    return f"{pathlib.Path(member.run).name}/fold_{fold.number}"


def _outlook(config: ForensicsConfig, trainings: Sequence[_Training], analyses: Sequence[FoldAnalysis]) -> str | None:
    """Says what earlier calls have left to do, if anything, and how to begin with less of it."""
    pairs = list(itertools.product(trainings, analyses))
    files = [_file(analysis, fold, member.output_dir) for (member, fold), analysis in pairs]
    identities = [analysis.identity(fold) for (_, fold), analysis in pairs]
    found = [store.find(file, identity, says=False) for file, identity in zip(files, identities, strict=True)]
    left = [pair for pair, content in zip(pairs, found, strict=True) if content is None]
    if not left:
        return None
    works = dict.fromkeys(analysis.work(left[0][0][1]) for _, analysis in left)
    count = len({id(fold) for (_, fold), _ in left})
    line = f"to do: {', '.join(works)}{f', for each of {count} models' if count > 1 else ''}"
    searches = any(analysis.name == "worst_case" for _, analysis in left)
    few = config.worst_case.adv_parameters or config.worst_case.starts == 1 or not searches
    return line if few else f"{line}; --adv_parameters=all --adv_aux_weight=10 --starts=1 is a first look, by 1 search"


def make_analyses(config: ForensicsConfig) -> list[FoldAnalysis]:
    """Makes the analyses that are chosen, each with the settings that it uses."""
    known = {
        "sensitivity": SensitivityAnalysis(config.batch_size),
        "tolerances": ToleranceAnalysis(config.tolerances, config.batch_size, config.seed),
        "worst_case": WorstCaseAnalysis(config.worst_case, config.batch_size, config.seed),
    }
    searches = known["worst_case"] if "worst_case" in config.analyses else None
    shots = [ShotsAnalysis(config.by, config.batch_size, searches)] if config.by else []
    return [*(known[name] for name in config.analyses), *shots]


def _analyze_all(analyses: Sequence[FoldAnalysis], fold: Artifact, output: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns the results of all analyses of a fold by name."""
    done: dict[str, dict[str, Any]] = {}
    for analysis in analyses:
        done[analysis.name] = _analyze(analysis, fold, output, done)
    return done


def _file(analysis: FoldAnalysis, fold: Artifact, output: pathlib.Path) -> pathlib.Path:
    return output / f"fold_{fold.number}" / analysis.name / f"{analysis.name}.json"


def _analyze(
    analysis: FoldAnalysis,
    fold: Artifact,
    output: pathlib.Path,
    done: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns an analysis of a fold, made now or by an earlier call, and prints its table."""

    def analyze() -> Analysis:
        if stop.requested():
            raise Interrupted(f"stopped before {analysis.name} of fold {fold.number}; the same command resumes with it")
        found = analysis.analyze(fold, done)
        stated = f"measured on {len(fold.measured_indices)} {fold.measured} samples"
        facts = {"measured": fold.measured, "checkpoint": fold.about.checkpoint}
        return found._replace(content={**found.content, **facts}, table=f"{found.table}\n{stated}")

    file = _file(analysis, fold, output)
    return once(file, analysis.name.replace("_", " "), fold, analysis.flags, analysis.identity(fold), analyze)


def check(config: ForensicsConfig) -> bool:
    """Checks whether every fold of a run, or of a group's members, tolerates a camera's calibration values.

    Prints those that it does not tolerate. Takes the folds' `tolerances` as earlier calls of the same settings have
    left them, or finds them now. A fold tolerates a camera if it tolerates each of its values, and all of them
    together.

    Raises:
        InputError: as `run`, or a camera that cannot be read.
        Interrupted: as `run`.
    """
    if config.check is None:
        raise ValueError("the settings must have a camera to check")
    name = config.check
    camera = camera_check.read_camera(name)
    tolerated = True
    trainings = _trainings(config)
    analysis = ToleranceAnalysis(config.tolerances, config.batch_size, config.seed)
    with _writing(trainings), stop.after_step():
        for member, fold in trainings:
            tolerances = _analyze(analysis, fold, member.output_dir, {})
            frozen = Frozen(fold.model, fold.task)
            findings = camera_check.check(tolerances, frozen.facts, camera)
            default, together = camera_check.score_together(
                frozen, fold.dataset, fold.measured_indices, config.batch_size, camera
            )
            title = f"fold {fold.number}" if member is config else _name(member, fold)
            print(
                f"{title}: {config.check}\n{camera_check.table(findings)}\n"
                f"{fold.task.score} {default:.4f}, with all of the camera's values together {together:.4f}\n"
            )
            inside = all(finding.inside for finding in findings)
            tolerated &= inside and together >= default - config.tolerances.tolerance / 100 - ROUNDING
    return tolerated
