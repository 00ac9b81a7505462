"""What tests of every tier share."""

import importlib.util
from pathlib import Path

REPO = Path(__file__).parent.parent


def load(kind, name):
    """Load ``_KIND/NAME.py`` the way Salt does: as a file of its own, in no package."""
    spec = importlib.util.spec_from_file_location(name, REPO / f"_{kind}" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
