"""Texts for the terminal: a line for each epoch, tables of the final numbers, and the next commands."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from r2l_jax.config import TrainConfig
from r2l_jax.runtime.commands import command, report_command
from r2l_jax.runtime.tables import table

Row = Mapping[str, Any]


def epoch_line(row: Row, epochs: int, score: str, is_best: bool) -> str:
    """Returns the line that stays of an epoch, at most 80 characters: losses, scores, seconds, and * at the best."""
    parts = [f"epoch {row['epoch'] + 1:>{len(str(epochs))}}/{epochs}"]
    for name in ("loss", score):
        validated = f" val {row[f'val_{name}']:.4f}" if f"val_{name}" in row else ""
        parts.append(f"{name} {row[f'train_{name}']:.4f}{validated}")
    return "  ".join([*parts, f"{row['seconds']:.1f} s", *(["*"] if is_best else [])])


def run_table(results: Sequence[Mapping], summary: Mapping[str, Mapping]) -> str:
    """A run's final numbers: a row for each fold, and mean and standard deviation if there are several."""
    names = list(summary)
    score = names[0]  # of the validation
    rows = [["", *(name.replace("_", " ") for name in names), f"best {score.replace('_', ' ')}"]]
    for fold, result in enumerate(results):
        best = f"{result[f'best_{score}']:.4f} (epoch {result['best_epoch'] + 1})"
        rows.append([f"fold {fold}", *(f"{result[name]:.4f}" for name in names), best])
    if len(results) > 1:
        rows.append(["mean", *(f"{summary[name]['mean']:.4f}" for name in names), ""])
        rows.append(["standard deviation", *(f"{summary[name]['std']:.4f}" for name in names), ""])
    return table(rows)


def class_table(results: Sequence[Mapping]) -> str:
    """The last epoch's validation by class: means over the folds, and the number of samples of all folds.

    Samples of several classes count for each. Folds of earlier versions do not say how many there are.
    """
    metrics = ("precision", "recall", "f1")
    rows = [["class", "samples", *metrics]]
    counts = [result["val_samples"] for result in results if "val_samples" in result]
    for name in results[0]["val_f1"]:
        samples = f"{sum(count[name] for count in counts):.0f}" if len(counts) == len(results) else ""
        means = (sum(result[f"val_{metric}"][name] for result in results) / len(results) for metric in metrics)
        rows.append([name, samples, *(f"{mean:.4f}" for mean in means)])
    return table(rows)


def closing(config: TrainConfig, seconds: float | None) -> str:
    """Says how long training took, where everything is, and which commands come next.

    Args:
        config: the run.
        seconds: how long this call has trained; None if nothing was left to do.
    """
    run = shlex.quote(str(config.run_dir))
    done = "nothing was left to do: the run is complete" if seconds is None else f"trained in {_time(seconds)}"
    lines = [
        f"{done}; results in {config.run_dir}",
        f"curves and pictures:  tensorboard --logdir {shlex.quote(config.tracking.logdir)}",
        f"under drift:          {command('evaluate')} --run={run}",
    ]
    if config.processing.learns_pipeline:
        lines.append(f"what breaks it:       {command('forensics')} --run={run}")
    lines.append(f"all on one page:      {report_command([str(config.run_dir)])}")
    return "\n".join(lines)


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
