"""Sphinx's settings. Nothing here may make a page ask another host."""

import re

import clipjax

project = "clipjax"
author = "The clipjax authors"
project_copyright = author
version = release = clipjax.__version__
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["files/**"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "html_image"]

# A notebook runs again when its cells change (all: rm -r build/docs/notebooks).
nb_execution_mode = "cache"
nb_execution_timeout = 600
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Options", "params_style")]  # of clipjax.evaluate

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

smartquotes = False  # `--data` stays so
default_role = "code"

html_theme = "furo"
html_title = f"clipjax {release}"
html_show_search_summary = False  # from disk (file://) a browser lets no script read the pages
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["clipjax.css"]


def as_rst(app, what, name, thing, options, lines: list[str]) -> None:
    """Make a docstring reStructuredText: an indented example is code, and a bar means nothing."""
    written = list(lines)
    lines.clear()
    last, in_code = "", False
    for line in written:
        begins = line.startswith("    ") and bool(lines) and not lines[-1] and not last.startswith(" ")
        if begins and not in_code:
            lines += ["::", ""]
        in_code = (in_code or begins) and (line.startswith("    ") or not line)
        lines.append(line if in_code else re.sub(r"(``?.*?``?)|\|", lambda found: found[1] or r"\|", line))
        last = line or last


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon's
