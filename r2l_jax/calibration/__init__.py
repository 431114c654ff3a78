"""Measures a sensor from dark frames and flat frames: gain, noise, uneven response, and defective sites.

Values are fractions of the white level, as in mosaics, and electrons. All functions hold for any periodic tile of
colors.
"""
