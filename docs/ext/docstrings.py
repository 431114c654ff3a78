"""Makes docstrings and signatures readable on the site, without a change to the source.

In docstrings, `name` is code, and a link where `name` is described on the site. reStructuredText would take any other
code in single backticks, such as `(..., H, W)` or `<file>.py:<function>`, for markup.
"""

import inspect
import re

import jax.typing
import jaxtyping
import sphinx.util.inspect
import sphinx.util.typing
from sphinx.application import Sphinx

from isp._engine.windows import Scalar

_CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")
_NAME = re.compile(r"[A-Za-z_][\w.]*\w(\(\))?")

# Aliases that Sphinx would write out, which takes several lines each.
_ALIASES = {
    sphinx.util.typing.stringify_annotation(alias, "smart"): name
    for name, alias in {
        "ArrayLike": jax.typing.ArrayLike,
        "PRNGKeyArray": jaxtyping.PRNGKeyArray,
        "Scalar": Scalar,
    }.items()
}


def mark_code(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turns code that is no name into a literal, in place; code may go on in the next line."""
    lines[:] = _CODE.sub(_marked, "\n".join(lines)).split("\n")
    if what in ("property", "attribute"):
        # Napoleon takes the beginning of the first line, up to a colon, for a type.
        lines.insert(0, "")


def _marked(match: re.Match[str]) -> str:
    return match.group() if _NAME.fullmatch(match[1]) else f"``{match[1]}``"


def shorten_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Returns the signature with types as the source has them, and that of `__init__` for a Flax module."""
    if inspect.isclass(obj) and signature and signature.startswith("(*args: "):
        constructor = sphinx.util.inspect.signature(obj.__init__, bound_method=True)
        signature = sphinx.util.inspect.stringify_signature(constructor, unqualified_typehints=True)
        returns = None
    return _shortened(signature), _shortened(returns)


def _shortened(text: str | None) -> str | None:
    if text is None:
        return None
    for written_out, alias in _ALIASES.items():
        text = text.replace(written_out, alias)
    return text.replace("jaxlib._jax.", "")


def skip_aliases(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leaves out the fields of named tuples, which their class describes under "Attributes"."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the functions."""
    app.connect("autodoc-process-docstring", mark_code)
    app.connect("autodoc-process-signature", shorten_types)
    app.connect("autodoc-skip-member", skip_aliases)
    return {"parallel_read_safe": True}
