"""Two tiers: tests marked `long` run when LAB_ALL is set, as `./lab test --all` does."""

import os


def pytest_configure(config):
    config.addinivalue_line("markers", "long: runs with ./lab test --all only")


def pytest_collection_modifyitems(config, items):
    if os.environ.get("LAB_ALL"):
        return
    later = [item for item in items if item.get_closest_marker("long")]
    if later:
        config.hook.pytest_deselected(items=later)
        items[:] = [item for item in items if item not in later]
