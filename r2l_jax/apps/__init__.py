"""Programs for pictures and raw files: rendering raw files, and turning pictures into raw data."""
