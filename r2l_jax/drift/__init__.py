"""Dataset drift: what changes images after the fact, to compare with changes of the camera and its processing."""
