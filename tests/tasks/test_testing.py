import jax.numpy as jnp
import numpy as np
import pytest

from r2l_jax.model.scores import Score, find_score
from r2l_jax.model.tasks.classification import Classification
from r2l_jax.model.tasks.segmentation import Segmentation
from tasks.testing import check_task

RANDOM = np.random.default_rng(0)
LABELS = {"target": jnp.asarray(RANDOM.integers(0, 3, 8)), "weight": jnp.ones(8)}
LOGITS = jnp.asarray(RANDOM.normal(size=(8, 3)), jnp.float32)
CLASSIFIED = Classification(("a", "b", "c"), "resnet18")


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "macro_f1", "mean_iou", "iou:b", "auroc:b"])
def test_classification_keeps_the_laws(name):
    task = CLASSIFIED.scored_by(find_score(name, CLASSIFIED.classes, Classification.known_scores))
    check_task(task, LOGITS, LABELS)


@pytest.mark.parametrize("name", ["iou", "mean_iou", "accuracy", "balanced_accuracy", "macro_f1"])
def test_segmentation_keeps_the_laws(name):
    task = Segmentation(("background", "car"), "resnet18")
    task = task.scored_by(find_score(name, task.classes, Segmentation.known_scores))
    masks = jnp.asarray(RANDOM.integers(0, 2, (8, 4, 6)))
    check_task(
        task, jnp.asarray(RANDOM.normal(size=(8, 4, 6, 1)), jnp.float32), {"target": masks, "weight": jnp.ones(8)}
    )


@pytest.mark.parametrize("name", ["mean_iou", "iou:b", "accuracy", "balanced_accuracy", "macro_f1"])
def test_segmentation_of_classes_keeps_the_laws(name):
    task = Segmentation(("a", "b", "c"), "resnet18", several=True)
    task = task.scored_by(find_score(name, task.classes, task.known_scores))
    masks = jnp.asarray(RANDOM.choice([0, 1, 2, 255], (8, 4, 6)))
    logits = jnp.asarray(RANDOM.normal(size=(8, 4, 6, 3)), jnp.float32)
    check_task(task, logits, {"target": masks, "weight": jnp.ones(8)})


class Unweighted(Score):
    def __call__(self, outcome, weights):
        return np.broadcast_to((outcome["predicted"] == outcome["target"]).mean(), weights.shape[:-1])


class Ordered(Score):
    def __call__(self, outcome, weights):
        right = (outcome["predicted"] == outcome["target"]) * np.linspace(0, 1, len(outcome["target"]))
        return weights @ right / weights.sum(-1)


class OneByOne(Score):
    def __call__(self, outcome, weights):
        return np.average(outcome["predicted"] == outcome["target"], weights=weights.reshape(-1, weights.shape[-1])[0])


class Padded(Classification):
    def loss(self, logits, batch):
        return self.outcome(logits, batch)["loss"].mean()


@pytest.mark.parametrize(
    ("task", "law"),
    [
        (CLASSIFIED.scored_by(Unweighted("unweighted")), "taking it twice"),
        (CLASSIFIED.scored_by(Ordered("ordered")), "changes the score"),
        (CLASSIFIED.scored_by(OneByOne("one")), "several times at once"),
        (Padded(("a", "b", "c"), "resnet18"), "padding changes the loss"),
    ],
)
def test_a_task_that_breaks_a_law_is_found(task, law):
    with pytest.raises(AssertionError, match=law):
        check_task(task, LOGITS, LABELS)
