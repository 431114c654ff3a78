import json
import pathlib
import subprocess
import sys

import huggingface_hub
import jax
import numpy as np
import pytest
from fake_hub import FakeHub
from flax import nnx
from huggingface_hub import constants
from servers import serving

import r2l_jax
from r2l_jax.errors import InputError


@pytest.fixture(scope="module")
def model(one_epoch):
    return r2l_jax.load(one_epoch.run_dir)


@pytest.fixture
def raws(model):
    return np.random.default_rng(0).uniform(0, 1, (3, *model.shape)).astype(np.float32)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An empty hub, and an empty cache."""
    server = FakeHub()
    with serving(server.answer) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        server.url = url
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server
    huggingface_hub.close_session()


def push(model, server, name="me/cells", **options):
    """Pushes a model to the hub of the test, which the library would find only in the environment at its import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "ENDPOINT", server.url)
        return model.push_to_hub(name, **options)


def test_a_saved_model_predicts_alike_and_names_no_folder_of_its_maker(model, raws, tmp_path):
    model.save_pretrained(tmp_path / "cells")
    files = {path.relative_to(tmp_path / "cells").as_posix(): path for path in (tmp_path / "cells").rglob("*")}
    assert files.keys() == {"model.safetensors", "config.json", "README.md"}
    assert pathlib.Path(model.config.tracking.logdir).is_absolute()
    for name, path in files.items():
        assert model.config.tracking.logdir.encode() not in path.read_bytes(), name
        assert model.config.data.data_dir.encode() not in path.read_bytes(), name
    for found in (type(model).from_pretrained(tmp_path / "cells"), r2l_jax.load(tmp_path / "cells")):
        assert found.identity == model.identity
        np.testing.assert_array_equal(found.predict(raws), model.predict(raws))
    about = json.loads(files["config.json"].read_text())
    assert (about["library_name"], about["classes"]) == ("r2l_jax", [*model.classes])
    assert about["score"] == {"name": "accuracy", "value": model.score, "samples": "validation"}


