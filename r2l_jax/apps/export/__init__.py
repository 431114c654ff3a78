"""Finished models in formats that need neither this package nor the run."""

from r2l_jax.apps.export import samples
from r2l_jax.apps.export.export import FORMATS, Outcome, export_model, report
from r2l_jax.apps.export.parts import PARTS

__all__ = ["FORMATS", "PARTS", "Outcome", "export_model", "report", "samples"]
