"""Clean leaves the host as it was before the first apply."""

from tests.integration.support import WINDOW, apply, person, pillar, snapshot, succeeded
from tests.lab.totp import Codes

SECRET = "PBBGDIE4KQNP2NPDCAKF63JAQX6XZIE3"


def test_byte_for_byte_and_every_old_way_in(lab, host):
    # The PAM module first: its package is no part of /etc/ssh or /etc/pam.d, and it stays.
    host.run(["useradd", "--create-home", "--shell", "/bin/bash", "ann"])
    host.run(["install", "-d", "-o", "ann", "-g", "ann", "-m", "700", "/home/ann/.ssh"])
    host.put("/home/ann/.ssh/authorized_keys", lab.client.public("ann") + "\n")
    host.run(["sh", "-c", "echo ann:old-password | chpasswd"])
    secret_file = f'{SECRET}\n" WINDOW_SIZE 3\n" DISALLOW_REUSE\n" TOTP_AUTH\n40817263\n95310482\n'
    host.put("/home/ann/.google_authenticator", secret_file, mode=0o600)
    host.run(["chown", "ann:ann", "/home/ann/.google_authenticator"])
    assert lab.client.login(host.name, "ann", key="ann").ok
    before = snapshot(host, "/etc/ssh", "/etc/pam.d")
    groups = host.read("/etc/group")

    data = pillar(ann=person(lab, "ann", totp=None), ben=person(lab, "ben"))
    data["sshd_mfa"]["sshd"] = {"banner": "hello\n"}
    lab.pillar(data)
    succeeded(apply(lab, host))
    data["sshd_mfa"]["sshd"] = {"banner": "hello again\n"}
    lab.pillar(data)
    succeeded(apply(lab, host))
    codes = Codes(SECRET, window=WINDOW)
    assert not lab.client.login(host.name, "ann", key="ann").ok
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
    assert lab.client.login(host.name, "ann", key="ann", code="40817263").ok

    predicted = apply(lab, host, "sshd_mfa.clean", test=True)
    assert snapshot(host, "/etc/ssh", "/etc/pam.d") != before
    applied = succeeded(apply(lab, host, "sshd_mfa.clean"))
    assert predicted.changes == applied.changes
    assert snapshot(host, "/etc/ssh", "/etc/pam.d") == before
    assert [g for g in host.read("/etc/group").splitlines() if "sshd_mfa" in g] == []
    assert set(groups.splitlines()) <= set(host.read("/etc/group").splitlines())

    assert lab.client.login(host.name, "ann", key="ann").ok
    # Ben came with the formula and has no old way in.
    assert not lab.client.login(host.name, "ben", key="ben").ok
    # The adopted secret is handed back with what was spent since.
    returned = host.read("/home/ann/.google_authenticator")
    assert returned.startswith(SECRET)
    assert "40817263" not in returned
    assert "95310482" in returned
    assert succeeded(apply(lab, host, "sshd_mfa.clean")).changes == {}


def test_homes_get_their_keys_back(lab, host):
    host.run(["useradd", "--create-home", "--shell", "/bin/bash", "ann"])
    host.run(["install", "-d", "-o", "ann", "-g", "ann", "-m", "700", "/home/ann/.ssh"])
    host.put("/home/ann/.ssh/authorized_keys", "# mine\n" + lab.client.public("old") + "\n")
    host.run(["chown", "ann:ann", "/home/ann/.ssh/authorized_keys"])
    data = pillar(ann=person(lab, "ann"))
    data["sshd_mfa"]["authorized_keys"] = {"store": "home"}
    lab.pillar(data)
    succeeded(apply(lab, host))
    assert "# mine" not in host.read("/home/ann/.ssh/authorized_keys")
    succeeded(apply(lab, host, "sshd_mfa.clean"))
    assert (
        host.read("/home/ann/.ssh/authorized_keys") == "# mine\n" + lab.client.public("old") + "\n"
    )
    assert lab.client.login(host.name, "ann", key="old").ok
