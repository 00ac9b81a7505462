"""
The chain by which functional tests reach the modules: minion_opts → loaders → modules, states.

These tests change accounts and sshd of the machine they run on. `./lab test` runs them inside
hosts of the lab, and nowhere else will they run.
"""

import pwd
import shutil
import subprocess
from pathlib import Path

import pytest
import salt.config
from saltfactories.utils.functional import Loaders

from tests.functional.pam import Libpam
from tests.support import REPO


def pytest_sessionstart(session):
    if not Path("/etc/sshd_mfa-lab").exists():
        raise pytest.UsageError("functional tests run inside hosts of the lab only: ./lab test")


@pytest.fixture(scope="session")
def minion_opts(tmp_path_factory):
    """Options of a masterless minion that finds our modules where they are developed."""
    root = tmp_path_factory.mktemp("minion")
    (root / "minion").write_text(
        f"root_dir: {root}\nfile_client: local\nid: functional\n"
        f"module_dirs: [{REPO}/_modules]\nstates_dirs: [{REPO}/_states]\n"
    )
    return salt.config.minion_config(str(root / "minion"))


@pytest.fixture(scope="session")
def loaders(minion_opts):
    return Loaders(minion_opts)


@pytest.fixture
def modules(loaders):
    return loaders.modules


@pytest.fixture
def states(loaders):
    return loaders.states


@pytest.fixture(params=[True, False], ids=["test mode", "for real"])
def testmode(request):
    return request.param


@pytest.fixture(scope="module")
def libpam():
    asked = Libpam()
    yield asked
    asked.close()


@pytest.fixture
def account():
    """A person's account, with an empty home."""
    name = "homeowner"
    subprocess.run(["useradd", "--create-home", "--skel", "/nonexistent", name], check=True)
    yield pwd.getpwnam(name)
    subprocess.run(["pkill", "-KILL", "-u", name], check=False)
    subprocess.run(["userdel", name], check=True)
    for home in Path("/home").glob("*"):
        if home.name in (name, "moved"):
            home.unlink() if home.is_symlink() else shutil.rmtree(home)
