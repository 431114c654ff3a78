"""Finished models in formats that need neither this package nor the run."""
