"""The scores that the study has published, to compare with: `published_scores.json`, which names its source.

L. Oala et al., "Data models for dataset drift controls in machine learning with optical images", TMLR (2023).
"""

import importlib.resources

import msgspec


class Tables(msgspec.Struct, frozen=True):
    """The mean scores over the folds of models of a data set.

    Attributes:
        score: the score in words.
        processing_drift: for each pipeline that models were trained with, the scores under each pipeline.
        corruption: for each pipeline that models were trained with, the scores under each corruption.
    """

    score: str
    processing_drift: list[list[float]]
    corruption: list[list[float]]


class Attacks(msgspec.Struct, frozen=True):
    """The accuracies in the worst cases that searches found.

    Attributes:
        data: the data set.
        epochs: the length of the searches.
        aux_loss: the measure of the distance from the default rendering.
        default_accuracy: the accuracy before.
        accuracy_at_lambda: for each group of parameters that were searched, the accuracy at each weight of the
            distance, by the weight as it is written; or a remark in words.
    """

    data: str
    epochs: int
    aux_loss: str
    default_accuracy: float
    accuracy_at_lambda: dict[str, dict[str, float] | str]


class Ends(msgspec.Struct, frozen=True):
    """The scores at the end of training, with the processing learned and frozen."""

    learned: float
    frozen: float


class Learning(msgspec.Struct, frozen=True):
    """The comparison of learned with frozen processing, at an intensity in words, for each data set."""

    intensity: str
    epochs: int
    microscopy: Ends
    drone_segmentation: Ends


class Study(msgspec.Struct, frozen=True):
    """The numbers of the study.

    Attributes:
        source: where the numbers were published, and how exact they are.
        pipelines: the rows of all tables and the columns of processing drift, as in `isp.PUBLISHED_STATIC`. The study's
            program ran them as in `isp.AS_PUBLISHED_STATIC`.
        corruptions: the columns under corruptions.
        severity: the severity of the corruptions.
        folds: the number of folds that scores are the mean of.
        microscopy: the scores of Raw-Microscopy.
        drone_segmentation: the scores of Raw-Drone.
        forensics: the searches for the worst processing.
        learning: the comparison of learned with frozen processing.
    """

    source: str
    pipelines: list[str]
    corruptions: list[str]
    severity: int
    folds: int
    microscopy: Tables
    drone_segmentation: Tables
    forensics: Attacks
    learning: Learning


def published() -> Study:
    """Reads the numbers of the study."""
    content = importlib.resources.files("r2l_jax.drift").joinpath("published_scores.json").read_bytes()
    return msgspec.json.decode(content, type=Study)
