"""Models that can be shared, in a folder or on the Hugging Face hub: safetensors, JSON and a model card."""

import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin

from r2l_jax.data.fetch import hub
from r2l_jax.errors import InputError, warn
from r2l_jax.results.environment import environment
from r2l_jax.results.files import replacing, write_json
from r2l_jax.training import run
from r2l_jax.training.model_io import NAME, SHARED, TEST
from r2l_jax.training.run import Run


class SharedRun(Run, ModelHubMixin, library_name="r2l_jax"):
    """A finished run (see `Run`) that `save_pretrained` writes to a folder, and `push_to_hub` to the Hugging Face hub.

    `model_card_kwargs` are what only a person knows, see `cards.SAID`.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike, *, model_card_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> str | None:
        """Writes the model and its card to a folder; the options of `ModelHubMixin.save_pretrained` apply.

        A card that is there is replaced if something is said, unless somebody has edited it and removed its last line.
        A model that was loaded from such a folder, and is unchanged, keeps its card if nothing else is said.
        """
        from r2l_jax.apps.share import cards

        said, folder = model_card_kwargs or {}, pathlib.Path(save_directory)
        card = folder / cards.FILE
        if said and card.exists():
            made = cards.model_card(self, **said)
            if cards.MARK in card.read_text():
                with replacing(card) as part:
                    made.save(part)
            else:
                warn(f"{card} has been edited, and stays as it is")
        if not said.keys() - {"repository"} and not card.exists() and (text := _loaded_card(self)) is not None:
            folder.mkdir(parents=True, exist_ok=True)
            name = said.get("repository")
            with replacing(card) as part:
                part.write_text(re.sub(r'"hf://[^"]+"', f'"hf://{name}"', text) if name else text)
        return super().save_pretrained(folder, model_card_kwargs=said, **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model to the repository "<owner>/<name>", which is made if needed; returns the commit's URL.

        The options of `ModelHubMixin.push_to_hub` apply, such as `private=True`. Log in first: `hf auth login`.
        """
        said = {"repository": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        with hub.in_one_line(f"hf://{repo_id}"):
            return super().push_to_hub(repo_id, model_card_kwargs=said, **options)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]  # no argument passes unnoticed
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        code: str | Sequence[str] = (),
        **options: Any,
    ) -> "SharedRun":
        """Loads a model from a folder, or "<owner>/<name>" from the hub.

        `code` names the Python file of a custom pipeline or head, as for `load`. The options of
        `huggingface_hub.snapshot_download` apply, such as `revision`.
        """
        where = pretrained_model_name_or_path
        if not os.path.isdir(where):
            where = hub.model_folder(f"hf://{str(where).removeprefix('hf://')}", **options)
        return load(where, code=code)

    def generate_model_card(self, *_: Any, **said: Any) -> ModelCard:
        """Writes the model card; `said` are the arguments of `cards.model_card`."""
        # Imported only where a card is written: at the top, this import would make `r2l_jax.load` 1.5 s slower.
        from r2l_jax.apps.share import cards

        return cards.model_card(self, **said)

    def _save_pretrained(self, save_directory: pathlib.Path) -> None:
        from r2l_jax.apps.export.description import described
        from r2l_jax.apps.share import cards
        from r2l_jax.drift import limits
        from r2l_jax.results import result

        if (save_directory / "metrics.json").exists():
            raise InputError(f"{save_directory} is a fold of a run: choose another folder")
        for earlier in save_directory.glob("model*.safetensors"):
            earlier.unlink()
        for number, fold in enumerate(self.folds):
            name = NAME if len(self.folds) == 1 else f"model_{number:03d}.safetensors"
            fold.without_paths().write(save_directory / name)
        write_json(save_directory / SHARED, {"library_name": "r2l_jax", **described(self, {}), **environment()})
        if (score := self.tested) is not None:
            write_json(save_directory / TEST, score._asdict())
        if (envelope := limits.stated(self)) is not None:
            write_json(save_directory / limits.FOLDER / limits.FILE, envelope)
        if (drift := cards.evaluation(self)) is not None:
            known = {name: drift.metadata[name] for name in ("measured", "notes")}
            known["models"] = [fold.identity for fold in self.folds]
            result.write(save_directory / cards.EVALUATION, result.Result(known, {"drops": drift.tables["drops"]}))


def _loaded_card(model: Run) -> str | None:
    """Returns the card in the folder that a model was loaded from, if that holds exactly this model."""
    from r2l_jax.apps.share import cards

    folder = model.folds[0].folder
    if not (folder / SHARED).is_file() or not (folder / cards.FILE).is_file():
        return None
    about = json.loads((folder / SHARED).read_text())
    is_same = [each["identity"] for each in about.get("members", [about])] == [fold.identity for fold in model]
    return (folder / cards.FILE).read_text() if is_same else None


def load(path: str | os.PathLike, *arguments: Any, **options: Any) -> SharedRun:
    """Loads a finished model that can be shared, with the arguments and errors of `r2l_jax.training.run.load`."""
    return SharedRun(run.load(path, *arguments, **options).folds)
