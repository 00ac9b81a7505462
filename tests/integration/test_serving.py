"""Every way of serving the formula, each applied once for real."""

import json

import pytest

from tests.integration.support import (
    WINDOW,
    apply,
    apply_masterless,
    make_masterless,
    person,
    pillar,
    succeeded,
)
from tests.lab.totp import Codes

TOP = "base: {'*': [sshd_mfa]}\n"


@pytest.fixture
def people(lab):
    return {"ann": person(lab, "ann"), "robot": person(lab, "robot", role="robot", totp=None)}


@pytest.fixture
def works(lab, people):
    """The proof that an apply did its job: real logins."""

    def check(host):
        codes = Codes(people["ann"]["totp"]["secret"], window=WINDOW)
        assert lab.client.login(host.name, "ann", key="ann", code=codes.next()).ok
        assert not lab.client.login(host.name, "ann", key="ann").ok
        assert lab.client.login(host.name, "robot", key="robot").ok

    return check


def test_gitfs_from_a_bare_repository(lab, host, people, works):
    """The README's block: the remote twice, under two names, once with root: salt."""
    master = lab.hosts["salt"]
    lab.pillar(pillar(**people))
    # A repository with what is in the work tree now, committed or not.
    master.run(
        "rm -rf /srv/work /srv/git && mkdir -p /srv/work /srv/git && cd /srv/work && "
        "cp -a /srv/sshd_mfa/_modules /srv/sshd_mfa/_states /srv/sshd_mfa/salt . && "
        "git init -q -b main . && git add . && "
        "git -c user.name=lab -c user.email=lab@lab commit -q -m all && "
        "git clone -q --bare /srv/work /srv/git/sshd_mfa.git"
    )
    before = master.read("/etc/salt/master")
    master.put(
        "/etc/salt/master",
        """\
auto_accept: true
pillar_roots: {base: [/srv/pillar]}
fileserver_backend: [gitfs]
gitfs_provider: gitpython
gitfs_remotes:
  - file:///srv/git/sshd_mfa.git:
    - name: sshd_mfa_modules
    - base: main
  - file:///srv/git/sshd_mfa.git:
    - name: sshd_mfa_formula
    - base: main
    - root: salt
""",
    )
    try:
        master.run(["systemctl", "restart", "salt-master"])
        lab.wait_for_minions([host.name])
        succeeded(apply(lab, host))
        works(host)
        assert succeeded(apply(lab, host)).changes == {}
    finally:
        master.put("/etc/salt/master", before)
        master.run(["systemctl", "restart", "salt-master"])
        lab.wait_for_minions([host.name])


def test_masterless(lab, host, people, works):
    copy_repository(lab, host)
    make_masterless(host, pillar(**people))
    succeeded(apply_masterless(host))
    works(host)
    assert succeeded(apply_masterless(host)).changes == {}


def copy_repository(lab, host):
    """Hand the host what a checkout would; minions of the lab see it through their master only."""
    packed = (
        lab.hosts["salt"]
        .run("cd /srv/sshd_mfa && tar -c _modules _states salt | base64 -w0")
        .stdout
    )
    host.run("mkdir -p /srv/sshd_mfa && base64 -d | tar -x -C /srv/sshd_mfa", input=packed)


def test_salt_ssh_gets_in_afterwards(lab, host, people, works):
    """salt-ssh logs in as root with a key; root becomes a robot from the master's address."""
    master = lab.hosts["salt"]
    master.run("test -e /root/salt-ssh || ssh-keygen -q -t ed25519 -N '' -f /root/salt-ssh")
    key = master.read("/root/salt-ssh.pub").strip()
    host.put("/root/.ssh/authorized_keys", key + "\n", mode=0o600)
    host.run(["systemctl", "stop", "salt-minion"])
    people["root"] = {"role": "robot", "existing": True, "keys": {"salt-ssh": key}}
    data = pillar(**people)
    data["sshd_mfa"]["roles"]["robot"]["from"] = [
        f"{master.address}/32",
        f"{lab.network.client}/32",
    ]
    config = "/etc/salt-ssh"
    master.put(f"{config}/pillar/top.sls", TOP)
    master.put(f"{config}/pillar/sshd_mfa.sls", "#!json\n" + json.dumps(data), mode=0o600)
    master.put(
        f"{config}/master",
        f"file_roots: {{base: [/srv/sshd_mfa, /srv/sshd_mfa/salt]}}\n"
        f"pillar_roots: {{base: [{config}/pillar]}}\nroot_dir: /var/tmp/salt-ssh\n",
    )
    master.put(
        f"{config}/roster",
        json.dumps({host.name: {"host": host.address, "user": "root", "priv": "/root/salt-ssh"}}),
    )
    call = ["salt-ssh", "-c", config, "-i", "--wipe", "--out=json", host.name]
    first = json.loads(master.run([*call, "state.apply", "sshd_mfa"], timeout=300).stdout)
    results = {s["__id__"]: s["result"] for s in first[host.name].values()}
    assert set(results.values()) == {True}, first
    works(host)
    # In again, through the policy that was just applied: by key alone, and only from there.
    second = json.loads(master.run([*call, "state.apply", "sshd_mfa"], timeout=300).stdout)
    assert {s["__id__"]: s["changes"] for s in second[host.name].values() if s["changes"]} == {}
    # --wipe leaves no copy of the pillar behind.
    secret = people["ann"]["totp"]["secret"]
    left = host.run(
        ["grep", "-rla", secret, "/var/tmp", "/tmp", "/root", "/var/cache"], check=False
    )
    assert left.stdout == ""
