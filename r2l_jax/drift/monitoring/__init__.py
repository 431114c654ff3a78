"""Monitors a camera: detects drift without labels, diagnoses it, and estimates its cost."""
