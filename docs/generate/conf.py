"""Sphinx's settings. Nothing here may make a page ask another host."""

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

# A notebook runs again when its cells change; what it prints on stderr (progress) is not shown.
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_execution_excludepatterns: list[str] = []
nb_output_stderr = "remove"
nb_merge_streams = True

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"clipjax {release}"
html_show_search_summary = False  # from disk (file://) a browser lets no script read the pages
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["clipjax.css"]
