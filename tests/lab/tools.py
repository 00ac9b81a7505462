"""Python environments on this machine, and how anything of the lab's gets Python packages."""

import os
import subprocess
from pathlib import Path

from tests.lab import cache
from tests.lab.console import LabError

PYTHON = "/usr/bin/python3"  # Debian's: any user may run it
SALT = {version: f"salt>={version},<{int(version) + 1}" for version in ("3006", "3007", "3008")}
# The one dependency of Salt's that needs a C compiler; only two of its Jinja filters ask for it.
LEFT_OUT = "timelib"
# What tests import, wherever they run. The extra `tests` in setup.cfg says so to everybody else.
TESTS = """
    hypothesis pyotp pytest pytest-salt-factories pytest-subtests pyyaml qrcode segno zxing-cpp
""".split()
# Environments on this machine: the lab's own, which also runs the integration tests, and the one
# for tests that need no host.
ENVIRONMENTS = {
    "lab": ["pyotp", "pytest", "pyyaml", "rich", "typer"],
    "unit": [*TESTS, SALT["3008"]],
}
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def environment(name: str) -> str:
    """Path of the Python interpreter of one of ENVIRONMENTS, made when it is not there."""
    packages = ENVIRONMENTS[name]

    def build(place: Path) -> None:
        _run(str(uv()), "venv", "--quiet", "--clear", "--python", PYTHON, str(place))
        install(place / "bin/python", *packages)

    key = cache.digest(_version(), *packages)
    return str(cache.entry(f"tools-{name}", key, build) / "bin/python")


def install(python: Path, *packages: str) -> None:
    """Install packages into the environment of an interpreter."""
    override = cache.folder() / "left-out.txt"
    override.write_text(f"{LEFT_OUT}; python_version < '3'\n")
    _run(
        *(str(uv()), "pip", "install", "--quiet", "--python", str(python)),
        *("--override", str(override), *packages),
    )


def uv() -> Path:
    """The uv program: installs a Salt in seconds where pip takes minutes."""

    def build(place: Path) -> None:
        _run(PYTHON, "-m", "venv", str(place))
        _run(str(place / "bin/python"), "-m", "pip", "install", "--quiet", "uv")

    return cache.entry("tools-uv", cache.digest(_version()), build) / "bin/uv"


def _version() -> str:
    return os.readlink(PYTHON)  # python3.11


def certificates() -> Path:
    """The certificate authorities this machine was told to trust."""
    names = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")
    return Path(next((os.environ[name] for name in names if os.environ.get(name)), CERTIFICATES))


def uv_settings() -> dict[str, str]:
    """Environment variables for uv: this machine's settings, as pip would follow them."""
    kept = ("UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
    settings = {name: value for name, value in os.environ.items() if name.upper().startswith(kept)}
    if os.environ.get("PIP_INDEX_URL"):
        settings.setdefault("UV_DEFAULT_INDEX", os.environ["PIP_INDEX_URL"])
    return settings


def _run(*argv: str) -> None:
    settings = {
        **os.environ,
        **uv_settings(),
        "UV_CACHE_DIR": str(cache.folder() / "uv"),
    }
    if certificates().exists():
        settings["SSL_CERT_FILE"] = str(certificates())
    done = subprocess.run(
        argv,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"{' '.join(argv)} failed:\n{done.stdout}")
