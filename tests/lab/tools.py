"""Python environments on this machine, and how anything of the lab's gets Python packages."""

import os
import subprocess
import sys
from pathlib import Path

from tests.lab import cache
from tests.lab.console import LabError

SALT = {version: f"salt>={version},<{int(version) + 1}" for version in ("3006", "3007", "3008")}
# What a test may import, wherever it runs.
TESTS = ["hypothesis", "pyotp", "pytest", "pytest-salt-factories", "pytest-subtests"]
# Environments on this machine: the lab's own, and the one for tests that need no host.
ENVIRONMENTS = {
    "lab": ["pyotp", "pytest", "pyyaml", "rich", "typer"],
    "unit": [*TESTS, "build", "pyyaml", SALT["3008"]],
}
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


def environment(name: str) -> str:
    """Path of the Python interpreter of one of ENVIRONMENTS, made when it is not there."""
    program = uv()
    key = cache.digest(str(program), *ENVIRONMENTS[name])

    def build(place: Path) -> None:
        _run(str(program), "venv", "--quiet", "--clear", "--python", _python(), str(place))
        _run(
            *(str(program), "pip", "install", "--quiet", "--python", str(place / "bin/python")),
            *ENVIRONMENTS[name],
        )

    return str(cache.entry(f"tools-{name}", key, build) / "bin/python")


def uv() -> Path:
    """The uv program: installs a Salt in seconds where pip takes minutes."""

    def build(place: Path) -> None:
        _run(_python(), "-m", "venv", str(place))
        _run(str(place / "bin/python"), "-m", "pip", "install", "--quiet", "uv")

    return cache.entry("tools-uv", cache.digest(_python(), sys.version), build) / "bin/uv"


def _python() -> str:
    """The interpreter below the environment we may run in; Debian's where that one cannot."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        return "/usr/bin/python3"
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


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
