"""systemd-nspawn: starting it on an overlay, finding it again from any process, ending it."""

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.lab.console import LabError

CGROUPS = Path("/sys/fs/cgroup")
SYSTEMD = Path("/run/systemd/system")  # there if systemd is PID 1, see sd_booted(3)
# What is mounted is mounted in a mount name space of the process, so it goes when the process goes,
# however that ends; the notes nspawn keeps in /run go with it.
MOUNT_AND_RUN = """
options=$1 mounted=$2; shift 2
while [ "$1" != -- ]; do mkdir -p "$1"; echo $$ > "$1/cgroup.procs"; shift; done; shift
mount -t overlay overlay -o "$options" "$mounted"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
exec "$@"
"""


@dataclass(frozen=True)
class Container:
    """One systemd-nspawn.

    Attributes:
        machine: its name on this machine.
        folder: where `mounted`, `console` and `nspawn`, its process, are.
    """

    machine: str
    folder: Path

    def command(self, overlay: str, arguments: list[str]) -> list[str]:
        """The command line that mounts the overlay and runs systemd-nspawn on it."""
        mounted = str(self.folder / "mounted")
        groups = [str(group) for group in self._cgroups()]
        # With systemd on this machine, nspawn asks it for a scope.
        scope = ["--keep-unit"] if groups else []
        return [
            *("unshare", "--mount", "--propagation", "private"),
            *("sh", "-euc", MOUNT_AND_RUN, "nspawn", overlay, mounted, *groups, "--"),
            *("systemd-nspawn", "--quiet", "--register=no", *scope),
            *("--machine", self.machine, "--directory", mounted, *arguments),
        ]

    def start(self, overlay: str, arguments: list[str]) -> subprocess.Popen:
        """Start it in the background, its console in a file."""
        with (self.folder / "console").open("ab") as console:
            process = subprocess.Popen(
                self.command(overlay, arguments),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        (self.folder / "nspawn").write_text(f"{process.pid} {_started(process.pid)}")
        return process

    @property
    def pid(self) -> int:
        """Process id of systemd-nspawn, or 0 when it does not run."""
        try:
            pid, started = (self.folder / "nspawn").read_text().split()
        except (FileNotFoundError, ValueError):
            return 0
        return int(pid) if _started(int(pid)) == started else 0

    @property
    def leader(self) -> int:
        """This machine's process id of the systemd inside, or 0 when there is none."""
        pid = self.pid
        children = _read(f"/proc/{pid}/task/{pid}/children").split()
        # Until nspawn has set it up, its child is something else.
        systemd = [child for child in children if _read(f"/proc/{child}/comm") == "systemd\n"]
        return int(systemd[0]) if systemd else 0

    def stop(self) -> None:
        """End it at once: what it holds is thrown away anyway."""
        pid, leader = self.pid, self.leader
        deadline = time.monotonic() + 10
        while any(victim and _started(victim) for victim in (pid, leader)):
            if time.monotonic() > deadline:
                raise LabError(f"{self.machine}: processes {pid} and {leader} survive SIGKILL")
            for victim in (pid, leader):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):  # it may be another process's child
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.02)
        (self.folder / "nspawn").unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """Remove its control groups, once its processes are gone."""
        if SYSTEMD.is_dir():
            # Returns when the name is free for the next one.
            scope = f"{self.machine}.scope"
            subprocess.run(
                ["systemctl", "--quiet", "stop", scope], check=False, capture_output=True
            )
        for group in self._cgroups():
            for folder in [*sorted(group.rglob("*/"), reverse=True), group]:
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _cgroups(self) -> list[Path]:
        """The control groups to make for it, in each hierarchy that systemd tracks services by.

        None where this machine's PID 1 is systemd, which makes one. Without it all containers
        would share one, and each would kill the others' services.
        """
        if SYSTEMD.is_dir():
            return []
        if (CGROUPS / "cgroup.controllers").exists():
            return [CGROUPS / self.machine]
        hierarchies = (CGROUPS / "systemd", CGROUPS / "unified")
        return [hierarchy / self.machine for hierarchy in hierarchies if hierarchy.exists()]


def _read(path: str) -> str:
    """A file of /proc, or "" when the process is gone."""
    try:
        return Path(path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _started(pid: int) -> str:
    """When a process started, see proc_pid_stat(5); "" when it is gone or a zombie."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if fields and fields[0] != "Z" else ""
