"""Describes a data set of yours for others: Croissant metadata, and a data card.

r2l card --data_dir=my_cells --license=cc-by-4.0 --creator="Jane Doe, Example Hospital"

The data set is a Folder, as for train.py, or a set that synthesize.py has written. Its folder gets croissant.json
(Croissant 1.1), a Folder also croissant.csv (the samples), and README.md, a card in which what nobody has said is to be
filled in. A card that you have edited stays.
"""

import dataclasses

from r2l_jax.cli.flags import setting
from r2l_jax.data.settings import DataSettings
from r2l_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CardConfig(DataSettings):
    """Card."""

    dataset: str = setting("Folder, which --data_dir names", "Folder", choices=("Folder",), rare=True)
    creator: str | None = setting("who owns the data, and how to reach them", None)
    license: str | None = setting("the license, such as cc-by-4.0", None)
    description: str | None = setting("what the data set is, in a sentence; default: made from its content", None)
    citation: str | None = setting("what to cite, best as BibTeX", None)
    collection: str | None = setting("how, where and when the images were taken", None)
    annotation: str | None = setting("who labeled them, and how", None)
    sensitive: str | None = setting("personal or sensitive information in the images, or none", None)
    limitations: str | None = setting("known biases and gaps, and uses that you advise against", None)

    def __post_init__(self):
        super().__post_init__()
        if self.data_dir is None:
            raise InputError("`data_dir` is missing: it names the folder of the data set")


def main(config: CardConfig) -> None:
    """Writes the metadata and the card of the data set that the flags name."""
    import pathlib

    from r2l_jax.apps.share import cards, croissant, data

    root = pathlib.Path(config.data_dir or "")
    found = data.of_folder(config)
    said = {name: getattr(config, name) for name in ("creator", *croissant.SAID)}
    is_new = data.write(root, found, {name: text for name, text in said.items() if text is not None})
    print(f"{root / croissant.FILE}: {len(found.samples)} samples")
    print(f"{root / cards.FILE}: " + ("fill in what it asks for" if is_new else "has been edited, and stays as it is"))
