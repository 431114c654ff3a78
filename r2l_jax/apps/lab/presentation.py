"""The contents of the page: the session's pictures by address, and the values of the page's components."""

import secrets
from typing import Any, NamedTuple

import numpy as np

from r2l_jax.apps.lab import drawing
from r2l_jax.apps.lab.lab import LEARNED
from r2l_jax.apps.lab.session import Session
from r2l_jax.drift import results
from r2l_jax.drift.search.knobs import STRENGTH, Knob, format_value

JPEG, PNG = "image/jpeg", "image/png"

# How many pixels from its edges the border of a picture reaches: the study's sharpening and its blur, which spreads it.
_BORDER = 3


class Gallery:
    """Gives each session an address that others cannot guess, and draws the pictures there when a browser asks."""

    def __init__(self):
        self._sessions: dict[str, Session] = {}

    def add(self, session: Session) -> str:
        """Returns the secret part of the addresses of a session's pictures."""
        token = secrets.token_urlsafe(16)
        self._sessions[token] = session
        return token

    def remove(self, token: str) -> None:
        """Forgets a session."""
        self._sessions.pop(token, None)

    def draw(self, token: str, name: str) -> tuple[bytes, str] | None:
        """Draws a picture of a session, and returns its content and media type; may be called in any thread.

        Args:
            token: the result of `add`.
            name: "now", "before", "clipping", "outline", or "strip" for the images after all stages. Other names return
                None.
        """
        session = self._sessions.get(token)
        view = None if session is None else session.view
        if view is None:
            return None
        draft, picture, judgement = view.draft, view.picture, view.judgement
        if name == "now" and draft is not None:
            return drawing.jpeg(draft), JPEG
        if name in ("now", "before"):
            shown = picture if name == "now" else view.before
            return drawing.png(shown.stages.get(view.stage or "", shown.image)), PNG
        if name == "clipping":
            return drawing.clipping(picture), PNG
        if name == "outline" and judgement is not None and judgement.probabilities.ndim > 1:
            return drawing.mask(judgement.probabilities), PNG
        return (drawing.strip(list(picture.stages.values())), JPEG) if name == "strip" else None


def sliders(session: Session) -> list[dict[str, Any]]:
    """Describes the sliders, in groups by stage and in the order of the stages.

    Each has its limits, its position and its value; `slope` is the derivative of the loss relative to the
    steepest slider's, in [-1, 1], and `band` the tolerated interval.
    """
    view = session.view
    if view is None:
        return []
    engine, (low, high) = view.engine, view.engine.limits
    steepest = 0.0 if view.slope is None else float(np.abs(view.slope).max())
    tolerances = session.lab.tolerances if session.choice.pipeline == LEARNED else None
    rows: dict[str, dict[str, Any]] = {}
    for number, (name, knob) in enumerate(engine.knobs.items()):
        position = float(view.positions[number])
        rows[name] = {
            "name": name,
            "label": label(knob),
            "title": f"{name}: {knob.quantity}",
            "text": reading(knob, position),
            "low": float(low[number]),
            "high": float(high[number]),
            "position": position,
        }
        if view.slope is not None and steepest > 0:
            slope = float(view.slope[number])
            way = "right" if slope > 0 else "left"
            words = f"the loss rises to the {way}: {abs(slope):.2g} per range"
            rows[name] |= {"slope": slope / steepest, "slopeTitle": words}
        if tolerances is not None and name in tolerances.knobs:
            rows[name] |= _band(knob, tolerances)
    groups = []
    for stage in engine.pipeline.stages:
        knobs = [rows[name] for name, knob in engine.knobs.items() if knob.parameter in stage.parameters]
        fixed = [f"{name}: {engine.fixed[name]} values, fixed" for name in stage.parameters if name in engine.fixed]
        if knobs or fixed:
            groups.append({"stage": stage.name, "knobs": knobs, "note": "; ".join(fixed)})
    return groups


def _band(knob: Knob, tolerances: results.Tolerances) -> dict[str, Any]:
    """Describes the tolerated interval of a knob."""
    tolerated = tolerances.knobs[knob.name]
    band = sorted(knob.position(end) for end in (tolerated.low, tolerated.high))
    ends = " to ".join(format_value(knob.value(end)) for end in band)
    words = f"tolerated by itself: {ends} (at most {100 * tolerances.tolerance:g} points lost)"
    for where, value in (("below", tolerated.low_failing), ("above", tolerated.high_failing)):
        words += "" if value is None else f"; failure is shown {where} {format_value(value)}"
    return {"band": band, "bandTitle": words}


