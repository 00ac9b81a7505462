"""Words in which the integration tests speak: a pillar, an apply, and what hosts remember."""

import json
from dataclasses import dataclass

import pyotp

from tests.lab import Host, Lab

#: Many codes are valid at once, so that tests need not wait for the next one.
WINDOW = 41


def pillar(**people):
    """A pillar that lets tests log in as often as they like."""
    return {
        "sshd_mfa": {
            "totp": {"window": WINDOW, "rate_limit": {"attempts": 100, "seconds": 30}},
            "roles": {"robot": {"from": ["10.0.0.0/8"]}},
            "users": people,
        }
    }


def person(lab: Lab, name: str, **more):
    """The pillar's entry of a person with a key of the lab's client and a second factor."""
    entry = {"keys": {"lab": lab.client.public(name)}, "totp": {"secret": pyotp.random_base32()}}
    entry.update(more)
    return {key: value for key, value in entry.items() if value is not None}


@dataclass
class Applied:
    """What one state.apply returned for one minion."""

    states: dict

    @property
    def changes(self):
        return {name: state["changes"] for name, state in self._named() if state["changes"]}

    @property
    def results(self):
        return {name: state["result"] for name, state in self._named()}

    @property
    def comments(self):
        return "\n".join(state["comment"] for _, state in self._named())

    def _named(self):
        return [(state["__id__"], state) for state in self.states.values()]


def apply(lab: Lab, host: Host, sls="sshd_mfa", **options) -> Applied:
    """The command of the README, on one host; fails where Salt could not even render."""
    returned = lab.salt(host.name, "state.apply", sls, **options)[host.name]
    assert isinstance(returned, dict), returned
    return Applied(returned)


def succeeded(applied: Applied) -> Applied:
    assert all(result is True for result in applied.results.values()), applied.comments
    return applied


def make_masterless(host: Host, data: dict, config: str = "") -> None:
    """Set a host up as the README says for a masterless one."""
    host.put("/srv/pillar/top.sls", "base: {'*': [sshd_mfa]}\n")
    host.put("/srv/pillar/sshd_mfa.sls", "#!json\n" + json.dumps(data), mode=0o600)
    host.put(
        "/etc/salt/minion",
        "file_client: local\nfile_roots: {base: [/srv/sshd_mfa, /srv/sshd_mfa/salt]}\n"
        f"pillar_roots: {{base: [/srv/pillar]}}\n{config}",
    )


def apply_masterless(host: Host) -> Applied:
    call = ["salt-call", "--local", "--out=json", "state.apply", "sshd_mfa"]
    return Applied(json.loads(host.run(call, timeout=300).stdout)["local"])


def snapshot(host: Host, *folders: str) -> str:
    """Names, types, owners, modes, links and contents of everything below some folders."""
    listing = host.run(["find", *folders, "-printf", r"%p %y %u %g %m %l\n"]).stdout.splitlines()
    sums = host.run(["find", *folders, "-type", "f", "-exec", "sha256sum", "{}", "+"]).stdout
    return "\n".join([*sorted(listing), *sorted(sums.splitlines())])
