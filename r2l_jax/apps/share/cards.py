"""Cards of models and data sets, made from what is recorded. They ask for what only a person knows."""

import collections
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jinja2
from huggingface_hub import CardData, DatasetCard, DatasetCardData, ModelCard, ModelCardData

import isp
from r2l_jax.apps.share.croissant import DataFolder, simulation
from r2l_jax.cli.flags import arguments
from r2l_jax.data.settings import IN_MEMORY
from r2l_jax.errors import InputError
from r2l_jax.results.result import Result, points, read

if TYPE_CHECKING:
    from r2l_jax.training.run import Run

# The name of a card in its folder.
FILE = "README.md"

# In cards that may be written anew. Who edits a card removes it.
MARK = "<!-- Written by r2l_jax, which replaces this file as long as this line is in it. -->"

# The folder of the scores under drift.
EVALUATION = "evaluation"

# The fields of a model card that only a person can fill in, see `docs/share.md`.
SAID = ("repository", "license", "authors", "intended_use", "out_of_scope", "data_origin")

# The hub's names of tasks.
_TASKS = {
    "classification": "image-classification",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
}


def model_card(model: "Run", **said: str) -> ModelCard:
    """Makes the model card of a run or an ensemble; raises an InputError unless all that is said is in `SAID`."""
    # Imported here, because programs that write data sets would start two seconds later.
    from r2l_jax.apps.export.description import processing_of
    from r2l_jax.config import TrainConfig
    from r2l_jax.drift import limits, statistics

    if unknown := sorted(said.keys() - {*SAID}):
        raise InputError(f"a model card has no field {' and no '.join(unknown)}: it has {', '.join(SAID)}")
    about, test = model.folds[0].without_paths().about, model.tested
    simulated = simulation(str(about.flags["dataset"]), model.config.data.data_dir)
    front = ModelCardData(
        library_name="r2l_jax",
        license=said.get("license"),
        pipeline_tag=_TASKS.get(model.task.title),
        tags=["jax", "raw-images", "camera-drift", *["simulated-data"] * bool(simulated)],
        metrics=[model.task.score.name],
    )
    values = {
        "name": (said.get("repository") or model.config.tracking.run_name).rpartition("/")[-1],
        "processing": processing_of(model),
        "simulated": simulated,
        "sizes": {name: len(indices) for name, indices in about.split._asdict().items()},
        "validation": sum(fold.about.score for fold in model) / len(model.folds),
        "cameras": model.cameras or ({"": model.calibration} if model.camera else {}),
        "command": " \\\n  ".join(["r2l train", *arguments(TrainConfig, about.flags)]),
        "in_memory": str(about.flags["dataset"]).startswith(IN_MEMORY),
        "drawn": test and statistics.drawn(test.samples, test.groups, "test"),
        "drift": evaluation(model),
        "middle": model.camera and _middle(model.shape, model.camera.pattern),
        "envelope": limits.stated(model),
        "points": points,
        "percent": limits.percent,
        "limits": limits.in_words,
    }
    text = _rendered("model_card.md", front, said, model=model, about=about, test=test, **values)
    return ModelCard(f"{text}\n{MARK}\n")


def data_card(data: DataFolder, said: Mapping[str, str]) -> DatasetCard:
    """Makes the card of a data set; `said` is what a person says, see `croissant.SAID`."""
    front = DatasetCardData(
        license=said.get("license"),
        pretty_name=data.name,
        task_categories=[_TASKS[data.task]] if data.task in _TASKS else None,
        tags=["croissant", "camera-drift", *["simulated-data"] * bool(data.simulated)],
    )
    counts = collections.Counter(row.get("class") for row in data.samples)
    groups = len({row.get("group") for row in data.samples})
    return DatasetCard(_rendered("data_card.md", front, said, data=data, counts=counts, groups=groups))


def _middle(shape: Sequence[int], pattern: str) -> str:
    """Writes where the middle of a raw image starts, with a whole color filter tile."""
    axes = zip("01", shape, isp.cfa.tile(pattern).shape, strict=True)
    return ", ".join(f"(raw.shape[{axis}] - {side}) // {2 * period} * {period}" for axis, side, period in axes)


def _rendered(template: str, front: CardData, said: Mapping[str, str], **values: Any) -> str:
    """Renders a card with its front matter for the hub."""
    loader = jinja2.PackageLoader("r2l_jax.apps.share")
    page = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    said = collections.defaultdict(str, said)
    return page.get_template(template).render(card_data=front.to_yaml(), said=said, fields=_fields, **values)


def _fields(camera: isp.Camera) -> dict[str, Any]:
    """Returns the calibration values of a camera by name, with four digits."""
    return json.loads(camera.to_json(), parse_float=lambda text: float(f"{float(text):.4g}"))


def evaluation(model: "Run") -> Result | None:
    """Returns the scores under drift that `evaluate.py` has stored for a model, or that it was shared with."""
    from r2l_jax.apps.report.runs import read_runs

    folder = model.folds[0].folder
    if not (folder / "metrics.json").exists():
        shared = read(folder / EVALUATION)
        return shared if shared and {fold.identity for fold in model} <= {*shared.metadata["models"]} else None
    several = len({fold.folder.parent for fold in model}) > 1
    run = read_runs([str(folder.parents[several])])[0]
    found = next((each.result for each in run.results if each.place == (EVALUATION,)), None)
    return found if found and {fold.training for fold in model} <= {*found.metadata["training"].values()} else None
