"""Sphinx's configuration of the site. `make docs` builds it; the pages are the files of docs/."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import navigation  # noqa: E402
import settings_page  # noqa: E402

project = "jackpot"
author = "the jackpot contributors"
root_doc = "docs/index"
# The source folder is the root of the checkout, so that links between pages are the same for a
# reader of the files and for the site.
include_patterns = [f"{page}.md" for page in navigation.documents()] + ["docs/generated/**"]
exclude_patterns = [".*", "runs", "build", "dist", "tests", "sim/**", "**/__pycache__"]
extensions = ["myst_parser"]

myst_heading_anchors = 4  # the anchors that a code host gives
myst_links_external_new_tab = False
smartquotes = False  # a quote in a value and the two hyphens of a flag stay what they are

html_theme = "furo"
html_title = "Jackpot"
html_static_path = ["static"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(app):
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _with_navigation)
    app.connect("html-page-context", _with_picture)


def _write_pages(app):
    folder = ROOT / "docs/generated"
    folder.mkdir(exist_ok=True)
    (folder / "settings.md").write_text(settings_page.page(), encoding="utf-8")


def _with_navigation(app, page, source):
    if page == root_doc:
        source[0] = navigation.toctrees(source[0])


def _with_picture(app, page, template, context, doctree):
    """The files that draw the picture of OBRS, in its page alone."""
    if page == "docs/obrs_picture":
        app.add_css_file("obrs_picture.css")
        for script in ("obrs.js", "obrs_picture.js"):  # deferred ones run in this order
            app.add_js_file(script, loading_method="defer")
