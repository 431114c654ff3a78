"""Describes the session: as values of the page's components, and in words."""

from typing import Any

import numpy as np

from r2l_jax.apps.lab.lab import LEARNED
from r2l_jax.apps.lab.session import Session
from r2l_jax.drift.search.knobs import format_value


def sliders(session: Session) -> list[dict[str, Any]]:
    """Describes the sliders, in groups by stage and in the order of the stages.

    Each has its limits, its position and its value; `slope` is the derivative of the loss relative to the
    steepest slider's, in [-1, 1], and `band` the tolerated interval.
    """
    view = session.view
    if view is None:
        return []
    engine, (low, high) = view.engine, view.engine.limits
    slopes = np.zeros_like(low) if view.judgement is None else view.judgement.slope
    steepest = float(np.abs(slopes).max(initial=0)) or 1.0
    tolerances = session.lab.tolerances if session.pipeline_name == LEARNED else {}
    rows: dict[str, dict[str, Any]] = {}
    for number, (name, knob) in enumerate(engine.knobs.items()):
        position, slope = float(view.positions[number]), float(slopes[number])
        rows[name] = {
            "name": name,
            "label": name.replace("_", " ").replace(".", ", "),
            "text": f"{knob.quantity} {format_value(knob.value(position))}",
            "low": float(low[number]),
            "high": float(high[number]),
            "position": position,
        }
        if slope:
            words = f"the loss rises to the {'right' if slope > 0 else 'left'}: {abs(slope):.2g} per natural range"
            rows[name] |= {"slope": slope / steepest, "slopeTitle": words}
        if name in tolerances:
            band = sorted(map(knob.position, tolerances[name]))
            words = " to ".join(format_value(knob.value(end)) for end in band)
            rows[name] |= {"band": band, "bandTitle": f"tolerated if only this slider moves: {words}"}
    groups = []
    for stage in engine.pipeline.stages:
        knobs = [rows[name] for name, knob in engine.knobs.items() if knob.parameter in stage.parameters]
        fixed = [f"{name}: {engine.fixed[name]} values, frozen" for name in stage.parameters if name in engine.fixed]
        if knobs or fixed:
            groups.append({"stage": stage.name, "knobs": knobs, "note": "; ".join(fixed)})
    return groups


def verdict(session: Session) -> tuple[str, bool | None]:
    """States the model's prediction, such as "now EOS, true LYT: wrong", and returns whether that is right.

    Without a known target, it says whether the prediction is the class that is assumed true. For segmentation, it
    gives the overlap with the mask, which is neither right nor wrong. Without a prediction, the text is empty.
    """
    view, model = session.view, session.lab.model
    if model is None or view is None or view.judgement is None or view.target is None:
        return "", None
    found = view.judgement.found
    if model.task.has_masks:
        name, overlap = model.task.overlap(found, np.asarray(view.target))
        mask = "true mask" if view.target_known else "mask of the default rendering"
        return f"now {name} {overlap:.3f} with the {mask}", None
    now, target = int(found), int(view.target)
    is_right = now == target
    known, words = ("true", ("wrong", "right")) if view.target_known else ("assumed true", ("different", "the same"))
    return f"now {model.classes[now]}, {known} {model.classes[target]}: {words[is_right]}", is_right


def classes(session: Session) -> list[dict[str, Any]]:
    """Describes the probability of each class, or the part of the picture that the object, or each class, covers."""
    view, model = session.view, session.lab.model
    if view is None or view.judgement is None or model is None:
        return []
    if model.task.has_masks:
        shares = {name: float((view.judgement.found == place).mean()) for place, name in enumerate(model.task.classes)}
        return [
            {"name": name, "share": shares[name], "text": f"{100 * shares[name]:.1f} % of the picture"}
            for name in model.classes
        ]
    rows = [
        {"name": name, "share": float(share), "text": f"{100 * share:.1f} %", "target": ""}
        for name, share in zip(model.classes, view.judgement.probabilities, strict=True)
    ]
    if view.target is not None:
        rows[int(view.target)]["target"] = "true" if view.target_known else "assumed true"
    return rows
