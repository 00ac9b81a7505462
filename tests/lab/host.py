"""One booted host."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import roots
from tests.lab.console import LabError
from tests.lab.container import Container

ENVIRONMENT = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
BOOT_TIMEOUT = 90.0  # seconds


@dataclass(frozen=True)
class Spec:
    """What to boot.

    Attributes:
        layer: what the host's file tree is at boot.
        outer: whether this machine reaches it.
        inner: whether it is on the network behind the jump hosts.
        services: Salt's services that start at boot, "master" or "minion".
        sees_repository: whether /srv/sshd_mfa is there, read-only.
    """

    name: str
    layer: roots.Layer
    outer: bool = True
    inner: bool = False
    services: tuple[str, ...] = ()
    sees_repository: bool = False

    @property
    def release(self) -> str:
        return self.layer.name.split("-")[1]


@dataclass
class Host:
    """A host of the lab: commands in it, files of it, and a fresh start of it.

    Attributes:
        name: its host name.
        release: "12" or "13".
        machine: its name on this machine.
        folder: its part of the lab's folder: `seed`, the files it starts with; `upper`, what it
            has changed since.
        outer: address on the outer network, or "".
        inner: address on the inner network, or "".
    """

    spec: Spec
    machine: str
    folder: Path
    outer: str = ""
    inner: str = ""
    binds: list[str] = field(default_factory=list)

    @property
    def _container(self) -> Container:
        return Container(self.machine, self.folder)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def release(self) -> str:
        return self.spec.release

    @property
    def address(self) -> str:
        """Where it is reached: from this machine, or from the jump hosts if it is an inner host."""
        return self.outer or self.inner

    def boot(self) -> None:
        """Start from the cached tree and the seed, and return when everything is up."""
        for name in ("upper", "work", "mounted"):
            (self.folder / name).mkdir(exist_ok=True)
        shutil.copytree(
            self.folder / "seed", self.folder / "upper", dirs_exist_ok=True, symlinks=True
        )
        options = roots.overlay(
            self.spec.layer.stack(), self.folder / "upper", self.folder / "work"
        )
        arguments = [
            *("--boot", "--console=read-only", "--resolv-conf=off"),
            f"--network-namespace-path=/run/netns/{self.machine}",
            *self.binds,
        ]
        self._wait(self._container.start(options, arguments))

    def _wait(self, process: subprocess.Popen) -> None:
        """Until systemd says that every unit it was to start has started."""
        deadline = time.monotonic() + BOOT_TIMEOUT
        state = ""
        while time.monotonic() < deadline and process.poll() is None:
            if self._container.leader:
                state = self.run("systemctl is-system-running --wait", check=False).stdout.strip()
                if state == "running":
                    return
                if state == "degraded":
                    failed = self.run("systemctl --failed --no-legend --plain").stdout
                    raise LabError(f"{self.name}: failed at boot: {failed}")
            time.sleep(0.1)
        console = (self.folder / "console").read_text(errors="replace")[-2000:]
        raise LabError(f"{self.name} did not boot ({state or 'no systemd'}):\n{console}")

    def stop(self) -> None:
        """End it at once."""
        self._container.stop()

    def reset(self) -> None:
        """Throw away whatever the host has changed and boot it again.

        It keeps its Salt key: the master has accepted that one.
        """
        self.stop()
        pki = Path("etc/salt/pki/minion")
        if (self.folder / "upper" / pki).exists():
            shutil.copytree(
                self.folder / "upper" / pki, self.folder / "seed" / pki, dirs_exist_ok=True
            )
        for name in ("upper", "work"):
            shutil.rmtree(self.folder / name)
        self.boot()

    def argv(self, command: Sequence[str] | str) -> list[str]:
        """The command on this machine that runs a command in the host, as its root."""
        leader = self._container.leader
        if not leader:
            raise LabError(f"{self.name} is not running: ./lab up")
        inner = ["sh", "-c", command] if isinstance(command, str) else list(map(str, command))
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        return [
            *("nsenter", "--target", str(leader), "--all", "--root"),
            *("env", "--ignore-environment", "--chdir=/root", *variables, *inner),
        ]

    def run(
        self,
        command: Sequence[str] | str,
        check: bool = True,
        input: str | None = None,  # noqa: A002  (subprocess.run's name)
        timeout: float = 120,
    ) -> subprocess.CompletedProcess:
        """Run a command, or a line of shell, as root in the host.

        Args:
            check: raise when it exits other than 0; the exception holds both streams.
            input: text for its standard input, which is empty otherwise.
            timeout: seconds until it is killed.
        """
        process = subprocess.Popen(
            self.argv(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            stdout, stderr = process.communicate(input or "", timeout=timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        if check and process.returncode:
            raise LabError(
                f"{self.name}: {command!r} exited {process.returncode}\n{stdout}\n{stderr}"
            )
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def show(self, command: Sequence[str]) -> int:
        """Run a command that writes to this terminal, and return its exit status.

        In a session of its own: a signal that a test sends to its process group must not end the
        lab, whatever process name space the test is in.
        """
        process = subprocess.Popen(
            self.argv(command), stdin=subprocess.DEVNULL, start_new_session=True
        )
        try:
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise

    def put(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the host, its folder too if that is missing."""
        self.run(["install", "-D", "-m", f"{mode:o}", "/dev/stdin", path], input=text)

    def read(self, path: str) -> str:
        """The text of a file of the host."""
        return self.run(["cat", path]).stdout

    def account(self, name: str, public_key: str) -> None:
        """Make an ordinary account that a key opens."""
        self.run(["useradd", "--create-home", "--shell", "/bin/bash", name])
        home = f"/home/{name}"
        self.put(f"{home}/.ssh/authorized_keys", public_key + "\n", mode=0o600)
        self.run(["chmod", "700", f"{home}/.ssh"])
        self.run(["chown", "-R", f"{name}:", home])
