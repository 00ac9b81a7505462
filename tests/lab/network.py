"""Two networks a lab: `outer`, where this machine is the client, and `inner`, which only hosts see.

Each host has a network name space of its own (ip-netns(8)) with its addresses in it before it
boots. The outer bridge stands on this machine; the inner one in a name space apart, so that this
machine has no way to it. Nothing is routed or masqueraded, hence no firewall rule is needed.
"""

import contextlib
import ipaddress
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab.console import LabError

OUTER = ipaddress.ip_network("10.64.0.0/16")  # the lab with number N takes the /24 number N
INNER = ipaddress.ip_network("10.96.0.0/16")
ONE_AT_A_TIME = Path("/run/lock/sshd_mfa-lab")
NAMESPACES = Path("/run/netns")


def ip(*arguments: str, check: bool = True) -> str:
    """The output of an ip(8) command."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise LabError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True)
class Network:
    """The networks of the lab with a number; the number names whatever the lab makes."""

    number: int

    @property
    def name(self) -> str:
        """Name of the lab, and of its bridge."""
        return f"mfa{self.number}"

    @property
    def outer(self) -> ipaddress.IPv4Network:
        return list(OUTER.subnets(new_prefix=24))[self.number]

    @property
    def inner(self) -> ipaddress.IPv4Network:
        return list(INNER.subnets(new_prefix=24))[self.number]

    @property
    def client(self) -> str:
        """This machine's address, as hosts see it."""
        return str(self.outer[1])

    @classmethod
    def free(cls) -> "Network":
        """The first one that nothing on this machine uses. Hold ONE_AT_A_TIME until `create`."""
        routes = json.loads(ip("-json", "-4", "route", "show", "table", "all") or "[]")
        taken = [
            ipaddress.ip_network(route["dst"], strict=False)
            for route in routes
            if route["dst"] != "default"
        ]
        links = {link["ifname"] for link in json.loads(ip("-json", "link") or "[]")}
        for number, subnet in enumerate(OUTER.subnets(new_prefix=24)):
            busy = any(subnet.overlaps(network) for network in taken)
            if not busy and f"mfa{number}" not in links:
                return cls(number)
        raise LabError(f"every subnet of {OUTER} is in use on this machine: ./lab down")

    def create(self) -> None:
        """Make both bridges."""
        ip("link", "add", self.name, "type", "bridge")
        ip("address", "add", f"{self.client}/24", "dev", self.name)
        ip("link", "set", self.name, "up")
        ip("netns", "add", f"{self.name}-inner")
        ip("-n", f"{self.name}-inner", "link", "add", "bridge", "type", "bridge")
        ip("-n", f"{self.name}-inner", "link", "set", "bridge", "up")

    def connect(self, host: str, outer: str | None, inner: str | None) -> None:
        """Make a host's name space, with an address on one of the networks or on both."""
        space = f"{self.name}-{host}"
        ip("netns", "add", space)
        ip("-n", space, "link", "set", "lo", "up")
        if outer:
            port = space[:15]
            ip("link", "add", port, "type", "veth", "peer", "name", "outer", "netns", space)
            ip("link", "set", port, "master", self.name, "up")
            self._address(space, "outer", outer)
        if inner:
            switch = f"{self.name}-inner"
            ip("-n", switch, "link", "add", host, "type", "veth", "peer", "inner", "netns", space)
            ip("-n", switch, "link", "set", host, "master", "bridge", "up")
            self._address(space, "inner", inner)

    @staticmethod
    def _address(space: str, interface: str, address: str) -> None:
        ip("-n", space, "address", "add", f"{address}/24", "dev", interface)
        ip("-n", space, "link", "set", interface, "up")

    def remove(self) -> None:
        """Remove all of it, and kill whatever still lives in it."""
        for space in NAMESPACES.glob(f"{self.name}-*"):
            for pid in ip("netns", "pids", space.name, check=False).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            ip("netns", "delete", space.name, check=False)
        ip("link", "delete", self.name, check=False)
