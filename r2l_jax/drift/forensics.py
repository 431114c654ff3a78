"""Drift forensics: which processing breaks a trained model, found by searching for the worst within reach."""

import dataclasses
import hashlib
import itertools
import json
import pathlib
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import isp
from r2l_jax import report
from r2l_jax.data import loader
from r2l_jax.drift import figures
from r2l_jax.drift.frozen import AUX_LOSSES, Frozen
from r2l_jax.drift.measure import Measurer
from r2l_jax.drift.search import Found, Search, Searcher
from r2l_jax.errors import InputError
from r2l_jax.files import write_json
from r2l_jax.model import RawToLogit
from r2l_jax.render import contact_sheet
from r2l_jax.stop import StopSignals
from r2l_jax.trained import TrainedFold, load_runs

# Random starts lie around the default, so many ranges away: near enough to look like it, far enough to differ.
_SPREAD = 0.02

ADDITIVE_LAYER = "additive_layer"


@dataclasses.dataclass(frozen=True)
class ForensicsConfig:
    """A search for the worst processing.

    Attributes are documented by the flags of scripts/forensics.py.

    Raises:
        InputError: values that are not known or out of range.
    """

    run: str
    data_dir: str | None = None
    output: str | None = None
    adv_parameters: tuple[str, ...] | None = None
    adv_aux_loss: str = "ssim"
    adv_aux_weight: tuple[float, ...] = (10.0, 100.0, 1000.0)
    adv_noise_layer: bool = False
    adv_track_differences: bool = False
    starts: int = 2
    steps: int = 60
    lr: float = 0.01
    batch_size: int = 16
    samples: int = 512
    track_n_images: int = 5
    seed: int = 0

    def __post_init__(self):
        for name in ("starts", "steps", "lr", "batch_size", "samples", "track_n_images"):
            if getattr(self, name) <= 0:
                raise InputError(f"--{name} must be positive, got {getattr(self, name)}")
        if self.seed < 0:
            raise InputError(f"--seed must not be negative, got {self.seed}")
        if self.adv_aux_loss not in AUX_LOSSES:
            raise InputError(f"--adv_aux_loss must be one of {', '.join(AUX_LOSSES)}, got {self.adv_aux_loss!r}")
        if not self.adv_aux_weight or min(self.adv_aux_weight) < 0:
            raise InputError(f"--adv_aux_weight must be numbers of at least 0, got {list(self.adv_aux_weight)}")

    @property
    def output_dir(self) -> pathlib.Path:
        """Where the results go."""
        return pathlib.Path(self.output) if self.output else pathlib.Path(self.run) / "forensics"


def run(config: ForensicsConfig) -> dict[int, dict[str, Any]]:
    """Searches for the worst processing of every fold of a run, and measures what it does to the validation samples.

    Batches are drawn from the fold's training samples. Writes to `<output>/fold_<k>/`: `forensics.json` (the table, the
    parameters found, how to reproduce them), `curves.png`, with `adv_track_differences` a picture for each group of
    default, worst and difference, and all pictures as TensorBoard's events. A fold that an earlier call of the same
    settings has finished is taken as it is.

    Returns:
        What the folds' forensics.json hold, by the folds' numbers.

    Raises:
        InputError: a folder that is no finished run, a processing without parameters, a group that it does not have, or
            several processes.
        Interrupted: SIGINT or SIGTERM came; folds that were finished are kept.
    """
    if jax.process_count() > 1:
        raise InputError(f"a search runs on the devices of one process, got {jax.process_count()} processes")
    (folds,) = load_runs([config.run], config.data_dir)
    results = {}
    with StopSignals() as stop:
        for fold in folds:
            folder = config.output_dir / f"fold_{fold.fold.number}"
            result = _earlier(config, fold, folder)
            if result is None:
                result = _search_fold(config, fold, folder, stop)
            print(f"fold {fold.fold.number}\n{table(result)}\nresults in {folder}")
            results[fold.fold.number] = result
    return results


