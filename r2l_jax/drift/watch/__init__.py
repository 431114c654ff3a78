"""Watches a camera: notices drift without labels, says what has changed, and what it costs."""
