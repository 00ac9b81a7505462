"""Which labs are running, and the end of those whose process is gone."""

import contextlib
import fcntl
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.lab import cache
from tests.lab.container import Container
from tests.lab.network import ONE_AT_A_TIME, Network

KEPT = "kept"  # file of a lab that was left running by `./lab up`


def folder() -> Path:
    """Where each lab has a folder, named like its bridge."""
    return cache.folder() / "runs"


def kept() -> list[str]:
    """Names of the labs that were left running, the newest last."""
    marks = sorted(folder().glob(f"*/{KEPT}"), key=lambda mark: mark.stat().st_mtime)
    return [mark.parent.name for mark in marks if _alive(mark.parent)]


@contextlib.contextmanager
def owned(run: Path) -> Iterator[bool]:
    """Own a lab for as long as this process lives; False if another process owns it."""
    with (run / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def sweep(names: Collection[str] = ()) -> list[str]:
    """Remove labs whose process was killed, and those of `names` that were left running.

    Returns the names of all that are gone. A lab that another process is working with stays.
    """
    removed = []
    with cache.locked(ONE_AT_A_TIME):
        for run in sorted(folder().glob("mfa*")):
            with owned(run) as ours:
                if ours and (run.name in names or not _alive(run)):
                    remove(run)
                    removed.append(run.name)
    return removed


def remove(run: Path) -> None:
    """Remove a lab: its processes, its network, its files."""
    for container in _containers(run):
        container.stop()
    Network(_number(run)).remove()
    shutil.rmtree(run)


def _alive(run: Path) -> bool:
    """Whether a lab was left running on purpose, and still does."""
    return (run / KEPT).exists() and any(container.pid for container in _containers(run))


def _containers(run: Path) -> list[Container]:
    return [Container(f"{run.name}-{host.name}", host) for host in run.glob("hosts/*")]


def _number(run: Path) -> int:
    return int(run.name.removeprefix("mfa"))
