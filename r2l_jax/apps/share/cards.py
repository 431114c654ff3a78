"""Cards of models and data sets, made from what is recorded. They ask for what only a person knows."""

import collections
import json
from collections.abc import Mapping
from typing import Any

import jinja2
from huggingface_hub import CardData, DatasetCard, DatasetCardData, ModelCard, ModelCardData

import isp
from r2l_jax.apps.export.description import processing_of, tested
from r2l_jax.apps.report.runs import read_runs
from r2l_jax.apps.share import croissant
from r2l_jax.cli.flags import arguments
from r2l_jax.config import TrainConfig
from r2l_jax.data.settings import IN_MEMORY, SYNTHETIC_SETS
from r2l_jax.drift import limits, statistics
from r2l_jax.results.result import Table, points
from r2l_jax.training.run import Run

# The name of a card in its folder.
FILE = "README.md"

# The hub's names of tasks.
HUB_TASKS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}

EMBEDDED = "The embedded data set renders blood cells and a camera's noise from random numbers."


def model_card(
    model: Run,
    *,
    repository: str | None = None,
    license: str | None = None,
    authors: str | None = None,
    intended_use: str | None = None,
    out_of_scope: str | None = None,
    data_origin: str | None = None,
) -> ModelCard:
    """Makes the model card of a run or an ensemble, with `<owner>/<name>` as its `repository` on the hub.

    Args:
        model: the run.
        repository: its place on the hub.
        license: its license in the hub's spelling, such as "mit" or "cc-by-4.0".
        authors: who made it, and how to reach them.
        intended_use: who should use it for what.
        out_of_scope: uses that the authors advise against, and whom errors harm.
        data_origin: where the training images come from, with consent and license.
    """
    fold, about, test = model.folds[0], model.folds[0].without_paths().about, tested(model)
    dataset, place = str(about.flags["dataset"]), fold.config.data.data_dir
    simulated = EMBEDDED if dataset in SYNTHETIC_SETS else croissant.simulation(place) if dataset == "Folder" else ""
    values = {
        "name": (repository or fold.config.tracking.run_name).rpartition("/")[-1],
        "repository": repository,
        "task": model.task.title,
        "score": model.task.score.name,
        "processing": processing_of(model),
        "members": len(model.folds),
        "checkpoint": about.checkpoint,
        "code": [f"{source.file}:{source.function}" for source in about.code.values()],
        "result": "boxes" if model.task.has_boxes else "probabilities",
        "dataset": "arrays in memory" if dataset.startswith(IN_MEMORY) else dataset,
        "simulated": simulated,
        "sizes": {name: len(indices) for name, indices in about.split._asdict().items()},
        "cameras": {"": camera_rows(model.camera)}
        if model.camera and not model.cameras
        else {f" {name}": camera_rows(camera) for name, camera in model.cameras.items()},
        "command": _command(about.flags),
        "test": test,
        "drawn": test and statistics.drawn(test.samples, test.groups, "test"),
        **_drops(model),
        "envelope": limits.stated(model),
        "license": license,
        "authors": authors,
        "intended_use": intended_use,
        "out_of_scope": out_of_scope,
        "data_origin": data_origin,
    }
    front = ModelCardData(
        library_name="r2l_jax",
        license=license,
        pipeline_tag=HUB_TASKS.get(model.task.title),
        tags=["jax", "raw-images", "camera-drift", *["simulated-data"] * bool(simulated)],
        metrics=[model.task.score.name],
    )
    return ModelCard(rendered("model_card.md", front, model=model, about=about, **values))


def data_card(data: croissant.DataFolder, said: Mapping[str, str]) -> DatasetCard:
    """Makes the card of a data set; `said` is what a person says, see `croissant.SAID`."""
    front = DatasetCardData(
        license=said.get("license"),
        pretty_name=data.name,
        task_categories=[HUB_TASKS[data.task]] if data.task in HUB_TASKS else None,
        tags=["croissant", "camera-drift", *["simulated-data"] * bool(data.simulated)],
    )
    values = {
        "columns": list(data.samples[0]),
        "counts": collections.Counter(row.get("class") for row in data.samples),
        "groups": len({row.get("group") for row in data.samples}),
        "cameras": {name: camera_rows(camera) for name, camera in data.cameras.items()},
        "said": collections.defaultdict(str, said),
    }
    return DatasetCard(rendered("data_card.md", front, data=data, **values))


def rendered(template: str, front: CardData, **values: Any) -> str:
    """Renders a card with its front matter for the hub."""
    loader = jinja2.PackageLoader("r2l_jax.apps.share")
    options: Any = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    page = jinja2.Environment(loader=loader, autoescape=False, **options).get_template(template)
    words = {"points": points, "percent": limits.percent, "limits": limits.in_words}
    return page.render(card_data=front.to_yaml(), **words, **values).strip() + "\n"


def camera_rows(camera: isp.Camera) -> dict[str, str]:
    """Returns the calibration values of a camera by name, as texts."""

    def text(value: Any) -> str:
        return (
            f"[{', '.join(map(text, value))}]"
            if isinstance(value, list)
            else str(value)
            if isinstance(value, str)
            else f"{value:.4g}"
        )

    return {name.replace("_", " "): text(value) for name, value in json.loads(camera.to_json()).items()}


def _command(flags: Mapping[str, Any]) -> str:
    """Returns the command of a training; arrays in memory have none, but the same settings."""
    in_memory = str(flags["dataset"]).startswith(IN_MEMORY)
    named = {name: value for name, value in flags.items() if not (in_memory and name == "dataset")}
    first = "# in Python, r2l_jax.train(data) with the settings:\n" if in_memory else ""
    return first + " \\\n  ".join(["r2l train", *arguments(TrainConfig, named)])


def _drops(model: Run) -> dict[str, str]:
    """Returns the table of scores under drift that `evaluate.py` has stored for a run, as Markdown."""
    folder, found = model.folds[0].folder, []
    if (folder / "metrics.json").exists():
        run = folder.parents[1] if len(model.folds) > 1 else folder.parent
        found = [each for each in read_runs([str(run)])[0].results if each.place == ("evaluation",)]
    if not found:
        return {"drops": "", "measured": "", "notes": ""}
    metadata, table = found[0].result.metadata, found[0].result.tables["drops"]
    return {
        "drops": markdown(table),
        "measured": str(metadata.get("measured", "samples")),
        "notes": "; ".join(map(str, metadata.get("notes", ()))),
    }


def markdown(table: Table) -> str:
    """Formats a table as Markdown."""
    rows = [[column.heading for column in table.columns], ["---"] * len(table.columns)]
    rows += [[column.text(cell) for column, cell in zip(table.columns, row, strict=True)] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
