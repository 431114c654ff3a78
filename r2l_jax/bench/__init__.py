"""The benchmark: the speed of this library beside that of the programs in use today."""
