"""Sphinx: the guide, the pillar reference, and the module reference from docstrings."""

import configparser
import sys
import types
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO))
# Import nothing into the tree that Salt's file server serves.
sys.dont_write_bytecode = True

import saltext.sshd_mfa  # noqa: E402

# The modules lie in plain folders; here they get the names that they have in the wheel.
for _loader_type, (_folder,) in saltext.sshd_mfa.loader_dirs().items():
    _package = types.ModuleType(f"saltext.sshd_mfa.{_loader_type}")
    _package.__path__ = [_folder]
    sys.modules[_package.__name__] = _package

_setup = configparser.ConfigParser()
_setup.read(REPO / "setup.cfg")

project = "sshd_mfa"
author = _setup["metadata"]["author"]
version = release = _setup["metadata"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build", "guide/_*.md"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_mock_imports = ["salt"]
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
add_module_names = False

html_theme = "furo"
html_title = f"sshd_mfa {release}"
# A user copies what is typed, not the prompt.
copybutton_prompt_text = r"\$ |# "
copybutton_prompt_is_regexp = True
