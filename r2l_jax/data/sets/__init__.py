"""Data sets: published, synthetic, and folders of the user's own files."""
