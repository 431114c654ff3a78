"""The settings of the documentation site; `sphinx-build -b html docs docs/_build/html` builds it."""

import importlib.util
import pathlib
import sys
import tomllib

sys.path.insert(0, str(pathlib.Path(__file__).parent / "ext"))

_urls = tomllib.loads((pathlib.Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["urls"]

project = "r2l_jax"
author = "the authors of r2l_jax"
html_title = "r2l_jax"
extensions = [
    *("myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"),
    *("sphinx_copybutton", "sphinx_design", "coverage_check", "docstrings"),
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]  # The page of a module, which autosummary writes.

html_theme = "sphinx_book_theme"
html_theme_options = {
    "show_toc_level": 2,
    "navbar_persistent": [],
    "icon_links": [{"name": "Repository", "url": _urls["Repository"], "icon": "fa-solid fa-code-branch"}],
}
html_static_path = ["_static"]
html_css_files = ["custom.css"]

# Notebooks run when the site is built; the one on PyTorch only where it is installed.
nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_execution_excludepatterns = [] if importlib.util.find_spec("torch") else ["notebooks/pytorch.md"]
nb_merge_streams = True
nb_output_stderr = "remove"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]  # For the cards of the front page.

# Docstrings are in Google's style, and `name` in them links to the entry of that name.
default_role = "py:obj"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # The signature has them.

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

# Every public name of these packages needs an entry, as does every one of the modules that the API reference names.
coverage_packages = ["isp", "tasks"]
