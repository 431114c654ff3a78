"""Raw files and pictures on disk: reading, cutting into tiles, and hashing."""
