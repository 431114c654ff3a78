"""Raw data: files, data sets, splits and batches."""

from r2l_jax.data.files.rawfile import read_raw

__all__ = ["read_raw"]
