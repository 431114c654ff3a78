"""Data sets: synthetic, published, and folders of your files."""