def _earlier(config: ForensicsConfig, fold: TrainedFold, folder: pathlib.Path) -> dict[str, Any] | None:
    """What an earlier call of the same settings has written of the same training."""
    try:
        result = json.loads((folder / "forensics.json").read_text())
        settings = json.loads(json.dumps(_settings(config, fold)))
        return result if all(result[name] == value for name, value in settings.items()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _settings(config: ForensicsConfig, fold: TrainedFold) -> dict[str, Any]:
    """What a fold's result depends on: the flags, and a hash of what training wrote of itself."""
    training = hashlib.sha256(fold.fold.metrics_file.read_bytes()).hexdigest()
    return {"flags": dataclasses.asdict(config), "training": training}


def groups(config: ForensicsConfig, pipeline: isp.Pipeline) -> dict[str, tuple[str, ...]]:
    """The groups to search, by name: each parameter alone, and "all" of them.

    Raises:
        InputError: a name that is no parameter of the pipeline.
    """
    names = tuple(pipeline.parameters())
    known = {"all": names, **{name: (name,) for name in names}}
    for name in config.adv_parameters or ():
        if name not in known:
            hint = "; give --adv_noise_layer, too" if name == ADDITIVE_LAYER else ""
            raise InputError(f"--adv_parameters must be of {', '.join(known)}, got {name!r}{hint}")
    # The interpolation has 81 weights: by itself it is not what a camera's maker sets.
    default = [name for name in known if name != "debayer"]
    return {name: known[name] for name in config.adv_parameters or default}


def _search_fold(config: ForensicsConfig, fold: TrainedFold, folder: pathlib.Path, stop: StopSignals) -> dict[str, Any]:
    model = _searchable(config, fold)
    chosen = groups(config, model.processor)
    plan = list(itertools.product(chosen, config.adv_aux_weight, range(config.starts)))
    searches = [
        Search(chosen[group], weight, seed=config.seed + start, spread=_SPREAD if start else 0.0)
        for group, weight, start in plan
    ]
    frozen = Frozen(model, fold.objective)
    searcher = Searcher(
        frozen,
        direction="worst",
        aux_loss=config.adv_aux_loss,
        learning_rate=config.lr,
        batch_size=config.batch_size,
    )
    drawn = np.random.default_rng(config.seed).permutation(fold.fold.train_indices)[: config.samples]
    raws, targets = map(np.stack, zip(*(fold.dataset[index] for index in drawn.tolist()), strict=True))
    found = searcher.run(searches, raws, targets, config.steps, stop.after_step, folder / "unfinished.npz")
    batches = loader.eval_batches(fold.dataset, fold.fold.valid_indices, config.batch_size)
    default, *measured = Measurer(frozen).measure([frozen.default, *(one.parameters for one in found)], batches)
    rows = _rows(config, plan, default, measured, found)
    result = {
        "score": fold.objective.score,
        "default": {"score": default.score, "loss": default.loss},
        "rows": rows,
        **_settings(config, fold),
        **report.environment(),
    }
    pictures = {"curves": _curves(plan, found)}
    if config.adv_track_differences:
        for group in chosen:
            worst = min((row for row in rows if row["group"] == group), key=lambda row: row["score"])
            pictures[group] = _differences(model, worst["parameters"], raws[: config.track_n_images])
    figures.write(folder, pictures)
    write_json(folder / "forensics.json", result)
    (folder / "unfinished.npz").unlink(missing_ok=True)
    return result


def _searchable(config: ForensicsConfig, fold: TrainedFold) -> RawToLogit:
    """The fold's model, with an additive layer after its pipeline if the flags ask for it."""
    processor = fold.model.processor
    if not isinstance(processor, isp.Pipeline) or not processor.parameters():
        raise InputError(
            f"--run={config.run} was trained with --processing_mode={fold.config.processing_mode}, "
            "which has no processing parameters to search over"
        )
    if not config.adv_noise_layer:
        return fold.model
    raw, _ = fold.dataset[0]
    layer = isp.parametrized(fold.dataset.camera, additive_layer=raw.shape)
    parameters = processor.parameters() | {ADDITIVE_LAYER: layer.parameters()[ADDITIVE_LAYER]}
    return RawToLogit(
        isp.Pipeline([*processor.stages, layer.stages[-1]], parameters), fold.model.normalizer, fold.model.head
    )


def _rows(config, plan, default, measured, found) -> list[dict[str, Any]]:
    """A row for each group and weight: the worst of its starts, and how far the starts lie apart."""
    rows = []
    for group, weight in itertools.product(dict.fromkeys(group for group, _, _ in plan), config.adv_aux_weight):
        places = [place for place, (g, w, _) in enumerate(plan) if (g, w) == (group, weight)]
        worst = min(places, key=lambda place: (measured[place].score, -measured[place].loss))
        scores = [measured[place].score for place in places]
        rows.append(
            {
                "group": group,
                "aux_weight": weight,
                "score": measured[worst].score,
                "drop": default.score - measured[worst].score,
                "loss": measured[worst].loss,
                "ssim": measured[worst].ssim,
                "spread": max(scores) - min(scores),
                "parameters": {name: value.tolist() for name, value in found[worst].parameters.items()},
            }
        )
    return rows


def table(result: dict[str, Any]) -> str:
    """A fold's rows as text."""
    score = result["score"]
    rows = [["group", "weight", f"{score} default", "worst case", "drop", "SSIM", "between starts"]]
    for row in result["rows"]:
        numbers = (result["default"]["score"], row["score"], row["drop"], row["ssim"], row["spread"])
        rows.append([row["group"], f"{row['aux_weight']:g}", *(f"{number:.4f}" for number in numbers)])
    return report.table(rows)


def _curves(plan: list[tuple[str, float, int]], found: list[Found]) -> Figure:
    """Task loss and deviation over the steps, a line for each search, a colour for each group."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    colors = {group: f"C{number}" for number, group in enumerate(dict.fromkeys(group for group, _, _ in plan))}
    for axes, name in zip(figure.subplots(1, 2), ("task_loss", "deviation"), strict=True):
        labels = set()
        for (group, _, _), one in zip(plan, found, strict=True):
            label = None if group in labels else group
            axes.plot(getattr(one, name), color=colors[group], linewidth=0.8, label=label)
            labels.add(group)
        axes.set(xlabel="step", ylabel=name.replace("_", " "))
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def _differences(model: RawToLogit, parameters: dict[str, Any], raws: np.ndarray) -> Image.Image:
    """Pictures of samples: as by default, as in the worst case, and their difference around grey."""
    default = model.processor(raws)
    worst = isp.Pipeline(model.processor.stages, {name: np.array(value) for name, value in parameters.items()})(raws)
    pictures = {}
    for number, images in enumerate(zip(*map(jax.device_get, (default, worst)), strict=True)):
        pictures |= {f"{number} default": images[0], f"{number} worst": images[1]}
        pictures |= {f"{number} difference": 0.5 + (images[1] - images[0]) / 2}
    return contact_sheet(pictures, columns=3)
