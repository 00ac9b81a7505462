"""
The wheel ``saltext.sshd-mfa``: what is in it, and that Salt loads it, beside another extension,
in the environment where it is installed and on a host that is reached from there by salt-ssh.
"""

import json
import os
import shutil
import subprocess
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.lab import tools

REPO = Path(__file__).resolve().parents[2]
FOLDERS = {"modules": "_modules", "states": "_states"}
# Any other extension would do; on 3008 Salt itself has no `vault` any more, so what loads is this.
NEIGHBOUR = "saltext.vault"
BUILD_INPUTS = (
    "_modules",
    "_states",
    "saltext",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)


def _run(*argv, **kwargs):
    """Run *argv* and return its stdout; a failure shows both streams in the test's report."""
    # The lab's PYTHONPATH would put the checkout beside what is installed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(arg) for arg in argv],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
        env=environment,
        **kwargs,
    )
    assert done.returncode == 0, f"{argv}\n--- stdout\n{done.stdout}\n--- stderr\n{done.stderr}"
    return done.stdout


def _sources(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.py")}


def _checkout(folder):
    """Copy what the build reads, and nothing that an earlier build left in the work tree."""
    for name in BUILD_INPUTS:
        source = REPO / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


class Environment:
    """A virtual environment of its own, with a Salt configuration that knows no file roots."""

    def __init__(self, root):
        self.bin = root / "venv" / "bin"
        self.config = root / "etc"
        venv.create(root / "venv")
        (root / "no_files").mkdir()
        self.config.mkdir()
        options = {
            "root_dir": str(root),
            "file_client": "local",
            "file_roots": {"base": [str(root / "no_files")]},
            "pillar_roots": {"base": [str(root / "no_files")]},
            "user": "root",
        }
        for name in ("minion", "master"):
            (self.config / name).write_text(json.dumps(options))

    def install(self, *what):
        tools.install(self.bin / "python", *map(str, what))

    def python(self, code):
        return _run(self.bin / "python", "-c", code, cwd=self.config)

    def salt_call(self, function, *args):
        out = _run(
            self.bin / "salt-call", "--local", "-c", self.config, "--out=json", function, *args
        )
        return json.loads(out)["local"]

    def salt_ssh(self, target, function, *args):
        out = _run(
            self.bin / "salt-ssh",
            "-c",
            self.config,
            "--no-host-keys",
            "--wipe",
            "--out=json",
            target,
            function,
            *args,
        )
        return json.loads(out)[target]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist and, built from that sdist and not from the checkout, the wheel."""
    clean = _checkout(tmp_path_factory.mktemp("source"))
    builder = tmp_path_factory.mktemp("builder") / "venv"
    venv.create(builder, with_pip=True)
    tools.install(builder / "bin/python", "build")
    out = tmp_path_factory.mktemp("dist")
    _run(builder / "bin/python", "-m", "build", "--outdir", out, clean)
    return {
        "source": clean,
        "sdist": next(out.glob("*.tar.gz")),
        "wheel": next(out.glob("*.whl")),
    }


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """An environment with the wheel, another Salt extension, and Salt 3008."""
    environment = Environment(tmp_path_factory.mktemp("installed"))
    environment.install(tools.SALT["3008"], NEIGHBOUR, dist["wheel"])
    return environment


@pytest.fixture(scope="module")
def version():
    return next(
        line.partition("=")[2].strip()
        for line in (REPO / "setup.cfg").read_text().splitlines()
        if line.startswith("version =")
    )


@pytest.mark.parametrize("loader_type", FOLDERS)
def test_wheel_carries_the_same_bytes(dist, loader_type):
    prefix = f"saltext/sshd_mfa/{loader_type}/"
    with zipfile.ZipFile(dist["wheel"]) as wheel:
        packed = {
            Path(name).name: wheel.read(name)
            for name in wheel.namelist()
            if name.startswith(prefix)
        }
    assert packed == _sources(dist["source"] / FOLDERS[loader_type])
    assert packed, "an empty folder proves nothing"


def test_wheel_leaves_the_namespace_alone(dist):
    with zipfile.ZipFile(dist["wheel"]) as wheel:
        names = wheel.namelist()
    assert "saltext/__init__.py" not in names
    tops = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"saltext"}


def test_sdist_carries_the_licence(dist):
    with tarfile.open(dist["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "README.md", "setup.cfg", "pyproject.toml"} <= names


def test_salt_call_loads_it(installed, version):
    assert installed.salt_call("sshd_mfa.version") == version


def test_every_module_loads(installed, dist):
    """Each file that has public functions answers by its own name, states included."""
    for loader_type, listing in (
        ("modules", "sys.list_modules"),
        ("states", "sys.list_state_modules"),
    ):
        names = {Path(name).stem for name in _sources(dist["source"] / FOLDERS[loader_type])}
        assert names <= set(installed.salt_call(listing))


def test_the_other_extension_still_loads(installed):
    where = installed.python(
        "import saltext.vault, saltext.sshd_mfa, saltext\n"
        "print(saltext.__file__, saltext.vault.__file__)"
    )
    assert where.startswith("None ")
    assert "vault.read_secret" in installed.salt_call("sys.list_functions", "vault")


def test_editable_install_serves_the_checkout(tmp_path_factory):
    """An editable install loads from the checkout itself: no copy that could go stale."""
    checkout = _checkout(tmp_path_factory.mktemp("checkout"))
    environment = Environment(tmp_path_factory.mktemp("editable"))
    environment.install("--no-deps", "--editable", checkout)
    dirs = json.loads(
        environment.python(
            "import json, saltext.sshd_mfa as ext; print(json.dumps(ext.loader_dirs()))"
        )
    )
    assert dirs == {"modules": [f"{checkout}/_modules"], "states": [f"{checkout}/_states"]}


def test_salt_ssh_ships_it(installed, lab, host, version):
    """
    salt-ssh of 3008 packs installed extensions into the thin archive
    (``salt.utils.thin._discover_saltexts``): the target needs no file roots of ours.
    """
    host.run(["mkdir", "-p", "-m", "700", "/root/.ssh"])
    host.put("/root/.ssh/authorized_keys", lab.client.public("wheel") + "\n", mode=0o600)
    target = {"host": host.address, "user": "root", "priv": str(lab.client.key("wheel"))}
    (installed.config / "roster").write_text(json.dumps({host.name: target}))
    assert installed.salt_ssh(host.name, "sshd_mfa.version") == version
    assert "vault.read_secret" in installed.salt_ssh(host.name, "sys.list_functions", "vault")
