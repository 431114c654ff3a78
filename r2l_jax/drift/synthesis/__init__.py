"""Drift synthesis: testing models on other renderings, and writing such data."""
