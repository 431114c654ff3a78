"""Counts how attacks end, and prints them as a table."""

import collections
import dataclasses

from r2l_jax.runtime.tables import table

# A clean result, an error of one line that names the file, and anything else.
ENDS = SURVIVED, REFUSED, LOST = "survived", "refused", "lost"


@dataclasses.dataclass
class Outcomes:
    """The outcomes of attacks of one kind.

    Attributes:
        attacked: the name of the attacked reader or program.
        counts: how many attacks ended in each way.
        losses: a description of each loss, from which it can be repeated.
    """

    attacked: str
    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    losses: list[str] = dataclasses.field(default_factory=list)

    def add(self, outcome, description=""):
        """Counts one outcome, and keeps the description of a loss."""
        self.counts[outcome] += 1
        if outcome == LOST:
            self.losses.append(description)


def show(all_outcomes):
    """Prints a table of outcomes, and the first losses of each kind."""
    rows = [
        [each.attacked, *(str(number) for number in (each.counts.total(), *(each.counts[end] for end in ENDS)))]
        for each in all_outcomes
    ]
    print(table([["attacked", "tried", *ENDS], *rows]))
    for each in all_outcomes:
        for loss in each.losses[:10]:
            print(f"{each.attacked}: {loss}")
