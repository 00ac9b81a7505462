"""A folder of finished things, each made once, whole or not at all, however many labs run."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.console import progress


def folder() -> Path:
    """The cache's place: `LAB_CACHE`, or /var/cache/sshd_mfa-lab."""
    return Path(os.environ.get("LAB_CACHE") or "/var/cache/sshd_mfa-lab").absolute()


def digest(*parts: str) -> str:
    """A short name for everything that goes into an entry."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel drops it when the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # `./lab clean` may have removed it meanwhile: then others lock another file.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                yield
                return


def entry(name: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder of an entry.

    Args:
        name: what it is, for people.
        key: `digest` of what goes into it: another key is another entry.
        build: fills the empty folder it is given. It is built under a lock beside its place and
            renamed when it is whole, so that a build that was cut off leaves no entry.
    """
    place = folder() / f"{name}-{key}"
    if place.exists():
        return place
    with locked(folder() / "locks" / place.name):
        if place.exists():
            return place
        progress(f"building {name}")
        unfinished = place.with_name(place.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        build(unfinished)
        unfinished.rename(place)
        progress(f"built {name}")
    return place
