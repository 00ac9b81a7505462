"""What happens when the pillar changes on a host that is already managed."""

import pytest

from tests.integration.support import WINDOW, apply, person, pillar, snapshot, succeeded
from tests.lab.totp import Codes


def test_false_enrolled_true_and_back(lab, host):
    people = {"ann": person(lab, "ann"), "ben": person(lab, "ben", totp=None)}
    codes = Codes(people["ann"]["totp"]["secret"], window=WINDOW)
    data = pillar(**people)
    before = snapshot(host, "/etc/ssh", "/etc/pam.d")

    def logins():
        """Who gets in how: ann by key, ann by key and code, ben by key."""
        return (
            lab.client.login(host.name, "ann", key="ann").ok,
            lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok,
            lab.client.login(host.name, "ben", key="ben").ok,
        )

    expected = {
        # Keys lie in the central store, where sshd does not look yet.
        False: (False, False, False),
        "enrolled": (False, True, True),
        True: (False, True, False),
    }
    for enforce in (False, "enrolled", True, "enrolled", False):
        data["sshd_mfa"]["enforce"] = enforce
        lab.pillar(data)
        predicted = apply(lab, host, test=True)
        applied = apply(lab, host)
        assert predicted.changes.get("sshd_mfa policy") == applied.changes.get("sshd_mfa policy")
        assert logins() == expected[enforce], enforce
        assert apply(lab, host).changes == {}
        if enforce is False:
            assert without_keys(snapshot(host, "/etc/ssh", "/etc/pam.d")) == before


