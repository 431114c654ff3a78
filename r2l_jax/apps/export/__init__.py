"""Finished models in formats that need neither this package nor the run."""

from r2l_jax.apps.export import samples
from r2l_jax.apps.export.export import Outcome, export_model, report

__all__ = ["Outcome", "export_model", "report", "samples"]
