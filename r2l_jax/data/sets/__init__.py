"""Data sets: synthetic, published, and folders of the user's own files."""
