"""The contents of the page: the session's pictures by address, and the values of the page's components."""

import secrets
from typing import Any

import numpy as np

from r2l_jax.apps.lab import drawing, pipelines
from r2l_jax.apps.lab.session import Session
from r2l_jax.drift.search.knobs import Knob, format_value

JPEG, PNG = "image/jpeg", "image/png"


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
            name: "now", "before", "clipping", "outline", or "strip" for the images after all stages. Others are None.
        """
        session = self._sessions.get(token)
        if session is None or session.view is None or session.picture is None:
            return None
        draft, picture, judgement = session.draft, session.picture, session.judgement
        if name == "now":
            if draft is not None:
                return drawing.jpeg(draft), JPEG
            return drawing.png(picture.stages.get(session.stage or "", picture.image)), PNG
        if name == "before":
            before = session.view.before
            return drawing.png(before.stages.get(session.stage or "", before.image)), PNG
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
    engine, (low, high) = view.engine, view.engine.limits()
    steepest = 0.0 if session.slope is None else float(np.abs(session.slope).max())
    tolerances = session.lab.tolerances if session.pipeline_name == pipelines.LEARNED else None
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, (name, knob) in enumerate(engine.knobs.items()):
        position = float(session.positions[number])
        row = {
            "name": name,
            "label": label(knob),
            "title": f"{name}: {knob.quantity}",
            "value": format_value(knob.value(position)),
            "unit": knob.quantity,
            "low": float(low[number]),
            "high": float(high[number]),
            "position": position,
        }
        if session.slope is not None and steepest > 0:
            slope = float(session.slope[number])
            way = "right" if slope > 0 else "left"
            row |= {"slope": slope / steepest, "slopeTitle": f"the loss rises to the {way}: {abs(slope):.2g} per range"}
        if tolerances is not None and (tolerated := tolerances.knobs.get(name)) is not None:
            band = sorted(knob.position(end) for end in (tolerated.low, tolerated.high))
            ends = " to ".join(format_value(knob.value(end)) for end in band)
            points = f"{100 * tolerances.tolerance:g} points"
            row |= {"band": band, "bandTitle": f"tolerated by itself: {ends} (at most {points} lost)"}
        groups.setdefault(engine.stage_of[name], []).append(row)
    return [
        {"stage": stage, "knobs": groups.get(stage, []), "note": _note(session, stage)}
        for stage in engine.pipeline.stage_names
        if stage in groups or _note(session, stage)
    ]


def label(knob: Knob) -> str:
    """Returns the name of a slider among its stage's sliders, such as "white balance, red"."""
    parameter, _, element = knob.name.partition(".")
    name = parameter.replace("_", " ")
    if element:
        return f"{name}, {element.replace('_', ' ')}"
    return f"{name}, all" if knob.direction.ndim == 1 and knob.direction.size > 1 else name


def classes(session: Session) -> list[dict[str, Any]]:
    """Describes the probability of each class, or the part of the picture that the object covers."""
    judgement, model = session.judgement, session.lab.model
    if judgement is None or model is None:
        return []
    if judgement.probabilities.ndim > 1:
        covered = float((judgement.probabilities > 0.5).mean())
        return [{"name": model.classes[0], "share": covered, "text": f"{100 * covered:.1f} % of the picture"}]
    target = -1 if session.target is None else int(session.target)
    word = "true" if session.target_known else "taken as true"
    return [
        {
            "name": name,
            "share": float(share),
            "text": f"{100 * share:.1f} %",
            "target": word if number == target else "",
        }
        for number, (name, share) in enumerate(zip(model.classes, judgement.probabilities, strict=True))
    ]


def clipped(session: Session) -> list[tuple[str, str, str]]:
    """Describes the clipped parts of the frame as rows of a color, words and a share."""
    picture, view, frame = session.picture, session.view, session.frame
    if picture is None or view is None or frame is None:
        return []
    part = frame.raw if view.place is None else frame.raw[view.place]
    return [
        ("#ff3b30", "pixels above white", _percent(picture.above)),
        ("#0a84ff", "pixels below black", _percent(picture.below)),
        ("transparent", "saturated sites of the sensor", _percent(part >= 1)),
    ]


def _percent(chosen: np.ndarray) -> str:
    return f"{100 * float(chosen.mean()):.2f} %"


def _note(session: Session, stage: str) -> str:
    """Names the parameters of a stage that are not tuned by hand."""
    assert session.view is not None
    engine = session.view.engine
    of_stage = next(each for each in engine.pipeline.stages if each.name == stage)
    fixed = [f"{name}: {engine.fixed[name]} values, fixed" for name in of_stage.parameters if name in engine.fixed]
    return "; ".join(fixed)
