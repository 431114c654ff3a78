"""Sheets: one sample side by side, under pipelines, sensor drifts or corruptions."""

import pathlib

import jax.numpy as jnp
import numpy as np
from PIL import Image

from r2l_jax.data import loader
from r2l_jax.data.raw_dataset import RawDataset
from r2l_jax.data.sets import datasets
from r2l_jax.drift import cases
from r2l_jax.drift.cases import OWN, Case
from r2l_jax.drift.renderer import Processor, Recipe, Renderer
from r2l_jax.drift.synthesis.config import SheetConfig
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.runtime.contact_sheet import contact_sheet
from r2l_jax.runtime.errors import InputError
from r2l_jax.runtime.files import replacing
from r2l_jax.runtime.locks import writing_to

# The longer side of a panel in pixels, so that a row of five severities fits on a screen.
_SMALL_PANEL = 240


def run(config: SheetConfig) -> None:
    """Draws a sheet, and writes it in place of an earlier one.

    Raises:
        InputError: data is missing or processed already, there is no such sample, or the file cannot be written.
    """
    draw = _draw_pipelines if config.sheet == "pipelines" else _draw_severities
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
    return contact_sheet(_Scene(dataset, config.sample, config.seed).images(tested))


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
    pictures = _Scene(dataset, config.sample, config.seed).images(tested, processing)
    return contact_sheet(pictures, columns=len(dict.fromkeys(config.severities)), panel=_SMALL_PANEL)


def _load(config: SheetConfig) -> RawDataset:
    dataset = datasets.load(config.dataset, download=config.download, **config.source)
    if dataset.camera is None:
        raise InputError(f"--dataset={config.dataset} is processed already: there is no raw data")
    return dataset


class _Scene:
    """One sample, to be rendered in several cases.

    Raises:
        InputError: there is no such sample.
    """

    def __init__(self, dataset: RawDataset, index: int, seed: int):
        if index >= len(dataset):
            raise InputError(f"--sample={index}: {dataset.name} has the samples 0 to {len(dataset) - 1}")
        self._dataset, self._sample = dataset, loader.batch_of(dataset, np.array([index]))
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
            pipeline: Processor.of(pipeline(cases.camera_of(self._dataset))) for pipeline in pipelines if pipeline
        }
        made = self._renderer.images(
            recipes.values(),
            jnp.asarray(self._sample["raw"]),
            jnp.asarray(self._sample["index"]),
            self._dataset.camera,
            processors,
        )
        by_recipe = {recipe: np.asarray(images[0]) for recipe, images in made}
        return {name: by_recipe[recipe] for name, recipe in recipes.items()}
