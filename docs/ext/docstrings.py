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
from sphinx.ext.autodoc.preserve_defaults import update_defvalue
from sphinx.util import rst

from isp.filter import Scalar
from r2l_jax.cli.flags import Settings, leaves

_CODE = re.compile(r"(?<![`:])`([^`]+)`(?!`)")
_COLON = "\ue000"  # a character that no docstring uses
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
    """Turns code that is not a name into a literal, in place; code may continue in the next line."""
    lines[:] = _CODE.sub(_marked, "\n".join(lines)).split("\n")
    if what in ("property", "attribute") and lines:
        # Napoleon would take the beginning of the first line, up to a colon, for a type.
        lines[0] = lines[0].replace(":", _COLON)


def restore_colons(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Puts back the colons that `mark_code` hid from Napoleon, in place."""
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def _marked(match: re.Match[str]) -> str:
    return match.group() if _NAME.fullmatch(match[1]) else f"``{match[1]}``"


def cut_settings(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Leaves the settings of a control out of its docstring, in place: the pages of settings describe them."""
    if name.startswith("r2l_jax.controls.") and "Settings:" in lines:
        del lines[lines.index("Settings:") :]


def list_settings(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Adds the help of its flags to the docstring of the settings dataclass that declares them, in place."""
    if inspect.isclass(obj) and issubclass(obj, Settings) and obj is not Settings:
        own = [leaf for leaf in leaves(obj) if leaf.name in obj.__annotations__ and leaf.declared.help]
        lines.extend(["", *(f":ivar {leaf.name}: {rst.escape(leaf.declared.help)}" for leaf in own), ""])


def shorten_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Returns the signature with types as the source has them, and that of `__init__` for a Flax module."""
    if inspect.isclass(obj) and signature and signature.startswith("(*args: "):
        update_defvalue(app, obj.__init__, bound_method=False)
        constructor = sphinx.util.inspect.signature(obj.__init__, bound_method=True)
        signature = sphinx.util.inspect.stringify_signature(
            constructor, show_return_annotation=False, unqualified_typehints=True
        )
        returns = None
    return _shortened(signature), _shortened(returns)


def _shortened(text: str | None) -> str | None:
    if text is None:
        return None
    for written_out, alias in _ALIASES.items():
        text = text.replace(written_out, alias)
    # Sphinx parses a default of "...", but not "<factory>".
    return text.replace("jaxlib._jax.", "").replace("<factory>", "...")


def skip_aliases(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Leaves out the fields of named tuples, which their class describes under "Attributes"."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Connects the functions."""
    app.connect("autodoc-process-docstring", cut_settings, priority=300)
    app.connect("autodoc-process-docstring", mark_code, priority=400)  # before Napoleon
    app.connect("autodoc-process-docstring", restore_colons)
    app.connect("autodoc-process-docstring", list_settings)
    app.connect("autodoc-process-signature", shorten_types)
    app.connect("autodoc-skip-member", skip_aliases)
    return {"parallel_read_safe": True}
