"""Monitors a camera: detects drift without labels, says what has changed, and what it costs."""
