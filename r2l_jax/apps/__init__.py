"""Programs around the models: rendering raw files, and turning pictures into raw data."""
