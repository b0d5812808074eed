"""The documents as a site, built by `make docs`. Sphinx with MyST reads CommonMark as GitHub does, checks every link and anchor, and is installed from PyPI
in seconds; mdBook would have to be compiled, and MkDocs reads lists in its own way."""

project = "Study Governor"
extensions = ["myst_parser"]
root_doc = "index"
myst_heading_anchors = 4
html_theme = "furo"
html_title = "Study Governor"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
