"""A real Salt: what its master and minions are configured with, and the `salt` command."""

import fnmatch
import json
import shlex
import time
from pathlib import Path

from tests.lab.console import LabError
from tests.lab.host import Host

REPOSITORY = "/srv/sshd_mfa"  # in the hosts
MASTER = f"""\
auto_accept: true
file_roots:
  base:
    - {REPOSITORY}
    - {REPOSITORY}/salt
pillar_roots:
  base:
    - /srv/pillar
"""
MINION = "master: salt\n"
# A minion that finds no master tries again after 10 seconds (zmq_reconnect_ivl).
MINION_UNIT = """\
[Service]
ExecStartPre=/bin/bash -c 'for i in {1..300}; do \\
  : 2>/dev/null </dev/tcp/salt/4505 && exit; sleep 0.1; done'
"""
TOP = "base:\n  'jump*':\n"
READY = 60.0  # seconds


class Master:
    """The master's command line.

    Args:
        host: where it runs.
        pillar: folder on this machine that the host has as /srv/pillar.
        minions: the IDs of all that should answer.
    """

    def __init__(self, host: Host, pillar: Path, minions: list[str]):
        self._host = host
        self._pillar = pillar
        self._minions = minions

    def pillar(self, data: dict | str, **more: dict | str) -> None:
        """Replace the pillar of jump*.

        Args:
            data: the whole pillar, `{"sshd_mfa": …}`, or the text of an SLS file.
            more: further files, by name; Salt merges them over the first in the order given.
        """
        files = {"sshd_mfa": data, **more}
        for stale in self._pillar.glob("*.sls"):
            stale.unlink()
        for name, content in files.items():
            # The renderer takes it as it stands: braces in it are no Jinja.
            text = content if isinstance(content, str) else "#!json\n" + json.dumps(content)
            (self._pillar / f"{name}.sls").write_text(text)
        (self._pillar / "top.sls").write_text(TOP + "".join(f"    - {name}\n" for name in files))

    @staticmethod
    def command(target: str, function: str, *args: object, **kwargs: object) -> list[str]:
        """The `salt` command line of a call; values that are no text go as JSON."""
        values = [_text(value) for value in args]
        values += [f"{name}={_text(value)}" for name, value in kwargs.items()]
        return ["salt", target, function, *values]

    def call(
        self, target: str, function: str, *args: object, timeout: float = 300, **kwargs: object
    ) -> dict:
        """What `salt TARGET FUNCTION …` returned, by minion. The target is a glob.

        Raises LabError when a minion did not return; a state that failed is the caller's matter.
        """
        command = self.command(target, function, *args, **kwargs)
        options = ["--out=json", "--static", f"--timeout={int(timeout)}"]
        done = self._host.run([*command, *options], check=False, timeout=timeout + 60)
        returned = _json(done.stdout)
        # Salt leaves out who did not answer, and exits 0.
        wanted = set(fnmatch.filter(self._minions, target))
        if not isinstance(returned, dict) or not wanted or wanted - set(returned):
            silent = ", ".join(sorted(wanted - set(returned or ()))) or "minions unknown"
            raise LabError(
                f"{shlex.join(command)}: no return from {silent}\n{done.stdout}\n{done.stderr}"
            )
        return returned

    def wait(self, minions: list[str]) -> None:
        """Until all of these minions answer."""
        # `salt … test.ping` takes 10 seconds more when it was published before they listened.
        command = ["salt-run", "--out=json", "manage.up", "timeout=1", "gather_job_timeout=1"]
        deadline = time.monotonic() + READY
        while True:
            done = self._host.run(command, check=False)
            answered = _json(done.stdout)  # an error's text when the master is not ready
            if isinstance(answered, list) and set(minions) <= set(answered):
                return
            if time.monotonic() > deadline:
                raise LabError(f"no answer from {minions}, but {answered}:\n{done.stderr}")


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None
