"""Files of raw data: raw formats, cameras, tiles, hashes."""
