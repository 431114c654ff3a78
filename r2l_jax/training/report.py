"""Tables of a run's numbers for people to read."""

from collections.abc import Mapping, Sequence

from r2l_jax.runtime.tables import table


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
