"""Reports: everything in run folders on one self-contained HTML page."""
