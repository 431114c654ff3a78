"""Raw files and pictures on disk: reading them, cutting them into tiles, hashing them."""
