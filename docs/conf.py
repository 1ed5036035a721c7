"""The site: pages of docs/, the executed notebooks, and the API from docstrings. `make docs` builds it; warnings are errors.

The source folder is that of the repository, so that links between pages, notebooks and other files are the same on the site and on GitHub.
"""

import os
import sys
from pathlib import Path
from types import ModuleType

os.environ.setdefault("JAXTYPING_DISABLE", "1")  # shapes are shown, not checked
ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

# They take seconds to import, for the base classes of callbacks alone. Empty ones leave these the arguments that they have.
for package, base in {"lightning.pytorch": "Callback", "transformers": "TrainerCallback"}.items():
    sys.modules[package] = ModuleType(package)
    setattr(sys.modules[package], base, type(base, (), {}))

from commands import Commands  # noqa: E402
from docstrings import settings, typeset, unlink  # noqa: E402
from mathml import visit_math, visit_math_block  # noqa: E402

import grassmann_ssl  # noqa: E402

project, author, copyright = (
    "grassmann_ssl",
    "the authors of grassmann_ssl",
    "the authors of grassmann_ssl, MIT licence",
)
release = version = grassmann_ssl.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc"]
root_doc = "docs/index"
include_patterns = ["docs/**", "notebooks/*.ipynb", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "runs"]
nitpicky = True
nitpick_ignore_regex = [("py:(class|exc)", ".*")]  # a type that is no public name is not linked

myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # as executed from their sources by `make notebook`
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_default_options = {"members": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Array": "numpy.ndarray", "ArrayLike": "numpy.typing.ArrayLike"}
python_maximum_signature_line_length = 88
add_module_names = False
highlight_language = "none"
toc_object_entries = False  # every module lists its names

html_theme = "furo"
html_title = "grassmann_ssl"
html_copy_source = html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
templates_path = ["_templates"]
html_additional_pages = {"index": "start.html"}


def setup(app):
    """Docstrings are typeset as they are written here, and equations are MathML, which every browser draws by itself."""
    app.connect("autodoc-process-docstring", typeset)
    app.connect("autodoc-process-signature", settings)
    app.connect("doctree-read", unlink)
    app.add_directive("commands", Commands)
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math_block, None))
