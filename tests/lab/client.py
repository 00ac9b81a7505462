"""This machine as the SSH client: stock `ssh`, codes answered through SSH_ASKPASS."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TIMED_OUT = 124  # exit status of a login that had to be ended, as timeout(1) has it
ASKPASS = """#!/bin/sh
printf '%s\\n' "$1" >> "$LAB_ANSWERS/prompts"
exec cat "$LAB_ANSWERS/code"
"""
CONFIG = """# {title}
{identity}
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile {folder}/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking accept-new
ConnectTimeout 10
NumberOfPasswordPrompts 1
LogLevel ERROR
{hosts}"""


@dataclass(frozen=True)
class Login:
    """What came of one real login.

    Attributes:
        ok: whether the command ran and exited 0.
        rc: exit status of `ssh`: 255 when refused, 124 when it took too long.
        prompts: what the server asked for, as the user would have read it.
        argv: the whole command line, as run in the client's folder. No code is ever in it.
    """

    ok: bool
    rc: int
    stdout: str
    stderr: str
    argv: list[str]
    prompts: list[str] = field(default_factory=list)


class Client:
    """Keys, and logins with them.

    Args:
        folder: for keys, configurations and known_hosts; made, for root only.
        addresses: of the hosts that this machine reaches, by name.
        counter: file that grows by one byte with every login.
    """

    def __init__(self, folder: Path, addresses: dict[str, str], counter: Path):
        self.folder = folder
        self._addresses = addresses
        self._counter = counter
        folder.mkdir(mode=0o700, exist_ok=True)

    def key(self, name: str) -> Path:
        """The path of an ed25519 private key, made when it is first asked for."""
        path = self.folder / name
        if not path.exists():
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"{name}@lab", "-f", path],
                check=True,
            )
        return path

    def public(self, name: str) -> str:
        """The line of a key for authorized_keys."""
        return self.key(name).with_suffix(".pub").read_text().strip()

    def config(self, key: str | None) -> Path:
        """An ssh_config that knows the lab's hosts and offers one key, or none.

        A file, since `ssh -J` hands options on to the jump host's connection from there only.
        """
        path = self.folder / f"{key or 'no-key'}.conf"
        offered = f"IdentityFile {self.key(key)}" if key else "PubkeyAuthentication no"
        hosts = [f"Host {name}\n  HostName {at}\n" for name, at in self._addresses.items()]
        text = CONFIG.format(
            title="Written by the lab.",
            identity=offered,
            folder=self.folder,
            hosts="".join(hosts),
        )
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
        return path

    def login(
        self,
        host: str,
        user: str,
        key: str | None = None,
        code: str | Callable[[], str] | None = None,
        command: str | None = "true",
        options: Sequence[str] = (),
        timeout: float = 60,
    ) -> Login:
        """Log in and run a command.

        Args:
            host: a host's name, or an address.
            key: name of a key of `key`; None offers none.
            code: answers whatever is asked for; None answers nothing (ssh's BatchMode).
            command: what to run there; None for none, as with `-N`.
            options: more arguments for ssh.
            timeout: seconds until the client is killed.
        """
        batch = ["-o", "BatchMode=yes"] if code is None else []
        argv = ["ssh", "-F", self.config(key).name, *batch, *options, f"{user}@{host}"]
        if command is not None:
            argv.append(command)
        with tempfile.TemporaryDirectory(dir=self.folder) as answers:
            environment = self._answer(Path(answers), code() if callable(code) else code)
            with self._counter.open("ab") as counter:
                counter.write(b".")
            rc, stdout, stderr = _run(argv, self.folder, environment, timeout)
            prompts = Path(answers, "prompts")
            asked = prompts.read_text().splitlines() if prompts.exists() else []
        return Login(rc == 0, rc, stdout, stderr, argv, asked)

    @staticmethod
    def _answer(folder: Path, code: str | None) -> dict[str, str]:
        """The environment in which ssh gets the code: from a file that only root reads."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        if code is None:
            return environment
        askpass = folder / "askpass"
        askpass.write_text(ASKPASS)
        askpass.chmod(0o700)
        answer = folder / "code"
        answer.touch(mode=0o600)
        answer.write_text(code + "\n")
        return {
            **environment,
            "LAB_ANSWERS": str(folder),
            "SSH_ASKPASS": str(askpass),
            "SSH_ASKPASS_REQUIRE": "force",
        }


def _run(
    argv: list[str], folder: Path, environment: dict[str, str], timeout: float
) -> tuple[int, str, str]:
    process = subprocess.Popen(
        argv,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate()
        return TIMED_OUT, stdout, f"{stderr}no end after {timeout} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, stdout, stderr
