"""Downloading the published data sets, continued where it was interrupted."""
