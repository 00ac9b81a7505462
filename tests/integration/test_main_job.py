"""The main job: key and code, from one pillar, on both releases."""

import pytest

from tests.integration.support import apply, person, pillar, snapshot, succeeded
from tests.lab.totp import Codes

SECRET = "PBBGDIE4KQNP2NPDCAKF63JAQX6XZIE3"
SCRATCH = "40817263"


@pytest.fixture(scope="module")
def world(lab, shared):
    """A host with one person of each kind; nothing in this module changes the roster."""
    host = shared
    # Somebody who is not in the pillar, with a key in the home: their way in must not change.
    host.run(["useradd", "--create-home", "--shell", "/bin/bash", "outsider"])
    host.run(["install", "-d", "-o", "outsider", "-m", "700", "/home/outsider/.ssh"])
    host.put("/home/outsider/.ssh/authorized_keys", lab.client.public("outsider") + "\n")
    people = {
        "sean": person(
            lab, "sean", totp={"secret": SECRET, "scratch_codes": [SCRATCH, "95310482"]}
        ),
        "robot": person(lab, "robot", role="robot", totp=None),
    }
    lab.pillar(pillar(**people))
    before = snapshot(host, "/etc")
    predicted = apply(lab, host, test=True)
    assert snapshot(host, "/etc") == before
    applied = succeeded(apply(lab, host))
    return host, predicted, applied


def codes():
    return Codes(SECRET, window=41)


@pytest.fixture(scope="module")
def code():
    """Codes that were not used before, across the tests of this module."""
    return {"jump01": codes(), "jump02": codes()}


def test_the_first_apply_does_what_test_mode_predicted(world):
    _, predicted, applied = world
    ours = ("sshd_mfa users", "sshd_mfa policy")
    assert all(predicted.results[name] is None for name in ours)
    assert {n: predicted.changes[n] for n in ours} == {n: applied.changes[n] for n in ours}


def test_a_second_apply_changes_nothing(lab, world):
    host, _, _ = world
    assert succeeded(apply(lab, host)).changes == {}
    again = apply(lab, host, test=True)
    assert (again.changes, set(again.results.values())) == ({}, {True})


def test_key_and_code_let_in(lab, world, code):
    host, _, _ = world
    login = lab.client.login(
        host.name, "sean", key="sean", code=code[host.name].next(), command="id -un"
    )
    assert (login.ok, login.stdout.strip()) == (True, "sean"), login.stderr


@pytest.mark.parametrize(
    ("key", "given"),
    [("sean", None), (None, "right"), (None, None), ("sean", "000000"), ("outsider", "right")],
    ids=["key alone", "code alone", "nothing", "wrong code", "somebody else's key"],
)
def test_anything_less_is_refused(lab, world, code, key, given):
    host, _, _ = world
    given = code[host.name].next() if given == "right" else given
    login = lab.client.login(host.name, "sean", key=key, code=given)
    assert not login.ok
    assert "Permission denied" in login.stderr


def test_a_code_lets_in_once(lab, world, code):
    host, _, _ = world
    spent = code[host.name].next()
    assert lab.client.login(host.name, "sean", key="sean", code=spent).ok
    assert not lab.client.login(host.name, "sean", key="sean", code=spent).ok


def test_a_robot_needs_its_key_alone(lab, world):
    host, _, _ = world
    assert lab.client.login(host.name, "robot", key="robot").ok
    assert not lab.client.login(host.name, "robot", key="sean").ok


def test_who_is_not_in_the_pillar_keeps_their_way_in(lab, world):
    host, _, _ = world
    assert lab.client.login(host.name, "outsider", key="outsider").ok


def test_a_key_in_the_home_is_not_looked_at(lab, world, code):
    """A stolen session cannot add a key of its own."""
    host, _, _ = world
    host.run(["install", "-d", "-o", "sean", "-m", "700", "/home/sean/.ssh"])
    host.put("/home/sean/.ssh/authorized_keys", lab.client.public("thief") + "\n")
    host.run(["chown", "sean", "/home/sean/.ssh/authorized_keys"])
    assert not lab.client.login(host.name, "sean", key="thief", code=code[host.name].next()).ok
    host.run(["rm", "-r", "/home/sean/.ssh"])


def test_the_person_cannot_read_their_own_secret(lab, world, code):
    host, _, _ = world
    peek = "cat /var/lib/sshd_mfa/totp/sean; ls /var/lib/sshd_mfa"
    login = lab.client.login(
        host.name, "sean", key="sean", code=code[host.name].next(), command=peek
    )
    assert SECRET not in login.stdout
    assert login.stderr.count("Permission denied") == 2


def test_spent_stays_spent_over_an_apply(lab, world, code):
    """Ten logins and a used scratch code are no reason to write anything."""
    host, _, _ = world
    for _ in range(10):
        assert lab.client.login(host.name, "sean", key="sean", code=code[host.name].next()).ok
    assert lab.client.login(host.name, "sean", key="sean", code=SCRATCH).ok
    before = snapshot(host, "/etc", "/var/lib/sshd_mfa")
    assert succeeded(apply(lab, host)).changes == {}
    assert snapshot(host, "/etc", "/var/lib/sshd_mfa") == before
    assert not lab.client.login(host.name, "sean", key="sean", code=SCRATCH).ok
    assert lab.client.login(host.name, "sean", key="sean", code="95310482").ok


def test_the_proxy_jump_reaches_the_inner_host(lab, world, code):
    host, _, _ = world
    inner = lab.hosts["db01"]
    login = lab.client.login(
        host.name,
        "sean",
        key="sean",
        code=code[host.name].next(),
        options=["-W", f"{inner.address}:22"],
    )
    assert login.stdout.startswith("SSH-2.0-")


def test_forwarding_that_a_role_does_not_have(lab, world, code):
    host, _, _ = world
    login = lab.client.login(
        host.name,
        "sean",
        key="sean",
        code=code[host.name].next(),
        options=["-R", "7777:127.0.0.1:22", "-o", "ExitOnForwardFailure=yes"],
    )
    assert not login.ok
    assert "remote port forwarding failed" in login.stderr
