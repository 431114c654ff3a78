"""The benchmark: the speed of this library beside the programs in use today."""
