"""Sphinx's configuration of the site. `make docs` builds it; the pages are the files of docs/."""

import inspect
import operator
import sys
from pathlib import Path

from sphinx.ext.autodoc.mock import mock, undecorate
from sphinx.util.inspect import stringify_signature

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import navigation  # noqa: E402
import reference  # noqa: E402
import settings_page  # noqa: E402

project = "jackpot"
author = "the jackpot contributors"
root_doc = "docs/index"
# The source folder is the root of the checkout, so that links between pages are the same for a
# reader of the files and for the site.
include_patterns = [f"{page}.md" for page in navigation.documents()] + ["docs/generated/**"]
exclude_patterns = [".*", "runs", "build", "dist", "tests", "sim/**", "**/__pycache__"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

myst_heading_anchors = 4  # the anchors that a code host gives
myst_links_external_new_tab = False
smartquotes = False  # a quote in a value and the two hyphens of a flag stay what they are

# The environment of the site has none of these; Sphinx puts stand-ins in their place.
autodoc_mock_imports = ["array_api_compat", "hypothesis", "mpmath", "numpy", "scipy", "trl"]
autodoc_mock_imports += ["torch"]
with mock(["numpy", "torch"]):
    import numpy
    import torch
# These decorate functions, whose signatures and source are to be seen.
for module, name in ((torch, "no_grad"), (numpy, "errstate")):
    setattr(module, name, lambda **options: lambda function: function)
sys.modules |= {"numpy": numpy, "torch": torch}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
nitpick_ignore_regex = [
    # Types of other projects, whose pages need a network
    ("py:.*", r"(torch|numpy|np|trl|collections|fractions|typing|st)\..*|Path|Fraction|F|b"),
    # Names that a module gives to types, and classes of settings, which have a page of their own
    ("py:class", r"Array|ArrayLike|Row|Pair|Gather|Chunk|Kind|Divergence|Baseline|Accounting"),
    ("py:class", r"Settings|[A-Z]\w*Config"),
]

html_theme = "furo"
html_title = "Jackpot"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def setup(app):
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _with_navigation)
    app.connect("html-page-context", _with_picture)
    app.connect("autodoc-process-docstring", _as_rst, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("viewcode-follow-imported", _source_module)


def _write_pages(app):
    folder = ROOT / "docs/generated"
    folder.mkdir(exist_ok=True)
    pages = {"settings.md": settings_page.page()}
    pages |= {f"{name}.rst": reference.text(page) for name, page in reference.PAGES.items()}
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def _as_rst(app, what, name, obj, options, lines):
    lines[:] = "\n".join(reference.rst_lines(lines)).splitlines()


def _signature(app, what, name, obj, options, args, returned):
    """Types as the source names them: Array, and not what it stands for."""
    if what not in ("function", "method"):
        return None
    own = inspect.signature(undecorate(obj))
    if what == "method" and not inspect.ismethod(obj):
        own = own.replace(parameters=list(own.parameters.values())[1:])
    arguments = stringify_signature(own, show_return_annotation=False)
    return arguments, None if own.return_annotation is own.empty else own.return_annotation


def _skip(app, what, name, obj, skip, options):
    generated = (obj.__doc__ or "").startswith("Alias for field number")
    return True if generated else None


def _source_module(app, module, name):
    """The module that defines an object. A decorator of a stand-in hides it from viewcode."""
    if not module:
        return None
    try:
        return undecorate(operator.attrgetter(name)(sys.modules[module])).__module__
    except AttributeError:  # an attribute of instances alone
        return None


def _with_navigation(app, page, source):
    if page == root_doc:
        source[0] = navigation.toctrees(source[0])


def _with_picture(app, page, template, context, doctree):
    """The files that draw the picture of OBRS, in its page alone."""
    if page == "docs/obrs_picture":
        app.add_css_file("obrs_picture.css")
        for script in ("obrs.js", "obrs_picture.js"):  # deferred ones run in this order
            app.add_js_file(script, loading_method="defer")
