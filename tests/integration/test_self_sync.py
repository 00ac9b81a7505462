"""Nobody has to synchronize modules by hand."""

from tests.integration.support import WINDOW, apply, person, pillar, succeeded
from tests.lab.totp import Codes
from tests.support import REPO, load

MODULES = "/var/cache/salt/minion/extmods/modules"
VERSION = load("modules", "sshd_mfa").version()


def test_fresh_then_upgraded_each_in_test_mode_first(lab, host):
    assert "is not available" in lab.salt(host.name, "sshd_mfa.version")[host.name]
    people = {"ann": person(lab, "ann")}
    lab.pillar(pillar(**people))
    predicted = apply(lab, host, test=True)
    assert predicted.changes["sshd_mfa users"]["ann"]["account"] == "created"
    assert "ann" not in host.read("/etc/passwd")
    succeeded(apply(lab, host))
    codes = Codes(people["ann"]["totp"]["secret"], window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok

    # An older version: without a function that the states of today call.
    older = (REPO / "_modules/sshd_mfa.py").read_text().replace(f'"{VERSION}"', '"0.0.1"')
    host.put(f"{MODULES}/sshd_mfa.py", older)
    host.put(f"{MODULES}/guarded_change.py", "def nothing():\n    return None\n")
    host.run(["rm", "-rf", f"{MODULES}/__pycache__"])
    assert lab.salt(host.name, "sshd_mfa.version")[host.name] == "0.0.1"
    assert succeeded(apply(lab, host, test=True)).changes == {}
    assert lab.salt(host.name, "sshd_mfa.version")[host.name] == VERSION
    assert (
        host.read(f"{MODULES}/guarded_change.py")
        == (REPO / "_modules/guarded_change.py").read_text()
    )
    assert succeeded(apply(lab, host)).changes == {}


def test_a_part_alone_synchronizes_as_well(lab, host):
    lab.pillar(pillar(ann=person(lab, "ann")))
    applied = succeeded(apply(lab, host, "sshd_mfa.users"))
    assert applied.changes["sshd_mfa users"]["ann"]["account"] == "created"
    assert "sshd_mfa policy" not in applied.results