def test_a_model_goes_to_the_hub_and_comes_back(model, raws, server, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    said = {"license": "mit", "authors": "Jane Doe"}
    url = push(model, server, private=True, model_card_kwargs=said)
    (commit,) = server.commits
    assert url.endswith(f"/me/cells/commit/{commit}")
    assert server.commits[commit].keys() == {"model.safetensors", "config.json", "README.md"}
    card = huggingface_hub.ModelCard(server.commits[commit]["README.md"].decode())
    assert (card.data.library_name, card.data.license) == ("r2l_jax", "mit")
    assert 'r2l_jax.load("hf://me/cells")' in card.text
    for found in (r2l_jax.load("hf://me/cells"), type(model).from_pretrained("me/cells", revision="main")):
        np.testing.assert_array_equal(found.predict(raws), model.predict(raws))
    assert server.tokens == {"Bearer hf_mine"}
    assert capfd.readouterr().err == ""  # No progress bar, which is for terminals.
    # Without a network, the copy in the cache is used.
    server.status = 503
    assert r2l_jax.load("hf://me/cells@main").identity == model.identity


def test_revisions_are_models_of_their_own(model, server):
    push(model, server)
    changed = type(model)([fold.adapted(fold.model, {"by": "hand"}) for fold in model])
    push(changed, server, branch="adapted")
    assert r2l_jax.load("hf://me/cells").about.adapted is None
    assert r2l_jax.load("hf://me/cells@adapted").about.adapted["by"] == "hand"


def test_files_of_strangers_are_not_downloaded_but_arrays_and_json(model, server):
    push(model, server)
    (commit,) = server.commits
    server.commits[commit] |= {"modeling.py": b"raise SystemExit", "model.pkl": b"\x80", "config.json": b'{"folds": 1}'}
    assert r2l_jax.load("hf://me/cells").identity == model.identity
    fetched = {path.split("/", 5)[-1] for path in server.asked if "/resolve/" in path}
    assert fetched == {"model.safetensors", "config.json"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hf://me/cells", "not found, or private: check the name, and log in with `hf auth login`"),
        ("hf://me/cells@v2", "it has no such revision"),
        ("hf://cells of mine", "a model on the hub is hf://<owner>/<name> or hf://<owner>/<name>@<revision>"),
        ("hf://me/cells@empty", "must contain a model.safetensors, as save_pretrained writes it"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_line(name, reason, server):
    if "@" in name:
        server.commits["0" * 40] = {"README.md": b"", "config.json": b"{}"}
        server.branches |= {"main": "0" * 40, "empty": "0" * 40}
    with pytest.raises(InputError) as error:
        r2l_jax.load(name)
    assert str(error.value) in (f"{name}: {reason}", f"{name} {reason}")


def test_without_a_network_or_permission_the_reason_is_one_line(model, server, monkeypatch):
    with pytest.raises(InputError, match=r"^hf://a b: a model on the hub is hf://<owner>/<name>"):
        push(model, server, "a b")
    server.status = 403
    with pytest.raises(
        InputError, match=r"^hf://me/cells: HTTP 403: log in with `hf auth login`, with a token that allows this$"
    ):
        push(model, server)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"^hf://me/cells: the hub cannot be reached, and no copy is in the cache$"):
        r2l_jax.load("hf://me/cells")
    server.url = "http://127.0.0.1:9"
    with pytest.raises(InputError, match=r"^hf://me/cells: .*refused"):
        push(model, server)


def test_an_ensemble_is_saved_with_all_members_and_replaces_an_earlier_model(model, raws, tmp_path):
    (fold,) = model.folds
    other = fold.adapted(fold.model, {"by": "hand"})
    model.save_pretrained(tmp_path)
    type(model)([fold, other]).save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.glob("*.safetensors")} == {"model_000.safetensors", "model_001.safetensors"}
    found = r2l_jax.load(tmp_path)
    assert [each.about.adapted is None for each in found] == [True, False]
    np.testing.assert_allclose(found.predict(raws), model.predict(raws), atol=1e-6)


def test_the_filled_in_card_of_a_loaded_model_goes_with_the_same_model_unless_more_is_said(model, server, tmp_path):
    model.save_pretrained(tmp_path / "first", model_card_kwargs={"authors": "Jane Doe", "license": "mit"})
    card, loaded = (tmp_path / "first/README.md").read_text(), r2l_jax.load(tmp_path / "first")
    loaded.save_pretrained(tmp_path / "second")
    assert (tmp_path / "second/README.md").read_text() == card
    push(loaded, server)
    (pushed,) = server.commits.values()
    assert pushed["README.md"].decode() == card.replace("hf://<owner>/one_epoch", "hf://me/cells")
    loaded.save_pretrained(tmp_path / "third", model_card_kwargs={"authors": "John Doe"})
    said = (tmp_path / "third/README.md").read_text()
    assert "John Doe" in said
    assert "Jane Doe" not in said
    # A changed model does not take over the card of the model that it was loaded as.
    (fold,) = loaded.folds
    graph, values = nnx.split(fold.model)
    other = nnx.merge(graph, jax.tree.map(lambda array: array / 2, values))
    type(loaded)([fold.adapted(other, {"by": "hand"})]).save_pretrained(tmp_path / "fourth")
    assert "Jane Doe" not in (tmp_path / "fourth/README.md").read_text()


def test_a_fold_of_a_run_is_not_overwritten(model):
    with pytest.raises(InputError, match="is a fold of a run: choose another folder"):
        model.save_pretrained(model.folds[0].folder)


@pytest.mark.slow
def test_importing_the_package_does_not_import_the_hub():
    code = "import r2l_jax, sys; print([each for each in sys.modules if 'hugging' in each or each == 'httpx'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
