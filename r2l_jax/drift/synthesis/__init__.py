"""Drift synthesis: tests models on other renderings of their raw data, and writes such renderings as pictures."""
