"""Counts how attacks end, and prints them as a table: what all attacks share."""

import collections
import dataclasses
import sys

from r2l_jax.runtime.tables import table

SURVIVED, REFUSED, LOST = "survived", "refused", "lost"


@dataclasses.dataclass
class Outcomes:
    """The outcomes of attacks of one kind.

    Attributes:
        attacked: what is attacked, such as a reader or a program.
        counts: how many attacks ended in each way: SURVIVED (a clean result), REFUSED (an error of one line that names
            the file), LOST (anything else).
        losses: for each loss, what happened, and what to repeat it with.
    """

    attacked: str
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    losses: list[str] = dataclasses.field(default_factory=list)

    def add(self, outcome, what=""):
        """Counts one outcome; `what` describes a loss."""
        self.counts[outcome] += 1
        if outcome == LOST:
            self.losses.append(what)

    @property
    def tried(self):
        return sum(self.counts.values())


def show(all_outcomes, file=sys.stdout):
    """Prints a table of outcomes, and the first losses of each kind."""
    rows = [["attacked", "tried", SURVIVED, REFUSED, LOST]]
    for each in all_outcomes:
        rows.append([each.attacked, *(str(number) for number in (each.tried, *_numbers(each)))])
    print(table(rows), file=file)
    for each in all_outcomes:
        for loss in each.losses[:10]:
            print(f"{each.attacked}: {loss}", file=file)


def _numbers(outcomes):
    return [outcomes.counts[outcome] for outcome in (SURVIVED, REFUSED, LOST)]
