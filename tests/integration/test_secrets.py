"""No secret leaves its file, on any Salt, at any level of logging."""

import json
from urllib.parse import quote

import pytest

from tests.integration.support import apply, make_masterless, person, pillar, succeeded
from tests.lab import Lab, roots
from tests.lab.host import Spec

SECRET = "PBBGDIE4KQNP2NPDCAKF63JAQX6XZIE3"
SCRATCH = ["40817263", "95310482"]
HASH_FREE = [SECRET, *SCRATCH]

#: What an operator may call. Those whose purpose is to show a secret show it to a terminal or
#: put it into a file; neither is here.
CALLS = [
    ["state.apply", "sshd_mfa", "test=True"],
    ["state.apply", "sshd_mfa"],
    ["state.apply", "sshd_mfa"],
    ["state.show_sls", "sshd_mfa"],
    ["state.show_low_sls", "sshd_mfa"],
    ["state.show_lowstate"],
    ["google_authenticator.list"],
    ["google_authenticator.uri", "sean"],
    ["google_authenticator.qr", "sean"],
    ["ssh_users.recorded"],
    ["google_authenticator.new_scratch_codes", "sean"],
    ["google_authenticator.generate", "sean", "replace_secret=True"],
    ["google_authenticator.reset", "sean"],
    ["state.apply", "sshd_mfa.clean"],
]


def leaks(text, secrets):
    """The secrets that stand in a text, in whatever way Salt might write them."""
    return [s for s in secrets if s in text or s.lower() in text or quote(s) in text]


def spread(host, secrets):
    """Files of the host in which one of the secrets stands, except those meant to hold it."""
    pattern = "|".join(secrets)
    found = host.run(
        ["grep", "-rlaE", pattern, "/etc", "/home", "/root", "/run", "/tmp", "/var", "/srv/salt"],
        check=False,
    ).stdout.split()
    return [
        path
        for path in found
        if not path.startswith(("/var/lib/sshd_mfa/totp/", "/var/lib/sshd_mfa/handover/"))
    ]


@pytest.mark.parametrize("version", ["3006", "3007", "3008"])
def test_masterless_at_trace(version):
    """Everything on one host, where the log, the cache and the output are in one place."""
    spec = Spec("jump01", roots.salt("12", version), sees_repository=True)
    with Lab([spec]) as lab:
        host = lab.hosts["jump01"]
        data = pillar(
            sean=person(lab, "sean", totp={"secret": SECRET, "scratch_codes": SCRATCH}),
            # Entries that fail are where error messages and tracebacks come from.
            short=person(lab, "short", totp={"secret": "JBSWY3DPEHPK3PXP"}),
            lower=person(lab, "lower", totp={"secret": SECRET.lower(), "scratch_codes": [12]}),
        )
        make_masterless(host, data, "log_level_logfile: trace\n")
        secrets = [*HASH_FREE, "JBSWY3DPEHPK3PXP"]
        for call in CALLS:
            done = host.run(
                ["salt-call", "--local", "--log-level=trace", *call], check=False, timeout=300
            )
            text = done.stdout + done.stderr
            assert "[TRACE" in text, f"{call} was not logged at trace"
            # Entries with errors make the applies fail; everything else has to work.
            assert done.returncode == 0 or call[0] == "state.apply", text[-3000:]
            assert leaks(text, secrets) == [], call
            secrets += made_by(host, secrets)
            assert spread(host, secrets) == [], call
        assert host.run(["grep", "-c", "TRACE", "/var/log/salt/minion"]).stdout != "0\n"


def made_by(host, known):
    """Secrets and scratch codes that functions made since: they are secrets, too."""
    files = host.run("cat /var/lib/sshd_mfa/totp/* 2>/dev/null || true").stdout
    lines = [line for line in files.splitlines() if line and not line.startswith('"')]
    return [line for line in lines if line not in known]


def test_with_a_master(lab, host):
    """What the master keeps of an apply: job cache, events, logs. Its pillar cache is Salt's."""
    data = pillar(sean=person(lab, "sean", totp={"secret": SECRET, "scratch_codes": SCRATCH}))
    lab.pillar(data)
    master = lab.hosts["salt"]
    with_trace = (
        "sed -i '$a log_level_logfile: trace' /etc/salt/minion; systemctl restart salt-minion"
    )
    host.run(with_trace)
    lab.wait_for_minions([host.name])
    events = master.run("nohup salt-run state.event > /tmp/events 2>&1 & echo $!").stdout.strip()
    succeeded(apply(lab, host))
    for function in ("state.show_sls", "state.show_low_sls"):
        shown = lab.salt(host.name, function, "sshd_mfa")
        assert leaks(json.dumps(shown), HASH_FREE) == []
    lab.salt(host.name, "google_authenticator.uri", "sean")
    master.run(["kill", events], check=False)
    assert "state.apply" in master.read("/tmp/events")
    assert spread(host, HASH_FREE) == []
    on_master = [
        path
        for path in spread(master, HASH_FREE)
        # The compiled pillar in the master's cache is Salt's own; the README says so.
        if not path.startswith(
            ("/var/cache/salt/master/minions/", "/var/cache/salt/master/pillar/")
        )
    ]
    assert on_master == []
