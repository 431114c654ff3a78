"""Reports: one self-contained HTML page of everything that the folders of runs hold."""
