"""Sheets: one sample side by side, under pipelines, drifts of the sensor or corruptions, or in the worst cell."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases
from r2l_jax.drift.acquisition import at_intensity
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.renderer import Processor, Recipe, Renderer
from r2l_jax.drift.synthesis.config import SheetConfig
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing
from r2l_jax.runtime.locks import writing_to
from r2l_jax.runtime.named_code import is_file
from r2l_jax.training.artifact import Artifact
from r2l_jax.training.run import load

# The outermost pixels, which the scale of differences leaves out.
_BORDER = 2

# The longer side of a panel in pixels, so that a row of five severities fits on a screen.
_SMALL_PANEL = 240


def run(config: SheetConfig) -> None:
    """Draws a sheet, and writes it in place of an earlier one.

    Raises:
        InputError: data is missing or processed already, there is no such sample, `--evaluation` is not of
            scripts/evaluate.py, or the file cannot be written.
    """
    draw = {"pipelines": _draw_pipelines, "worst": _draw_worst}.get(config.sheet, _draw_severities)
    output = pathlib.Path(config.output)
    with writing_to(output.parent):
        sheet = draw(config)
        try:
            with replacing(output) as part:
                sheet.save(part, "png")
        except OSError as error:
            raise InputError(f"{output}: {error.strerror or error}") from None
    print(f"sheet in {output}")


def _draw_pipelines(config: SheetConfig) -> Image.Image:
    """Draws a sample under each pipeline."""
    dataset = _load(config)
    tested = cases.pipelines(config.pipelines)
    cases.check_pipelines(tested, dataset)
    return contact_sheet(_Scene(dataset, config.sample or 0, config.seed).images(tested))


def _draw_severities(config: SheetConfig) -> Image.Image:
    """Draws a sample under each drift of the sensor or corruption: a row for each, and a column for each severity."""
    dataset = _load(config)
    (processing,) = cases.pipelines([config.pipeline])
    cases.check_pipelines([processing], dataset)
    if config.sheet == "sensor":
        tested = cases.sensor(config.sensor, config.severities)
        cases.check_sensor(tested, dataset)
    else:
        tested = cases.corruptions(config.corruptions, config.severities)
    pictures = _Scene(dataset, config.sample or 0, config.seed).images(tested, processing)
    return contact_sheet(pictures, columns=len(dict.fromkeys(config.severities)), panel=_SMALL_PANEL)


def _load(config: SheetConfig) -> RawDataset:
    dataset = datasets.load(config.dataset, download=config.download, **config.source)
    if dataset.camera is None:
        raise InputError(f"--dataset={config.dataset} is processed already: there is no raw data")
    return dataset


class _Scene:
    """One sample, to be rendered in several cases; `own` is the processor of a case without a pipeline.

    Raises:
        InputError: there is no such sample.
    """

    def __init__(self, dataset: RawDataset, index: int, seed: int, own: Processor | None = None):
        if index >= len(dataset):
            raise InputError(f"--sample={index}: {dataset.name} has the samples 0 to {len(dataset) - 1}")
        self._dataset, self._index, self._own = dataset, np.array([index]), own
        self._sample = loader.batch_of(dataset, self._index)
        self._renderer = Renderer(seed)

    def images(self, tested: list[Case], processing: Case = OWN) -> dict[str, np.ndarray]:
        """Returns the images of cases by their names; `processing` serves the cases that change another step."""
        recipes = {case.name: Recipe.of(case) for case in tested}
        recipes = {
            name: recipe if recipe.processing != OWN else recipe._replace(processing=processing)
            for name, recipe in recipes.items()
        }
        pipelines = {recipe.processing.pipeline for recipe in recipes.values()} - {None}
        processors: dict[NamedPipeline | None, Processor] = {
            pipeline: nnx.split(
                pipeline.metered_as(self._own and nnx.merge(*self._own))(cases.camera_of(self._dataset))
            )
            for pipeline in pipelines
            if pipeline
        }
        if self._own is not None:
            processors[None] = self._own
        made = self._renderer.images(
            recipes.values(),
            jnp.asarray(self._sample["raw"]),
            jnp.asarray(self._sample["index"]),
            self._dataset.camera,
            processors,
        )
        by_recipe = {recipe: np.asarray(images[0]) for recipe, images in made}
        return {name: by_recipe[recipe] for name, recipe in recipes.items()}


class Worst(NamedTuple):
    """The worst cell of a matrix: its run and case, and the scores of the run on its own images and in the case."""

    run: str
    case: str
    own: float
    score: float


def worst_cell(content: Mapping[str, Any], matrix: str) -> Worst:
    """Finds the case of a group, `matrix`, in which a run of an evaluation.json loses most of its score.

    Raises:
        InputError: the evaluation has no such cases.
    """
    cells = [
        Worst(label, name, run["tests"][OWN.name][content["score"]]["mean"], test[content["score"]]["mean"])
        for label, run in content["runs"].items()
        for name, test in run["tests"].items()
        if test["group"] == matrix and name not in run["own"]
    ]
    if not cells:
        groups = dict.fromkeys(test["group"] for run in content["runs"].values() for test in run["tests"].values())
        tested = ", ".join(group for group in groups if group != OWN.group) or "nothing else"
        raise InputError(f"--matrix={matrix}: the evaluation is against {tested}")
    return max(cells, key=lambda cell: cell.own - cell.score)


def _draw_worst(config: SheetConfig) -> Image.Image:
    """Draws a sample as the run of the worst cell was trained on it and tested on it, and their difference."""
    content = _read(config)
    worst = worst_cell(content, config.matrix)
    fold = _first_fold(config, content, worst)
    index = int(fold.measured_indices[0]) if config.sample is None else config.sample
    own = nnx.split(fold.model.processor)
    case = cases.for_run(_case(config, content["flags"], worst.case), fold.config.processing)
    dataset = fold.dataset
    if case.iso is not None:
        dataset = at_intensity(fold.config.data, case.iso, dataset.fingerprint)
    trained = _Scene(fold.dataset, index, config.seed, own).images([OWN])[OWN.name]
    tested = _Scene(dataset, index, config.seed, own).images([case])[case.name]
    return contact_sheet(
        {
            f"trained: {worst.run}, {worst.own:.3f}": trained,
            f"tested: {worst.case}, {worst.score:.3f}": tested,
            **_differences(trained, tested),
        }
    )


def _differences(trained: np.ndarray, tested: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the difference around gray, in color and of each channel, on a scale that all of them share."""
    difference = np.clip(tested, 0, 1) - np.clip(trained, 0, 1)
    # Algorithms differ most in how they continue an image beyond its border, which would hide all other differences.
    inner = difference[_BORDER:-_BORDER, _BORDER:-_BORDER]
    largest = max(float(abs(inner if inner.size else difference).max()), 1e-6)
    scaled = np.clip(0.5 + difference / (2 * largest), 0, 1)
    return {
        f"tested less trained, white from {largest:+.2f}": scaled,
        **{name: scaled[..., channel] for channel, name in enumerate(("red", "green", "blue"))},
    }


