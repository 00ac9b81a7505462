"""
The name under which pip installs ``_modules`` and ``_states`` as a Salt extension.

There is nothing of the project here but the way to those two folders. ``saltext`` itself is a
namespace that many distributions share, so it must have no ``__init__.py``.
"""

from pathlib import Path


def loader_dirs() -> dict[str, list[str]]:
    """
    Tell Salt's loader where this extension's modules lie: the ``salt.loader`` entry point.

    Returns a list of folders for each loader type (``modules``, ``states``). In a wheel they lie
    beside this file under those names; in an editable install they are the checkout's own
    ``_modules`` and ``_states``, which is why the entry point is a function: the loader looks
    only for ``modules`` and ``states`` below a package that it is given by name
    (``salt.loader._module_dirs``, Salt 3006 to 3008).
    """
    here = Path(__file__).resolve().parent
    checkout = here.parent.parent
    dirs = {}
    for loader_type in ("modules", "states"):
        candidates = (here / loader_type, checkout / f"_{loader_type}")
        dirs[loader_type] = [str(path) for path in candidates if path.is_dir()][:1]
    return dirs
