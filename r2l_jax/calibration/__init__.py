"""Measures a sensor from dark frames and flat frames: gain, noise, uneven response, and defective sites.

Values are in electrons, or fractions of the white level as in raw images. All functions accept any color filter array.
"""
