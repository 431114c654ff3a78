"""Runs the exported model on samples.npz with only numpy and onnxruntime."""

import json
import pathlib

import numpy as np
import onnxruntime

folder = pathlib.Path(__file__).parent
model, samples = json.loads((folder / "model.json").read_text()), np.load(folder / "samples.npz")
for name, part in model["parts"].items():
    if "onnx" not in part["files"]:
        continue
    session = onnxruntime.InferenceSession(folder / part["files"]["onnx"]["file"])
    given, taken = samples[part["input"]["name"]], part["output"]["name"]
    (found,) = session.run([taken], {part["input"]["name"]: given})
    print(f"{name}: {given.shape} -> {found.shape}, difference {np.abs(found - samples[taken]).max():.1e}")
    if taken != "images" and model["task"] == "classification":
        odds = np.exp(found - found.max(-1, keepdims=True)) if taken == "logits" else found
        for row in odds / odds.sum(-1, keepdims=True):
            print(f"  {model['classes'][row.argmax()]}: {row.max():.3f}")
