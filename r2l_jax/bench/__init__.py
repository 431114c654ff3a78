"""The benchmark: the speed of this library compared with widely used programs."""
