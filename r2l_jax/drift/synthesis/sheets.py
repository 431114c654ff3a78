"""Sheets: one sample of a run side by side in the cases of a group."""

import jax
import numpy as np

from r2l_jax.data import loader
from r2l_jax.drift import cases
from r2l_jax.drift.cases import Case
from r2l_jax.drift.measure import Samples
from r2l_jax.drift.renderer import Processor, Renderer, grouped
from r2l_jax.drift.synthesis.config import EvaluationConfig
from r2l_jax.drift.trained_folds import folds_of
from r2l_jax.pipelines import NamedPipeline
from r2l_jax.results.contact_sheet import contact_sheet
from r2l_jax.results.files import replacing
from r2l_jax.results.locks import writing_to
from r2l_jax.training.model_io import Trained

# The longer side of a panel in pixels, so that a row of five severities fits on a screen.
_PANEL = 240


def run(config: EvaluationConfig) -> None:
    """Draws the first measured sample of the first run in the cases of `config.sheet`, replacing an earlier sheet.

    Sensor drifts and corruptions have a row for each kind, and a column for each severity.

    Raises:
        InputError: the run is not finished, its data is missing, or it cannot be tested in these cases.
    """
    group, uri = str(config.sheet), config.run[0]
    fold = folds_of(config.of_run(uri))[0].fold
    chosen = [case for case in config.cases if case.group == group]
    cases.check(chosen, fold.config, fold.dataset, f"`run={uri}`")
    tested = [cases.for_run(case, fold.config.processing) for case in chosen]
    pictures, output = _images(fold, tested, config.seed), config.output_dir / f"sheet_{group}.png"
    # Of the study's pipelines, four demosaic alike.
    columns = len(dict.fromkeys(config.severities)) if all(case.kind for case in chosen) else 4
    sheet = contact_sheet(pictures, columns, _PANEL)
    with writing_to(output.parent), replacing(output) as part:
        sheet.save(part, "png")
    print(f"sheet in {output}")


def _images(fold: Trained, tested: list[Case], seed: int) -> dict[str, np.ndarray]:
    """Returns the images of a sample by case; the run's own processing applies in cases without a pipeline."""
    samples, processor, images = Samples.of(fold, seed=seed), fold.model.processor, {}
    for iso, of_iso in grouped(tested, lambda case: case.iso):
        dataset = samples.at(iso)
        batch = loader.batch_of(dataset, samples.indices[:1])
        processors: dict[NamedPipeline | None, list[Processor]] = {None: [Processor.of(processor)]}
        for pipeline in dict.fromkeys(case.pipeline for case in of_iso if case.pipeline is not None):
            processors[pipeline] = [Processor.of(pipeline.metered_as(processor)(cases.camera_of(dataset)))]
        raw, index = jax.device_put((batch["raw"], batch["index"]))
        for case, (made,) in Renderer(seed).images(of_iso, raw, index, dataset.camera, processors):
            images[case.name] = np.asarray(made[0])
    # A line may end between the parts of a pipeline's name.
    titles = {case.name: case.name.replace(".", ", ") if case.pipeline else case.name for case in tested}
    return {title: images[name] for name, title in titles.items()}
