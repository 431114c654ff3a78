"""An earlier home of `contact_sheet`, kept for the code that imports it from here."""

from r2l_jax.runtime.pictures import contact_sheet

__all__ = ["contact_sheet"]
