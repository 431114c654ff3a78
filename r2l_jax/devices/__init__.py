"""Devices: placing arrays, compiling, and connecting the processes of several hosts."""