def _read(config: SheetConfig) -> dict[str, Any]:
    """Reads an evaluation.json."""
    assert config.evaluation is not None
    try:
        content = json.loads(pathlib.Path(config.evaluation).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"--evaluation={config.evaluation} cannot be read ({error})") from None
    if not isinstance(content, dict) or not {"runs", "score", "flags"} <= content.keys():
        raise InputError(f"--evaluation={config.evaluation} must be an evaluation.json of scripts/evaluate.py")
    return content


def _first_fold(config: SheetConfig, content: Mapping[str, Any], worst: Worst) -> Artifact:
    """Loads the first fold of the worst cell's run."""
    run, flags = content["runs"][worst.run], content["flags"]
    folder = pathlib.Path(run["folder"]) / f"fold_{next(iter(run['folds']))}"
    (fold,) = load(folder, None, flags["checkpoint"], config.code, config.data_dir, with_data=True)
    return fold


def _case(config: SheetConfig, flags: Mapping[str, Any], name: str) -> Case:
    """Returns the case of an evaluation by its name. Of the recorded pipelines, no file is run."""
    recorded = [each for each in flags["pipelines"] if not is_file(each)]
    known = {
        "pipelines": lambda: cases.pipelines([*dict.fromkeys([*recorded, *config.pipelines])]),
        "intensities": lambda: cases.intensities(flags["intensities"]),
        "exposures": lambda: cases.exposures(flags["exposures"]),
        "sensor": lambda: cases.sensor(flags["sensor"], flags["severities"]),
        "corruptions": lambda: cases.corruptions(flags["corruptions"], flags["severities"]),
    }
    found = [case for case in known[config.matrix]() if case.name == name]
    if not found:
        raise InputError(f"{name} is a pipeline of a file, which is not run unless you name it: give it by --pipelines")
    return found[0]
