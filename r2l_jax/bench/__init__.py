"""The benchmark: how fast the library is beside what is in use today."""