def label(knob: Knob) -> str:
    """Returns the name of a slider among its stage's sliders, such as "black level, green 2"."""
    parameter, _, element = knob.name.replace("_", " ").partition(".")
    if element:
        return f"{parameter}, {element}"
    return f"{parameter}, all" if _is_joint(knob) else parameter


def _is_joint(knob: Knob) -> bool:
    """Tells whether a knob moves all values of a vector together."""
    return knob.name == knob.parameter and knob.direction.ndim == 1 and knob.direction.size > 1


def reading(knob: Knob, position: float) -> str:
    """Says in words where a slider is, such as "gain 1.9", "each level +0.01" or "unchanged"."""
    value = knob.value(position)
    number, unit = format_value(value).replace("-", "\N{MINUS SIGN}"), knob.facts.unit or "value"
    times = f"\N{MULTIPLICATION SIGN}{number}"
    is_relative = _is_joint(knob) or knob.quantity == STRENGTH
    if is_relative and position == 0:
        return "unchanged"
    if knob.quantity == STRENGTH:
        return "off" if abs(value) < 1e-6 else f"{STRENGTH} {times}"
    if is_relative:
        number, unit = times if knob.facts.scale == "log" else f"+{number}" if value > 0 else number, f"each {unit}"
    # Most units are given in the singular, but some only exist in the plural, such as "pixels".
    return f"{number} {unit}" if unit.endswith("s") else f"{unit} {number}"


class Verdict(NamedTuple):
    """The model's answer in words; `is_right` is None for masks, whose overlap is a number."""

    text: str
    is_right: bool | None = None


def verdict(session: Session) -> Verdict:
    """Says what the model sees now and whether that is right, such as "now EOS, true LYT: wrong".

    Without a known target, it says whether the answer is the class that is taken as true. For segmentation, it is the
    overlap with the mask. There are no words where the model sees nothing.
    """
    view, model = session.view, session.lab.model
    if model is None or view is None or not view.judged or view.judgement is None or view.target is None:
        return Verdict("")
    probabilities = view.judgement.probabilities
    if probabilities.ndim > 1:
        found, target = probabilities > 0.5, np.asarray(view.target) > 0
        either = np.count_nonzero(found | target)
        overlap = np.count_nonzero(found & target) / either if either else 1.0
        mask = "true mask" if view.target_known else "mask at the default"
        return Verdict(f"now IoU {overlap:.3f} with the {mask}")
    now, target = int(probabilities.argmax()), int(view.target)
    is_right = now == target
    known, words = ("true", ("wrong", "right")) if view.target_known else ("taken as true", ("different", "the same"))
    return Verdict(f"now {model.classes[now]}, {known} {model.classes[target]}: {words[is_right]}", is_right)


def classes(session: Session) -> list[dict[str, Any]]:
    """Describes the probability of each class, or the part of the picture that the object covers."""
    view, model = session.view, session.lab.model
    if view is None or view.judgement is None or model is None:
        return []
    probabilities = view.judgement.probabilities
    if probabilities.ndim > 1:
        covered = float((probabilities > 0.5).mean())
        return [{"name": model.classes[0], "share": covered, "text": f"{100 * covered:.1f} % of the picture"}]
    rows = [
        {"name": name, "share": float(share), "text": f"{100 * share:.1f} %", "target": ""}
        for name, share in zip(model.classes, probabilities, strict=True)
    ]
    if view.target is not None:
        rows[int(view.target)]["target"] = "true" if view.target_known else "taken as true"
    return rows


def _inner(pixels: np.ndarray) -> np.ndarray:
    """Leaves out the border of a picture, unless there is nothing else."""
    return pixels[_BORDER:-_BORDER, _BORDER:-_BORDER] if min(pixels.shape) > 2 * _BORDER else pixels


def clipped(session: Session) -> list[tuple[str, str, str]]:
    """Describes the clipped parts of the frame as rows of a color, words and a share.

    Pixels of the picture count but for its border, which the study's sharpening brightens.
    """
    view = session.view
    if view is None:
        return []
    part = view.frame.raw if view.place is None else view.frame.raw[view.place]
    shares = {
        ("#ff3b30", "pixels above white"): _inner(view.picture.above),
        ("#0a84ff", "pixels below black"): _inner(view.picture.below),
        ("transparent", "saturated sites of the sensor"): part >= 1,
    }
    return [(*words, f"{100 * float(chosen.mean()):.2f} %") for words, chosen in shares.items()]
