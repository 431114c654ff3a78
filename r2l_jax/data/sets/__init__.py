"""Data sets: synthetic, published, and folders of your own files."""
