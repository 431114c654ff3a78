"""Dataset drift: the cases that a model is tested on, and the three controls."""
