"""A lab: hosts on two networks, a Salt master among them, and this machine as their client."""

import contextlib
import os
import secrets
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import cache, roots, runs, salt
from tests.lab.client import Client, Login
from tests.lab.console import LabError, progress
from tests.lab.host import Host, Spec
from tests.lab.network import ONE_AT_A_TIME, Network

__all__ = ["HOSTS", "Lab", "Login"]

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "etc/sshd_mfa-lab"  # by this, tests that change accounts and sshd know a throw-away host
JUMP = {"inner": True, "services": ("minion",)}
HOSTS = (
    Spec("salt", roots.master("12", "3008"), services=("master",), sees_repository=True),
    Spec("jump01", roots.salt("12", "3008"), **JUMP),
    Spec("jump02", roots.salt("13", "3008"), **JUMP),
    Spec("db01", roots.root("12"), outer=False, inner=True),
)


class Lab:
    """Hosts that boot together and leave nothing behind.

        with Lab() as lab:
            lab.pillar({"sshd_mfa": {…}})
            lab.salt("jump*", "state.apply", "sshd_mfa")
            assert lab.client.login("jump01", "sean", key="sean", code=codes.next).ok

    Args:
        specs: what to boot.
        number: a lab that is running already, to work with instead: nothing is booted, and `down`
            leaves it running.
    """

    def __init__(self, specs: Sequence[Spec] = HOSTS, number: int | None = None):
        self._specs = specs
        self._attached = number is not None
        self._owner = contextlib.ExitStack()
        if number is not None:
            self._describe(Network(number))

    def _describe(self, network: Network) -> None:
        """Where everything of this lab is."""
        self.network = network
        self.folder = runs.folder() / network.name
        self.hosts = {
            spec.name: Host(
                spec=spec,
                machine=f"{network.name}-{spec.name}",
                folder=self.folder / "hosts" / spec.name,
                outer=str(network.outer[number]) if spec.outer else "",
                inner=str(network.inner[number]) if spec.inner else "",
                binds=self._binds(spec),
            )
            for number, spec in enumerate(self._specs, start=10)
        }
        outer = {name: host.outer for name, host in self.hosts.items() if host.outer}
        counter = Path(os.environ.get("LAB_LOGINS") or self.folder / "logins")
        self.client = Client(self.folder / "client", outer, counter)
        for spec in self._specs:
            if "master" in spec.services:
                minions = [other.name for other in self._specs if "minion" in other.services]
                master = salt.Master(self.hosts[spec.name], self.folder / "pillar", minions)
                self.pillar, self.salt = master.pillar, master.call
                self._master = master

    def _binds(self, spec: Spec) -> list[str]:
        binds = [f"--bind-ro={REPOSITORY}:{salt.REPOSITORY}"] if spec.sees_repository else []
        if "master" in spec.services:
            binds.append(f"--bind-ro={self.folder / 'pillar'}:/srv/pillar")
        return binds

    def __enter__(self) -> "Lab":
        self.up()
        return self

    def __exit__(self, *_) -> None:
        self.down()

    def up(self) -> None:
        """Boot everything; returns when logins and Salt work."""
        if self._attached:
            return
        runs.sweep()
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda spec: spec.layer.stack(), self._specs))
        progress("booting " + ", ".join(spec.name for spec in self._specs))
        self._owner.enter_context(_signals_raise())
        try:
            self._create()
            with ThreadPoolExecutor() as pool:
                list(pool.map(Host.boot, self.hosts.values()))
            self.wait_for_minions(self.hosts)
        except BaseException:
            self.down()
            raise
        progress(f"{self.network.name} is up")

    def _create(self) -> None:
        with cache.locked(ONE_AT_A_TIME):
            network = Network.free()
            folder = runs.folder() / network.name
            folder.mkdir(mode=0o700, parents=True)
            self._owner.enter_context(runs.owned(folder))
            self._describe(network)
            network.create()
        (self.folder / "pillar").mkdir()
        for host in self.hosts.values():
            self._seed(host)
            network.connect(host.name, host.outer, host.inner)

    def _seed(self, host: Host) -> None:
        """Write what tells a host from the others."""
        inner = [f"{other.inner} {other.name}" for other in self.hosts.values() if other.inner]
        outer = [f"{other.outer} {other.name}" for other in self.hosts.values() if other.outer]
        # An address that only the client or only inner hosts use comes last.
        names = [*outer, *inner] if host.outer else [*inner, *outer]
        files = {
            "etc/hostname": f"{host.name}\n",
            "etc/hosts": "\n".join(["127.0.0.1 localhost", *names, ""]),
            "etc/machine-id": f"{secrets.token_hex(16)}\n",
            # Tests that change their host look for it first.
            "etc/sshd_mfa-lab": f"{self.network.name}\n",
            MARK: f"{self.network.name}\n",
        }
        if "minion" in host.spec.services:
            files |= {
                "etc/salt/minion": salt.MINION,
                "etc/salt/minion_id": host.name,
                "etc/systemd/system/salt-minion.service.d/lab.conf": salt.MINION_UNIT,
            }
        if "master" in host.spec.services:
            files["etc/salt/master"] = salt.MASTER
        if host.release == "13":
            # OpenSSH 9.8 and newer shut out an address after refused logins: tests make many.
            spared = f"PerSourcePenaltyExemptList {self.network.client},{self.network.inner}\n"
            files["etc/ssh/sshd_config.d/90-lab.conf"] = spared
        seed = host.folder / "seed"
        for name, text in files.items():
            path = seed / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        wanted = seed / "etc/systemd/system/multi-user.target.wants"
        wanted.mkdir(parents=True)
        for service in host.spec.services:
            unit = f"salt-{service}.service"
            (wanted / unit).symlink_to(f"/etc/systemd/system/{unit}")
        (seed / "etc/ssh").mkdir(exist_ok=True)
        subprocess.run(["ssh-keygen", "-A", "-f", seed], check=True, stdout=subprocess.DEVNULL)

    def wait_for_minions(self, names: Sequence[str]) -> None:
        """Until those of these hosts that have a minion answer to the master."""
        minions = [name for name in names if "minion" in self.hosts[name].spec.services]
        if minions:
            self._master.wait(minions)

    def fresh(self, name: str) -> Host:
        """The host, as it was when the lab came up."""
        host = self.hosts[name]
        host.reset()
        self.wait_for_minions([name])
        return host

    def keep(self) -> None:
        """Leave it running when this process ends, until `./lab down`."""
        (self.folder / runs.KEPT).touch()
        self._owner.close()

    def down(self) -> None:
        """End it: no process, bridge, mount or file of it stays."""
        if self._attached:
            return
        with _undisturbed():
            if hasattr(self, "folder") and self.folder.exists():
                with cache.locked(ONE_AT_A_TIME):
                    runs.remove(self.folder)
            self._owner.close()


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end the process as an exception does, so that labs are removed."""

    def end(number: int, _frame: object) -> None:
        progress(f"ended by {signal.Signals(number).name}")
        raise SystemExit(128 + number)

    with _handlers({signal.SIGTERM: end, signal.SIGHUP: end}):
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore an impatient Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    with _handlers(dict.fromkeys(numbers, signal.SIG_IGN)):
        yield


@contextlib.contextmanager
def _handlers(handlers: dict) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python takes signals in the main thread only
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def running() -> Lab:
    """The lab that `./lab up` left running: the newest, or the one that LAB_RUN names (mfa0)."""
    names = runs.kept()
    wanted = os.environ.get("LAB_RUN") or (names[-1] if names else "")
    if wanted not in names:
        raise LabError(f"no lab {wanted or 'at all'} is running: ./lab up")
    return Lab(number=int(wanted.removeprefix("mfa")))