def test_both_stores_in_the_homes(lab, host):
    data = pillar(ann=person(lab, "ann"))
    data["sshd_mfa"]["authorized_keys"] = {"store": "home"}
    data["sshd_mfa"]["totp"]["store"] = "home"
    lab.pillar(data)
    succeeded(apply(lab, host))
    codes = Codes(data["sshd_mfa"]["users"]["ann"]["totp"]["secret"], window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
    assert not lab.client.login(host.name, "ann", key="ann").ok
    owner = host.run(["stat", "-c", "%U %a", "/home/ann/.google_authenticator"]).stdout.split()
    assert owner in (["ann", "400"], ["ann", "600"])
    assert succeeded(apply(lab, host)).changes == {}


def test_no_key_goes_into_a_home_whose_owner_is_not_asked_for_a_code(lab, host):
    data = pillar(ann=person(lab, "ann"), ben=person(lab, "ben", totp=None))
    data["sshd_mfa"]["authorized_keys"] = {"store": "home"}
    lab.pillar(data)
    applied = apply(lab, host)
    assert applied.results["sshd_mfa users"] is False
    assert "sshd_mfa:users:ben:totp: has no secret yet" in applied.comments
    assert not lab.client.login(host.name, "ben", key="ben").ok
    assert host.run(["test", "-e", "/home/ben/.ssh"], check=False).returncode == 1
    codes = Codes(data["sshd_mfa"]["users"]["ann"]["totp"]["secret"], window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok


def test_an_adopted_secret_keeps_its_person(lab, host):
    """Somebody set up by hand after the usual blog post need not enrol again."""
    secret = "PBBGDIE4KQNP2NPDCAKF63JAQX6XZIE3"
    host.run(["useradd", "--create-home", "--shell", "/bin/bash", "ann"])
    host.put(
        "/home/ann/.google_authenticator",
        f'{secret}\n" RATE_LIMIT 100 30\n" DISALLOW_REUSE\n" TOTP_AUTH\n40817263\n',
        mode=0o600,
    )
    host.run(["chown", "ann:ann", "/home/ann/.google_authenticator"])
    lab.pillar(pillar(ann=person(lab, "ann", totp=None)))
    predicted = apply(lab, host, test=True)
    applied = succeeded(apply(lab, host))
    assert predicted.changes["sshd_mfa users"] == applied.changes["sshd_mfa users"]
    codes = Codes(secret, window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
    assert lab.client.login(host.name, "ann", key="ann", code="40817263").ok
    assert host.run(["test", "-e", "/home/ann/.google_authenticator"], check=False).returncode == 1
    assert succeeded(apply(lab, host)).changes == {}
    assert not lab.client.login(host.name, "ann", key="ann", code="40817263").ok

    # A stolen session plants a secret of its own, and the person's is reset: nothing is adopted.
    planted = 'KVKFKRCPNZQUYMLXOVYDSQKJKZDTSRLD\n" TOTP_AUTH\n'
    host.put("/home/ann/.google_authenticator", planted, mode=0o600)
    host.run(["chown", "ann:ann", "/home/ann/.google_authenticator"])
    lab.salt(host.name, "google_authenticator.reset", "ann")
    applied = apply(lab, host)
    assert "sshd_mfa:users:ann:totp: has no secret yet" in applied.comments
    assert "sshd_mfa users" not in applied.changes
    assert host.run(["test", "-e", "/var/lib/sshd_mfa/totp/ann"], check=False).returncode == 1


def test_a_robot_is_refused_from_elsewhere(lab, host):
    data = pillar(robot=person(lab, "robot", role="robot", totp=None))
    data["sshd_mfa"]["roles"]["robot"]["from"] = ["192.0.2.0/24"]
    lab.pillar(data)
    succeeded(apply(lab, host))
    assert not lab.client.login(host.name, "robot", key="robot").ok
    data["sshd_mfa"]["roles"]["robot"]["from"] = [f"{lab.network.client}/32"]
    lab.pillar(data)
    succeeded(apply(lab, host))
    assert lab.client.login(host.name, "robot", key="robot").ok


def test_one_bad_entry_harms_one_person(lab, host):
    people = {
        "ann": person(lab, "ann"),
        "typo": {"key": lab.client.public("typo")},
        "daemon": person(lab, "daemon"),
        "masked": person(lab, "masked", totp={"secret": "**********"}),
    }
    lab.pillar(pillar(**people))
    applied = apply(lab, host)
    assert applied.results["sshd_mfa users"] is False
    assert applied.results["sshd_mfa policy"] is True
    for text in (
        "sshd_mfa:users:typo:key: no such key; did you mean keys?",
        "sshd_mfa:users:daemon: this is an account of the system (uid 1)",
        "sshd_mfa:users:masked:totp: secret: has stars",
    ):
        assert text in applied.comments
    codes = Codes(people["ann"]["totp"]["secret"], window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
    members = host.run(["getent", "group", "sshd_mfa"]).stdout.strip().rpartition(":")[2]
    # Who cannot be served stays as they are, and is not moved to where nothing lets them in.
    assert members.split(",") == ["ann"]


def test_a_broken_pillar_touches_nothing(lab, host):
    lab.pillar(pillar(ann=person(lab, "ann")))
    succeeded(apply(lab, host))
    before = snapshot(host, "/etc", "/var/lib/sshd_mfa")
    for broken in ({}, {"sshd_mfa": {"users": {}}}, {"sshd_mfa": {"enforced": True}}):
        lab.pillar(broken)
        applied = apply(lab, host)
        assert applied.results["sshd_mfa users"] is False
        assert applied.results["sshd_mfa policy"] is False
        assert snapshot(host, "/etc", "/var/lib/sshd_mfa") == before


def without_keys(listing):
    """A snapshot, but for the central store of keys, which is laid out in any case."""
    return "\n".join(line for line in listing.splitlines() if "authorized_keys.d" not in line)


INCLUDE = "Include /etc/ssh/sshd_config.d/*.conf"


@pytest.mark.parametrize("include", ["below", "missing", "commented out"])
def test_an_include_that_does_not_count(lab, host, include):
    """It is mended, the policy holds, and clean brings back every byte."""
    others = [line for line in host.read("/etc/ssh/sshd_config").splitlines() if line != INCLUDE]
    above = [f"#{INCLUDE}"] if include == "commented out" else []
    below = [INCLUDE] if include == "below" else []
    host.put(
        "/etc/ssh/sshd_config",
        "\n".join([*above, "UsePAM no", "MaxAuthTries 9", *others, *below, ""]),
    )
    before = snapshot(host, "/etc/ssh", "/etc/pam.d")
    data = pillar(ann=person(lab, "ann"))
    data["sshd_mfa"]["sshd"] = {"options": {"MaxAuthTries": 4}}
    lab.pillar(data)
    predicted = apply(lab, host, test=True).changes["sshd_mfa policy"]
    assert predicted == succeeded(apply(lab, host)).changes["sshd_mfa policy"]
    assert "/etc/ssh/sshd_config" in predicted
    codes = Codes(data["sshd_mfa"]["users"]["ann"]["totp"]["secret"], window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
    assert not lab.client.login(host.name, "ann", key="ann").ok
    assert "maxauthtries 4" in host.run(["sshd", "-T"]).stdout.splitlines()
    assert not apply(lab, host).changes
    succeeded(apply(lab, host, "sshd_mfa.clean"))
    assert snapshot(host, "/etc/ssh", "/etc/pam.d") == before


def test_options_that_add_up_over_files(lab, host):
    """Ours and the host's, each once."""
    host.put("/etc/ssh/sshd_config.d/50-own.conf", "AcceptEnv OWN_*\nDenyUsers own\n")
    data = pillar(ann=person(lab, "ann"))
    options = {"AcceptEnv": ["LAB_A", "LAB_B"], "DenyUsers": "lab", "ListenAddress": host.outer}
    data["sshd_mfa"]["sshd"] = {"options": options}
    lab.pillar(data)
    succeeded(apply(lab, host))
    assert not succeeded(apply(lab, host)).changes
    said = host.run(["sshd", "-T"]).stdout.splitlines()
    for line in ("acceptenv LAB_A", "acceptenv OWN_*", "denyusers lab", "denyusers own"):
        assert said.count(line) == 1
    code = Codes(data["sshd_mfa"]["users"]["ann"]["totp"]["secret"], window=WINDOW).next
    assert lab.client.login(host.name, "ann", key="ann", code=code).ok


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("00-a.conf", "Match User ann\n AuthenticationMethods publickey\n", "00-a.conf:2: "),
        (
            "00-a.conf",
            "Match Address 10.0.0.0/8\n ChallengeResponseAuthentication no\n",
            "00-a.conf:2: ",
        ),
        ("00-a.conf", "UsePAM no\n", "00-a.conf:1 (UsePAM no) is read before it"),
        ("99-z.conf", "Port 2222\n", "port is 22 and 2222"),
        ("99-z.conf", "Prot 2222\n", "99-z.conf: line 1: Bad configuration option: Prot"),
    ],
    ids=["Match", "Match by an older name", "global", "adds up", "wrong"],
)
def test_what_another_file_decides(lab, host, name, text, error):
    """The apply says where, and leaves nothing behind."""
    host.put(f"/etc/ssh/sshd_config.d/{name}", text)
    before = snapshot(host, "/etc/ssh", "/etc/pam.d")
    data = pillar(ann=person(lab, "ann"))
    data["sshd_mfa"]["sshd"] = {"port": 22}
    lab.pillar(data)
    applied = apply(lab, host)
    assert applied.results["sshd_mfa policy"] is False
    assert error in applied.comments
    assert "sshd_mfa_user" not in host.run(["cat", "/etc/group"]).stdout
    assert without_keys(snapshot(host, "/etc/ssh", "/etc/pam.d")) == before


def test_back_to_false_with_keys_and_secrets_in_homes(lab, host):
    """Who came in by their own key before does so again, and nobody else by a key alone."""
    host.account("ann", lab.client.public("old"))
    secret_file = 'PBBGDIE4KQNP2NPDCAKF63JAQX6XZIE3\n" TOTP_AUTH\n'
    host.put("/home/ann/.google_authenticator", secret_file, mode=0o600)
    host.run(["chown", "ann:ann", "/home/ann/.google_authenticator"])
    data = pillar(ann=person(lab, "ann", totp=None), ben=person(lab, "ben"))
    data["sshd_mfa"]["authorized_keys"] = {"store": "home"}
    lab.pillar(data)
    succeeded(apply(lab, host))
    codes = Codes("PBBGDIE4KQNP2NPDCAKF63JAQX6XZIE3", window=WINDOW)
    assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
    data["sshd_mfa"]["enforce"] = False
    lab.pillar(data)
    predicted = apply(lab, host, test=True)
    assert predicted.changes == succeeded(apply(lab, host)).changes
    assert lab.client.login(host.name, "ann", key="old").ok
    assert not lab.client.login(host.name, "ann", key="ann").ok
    assert not lab.client.login(host.name, "ben", key="ben").ok
    assert host.read("/home/ann/.google_authenticator").startswith(secret_file[:32])
    assert succeeded(apply(lab, host)).changes == {}


def test_a_port_and_a_banner(lab, host):
    data = pillar(ann=person(lab, "ann"))
    data["sshd_mfa"]["sshd"] = {"port": [22, 2222], "banner": "Authorized use only\n"}
    lab.pillar(data)
    succeeded(apply(lab, host))
    codes = Codes(data["sshd_mfa"]["users"]["ann"]["totp"]["secret"], window=WINDOW)
    for port in (22, 2222):
        login = lab.client.login(
            host.name,
            "ann",
            key="ann",
            code=codes.next(),
            options=[f"-p{port}", "-oLogLevel=INFO"],
        )
        assert login.ok
        assert "Authorized use only" in login.stderr
