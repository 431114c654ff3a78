"""Programs for raw files and finished models: rendering, unprocessing, calibration, prediction and export."""
