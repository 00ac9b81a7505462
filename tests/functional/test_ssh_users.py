"""Accounts, groups and keys of a roster, on a real host."""

import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

GROUPS = ("sshd_mfa_test_a", "sshd_mfa_test_b")


@pytest.fixture
def groups(modules):
    before = {path: Path(path).read_text() for path in ("/etc/group", "/etc/gshadow")}
    yield GROUPS
    modules.ssh_users.set_members(dict.fromkeys(GROUPS))
    assert {path: Path(path).read_text() for path in before} == before


def test_members_move_in_one_rename(modules, groups):
    one, other = groups
    modules.ssh_users.set_members({one: ["root", "daemon"], other: []})
    inode = Path("/etc/group").stat().st_ino
    assert grp.getgrnam(one).gr_mem == ["root", "daemon"]
    assert 100 <= grp.getgrnam(one).gr_gid < 1000
    assert modules.ssh_users.set_members({one: ["daemon"], other: ["root"]}) is True
    assert (grp.getgrnam(one).gr_mem, grp.getgrnam(other).gr_mem) == (["daemon"], ["root"])
    assert Path("/etc/group").stat().st_ino != inode
    # Group files stay what shadow-utils' own checker takes for sound.
    subprocess.run(["grpck", "-r"], check=True, capture_output=True)


def test_nothing_to_do_writes_nothing(modules, groups):
    modules.ssh_users.set_members({groups[0]: ["root"]})
    inode = Path("/etc/group").stat().st_ino
    assert modules.ssh_users.plan_members({groups[0]: ["root"]}) == {}
    assert modules.ssh_users.set_members({groups[0]: ["root"]}) is False
    assert Path("/etc/group").stat().st_ino == inode


def test_the_lock_of_shadow_utils_is_respected(modules, groups):
    """While somebody holds lckpwdf(3), /etc/group is not written."""
    hold = (
        "import fcntl, time; lock = open('/etc/.pwd.lock', 'a');"
        " fcntl.lockf(lock, fcntl.LOCK_EX); print(flush=True); time.sleep(1.5)"
    )
    holder = subprocess.Popen(["python3", "-c", hold], stdout=subprocess.PIPE)
    holder.stdout.readline()
    modules.ssh_users.set_members({groups[0]: ["root"]})
    assert holder.poll() is not None, "the lock was still held when /etc/group was written"
    holder.wait()


USER = {
    "role": "user",
    "keys": {"laptop": "ssh-ed25519 AAAA test"},
    "fullname": "Test Person",
    "login_shell": "/bin/sh",
    "home": None,
    "uid": None,
    "gid": None,
    "groups": [],
    "existing": False,
    "provisioned": False,
}


@pytest.fixture
def converge(modules, tmp_path):
    """Plan and apply; what is applied has to be what was planned."""
    keys_dir = "/etc/ssh/keys_of_tests"

    def run(users, named=()):
        planned = modules.ssh_users.plan(users, keys_dir, named=named)
        assert modules.ssh_users.plan(users, keys_dir, named=named) == planned
        return modules.ssh_users.apply(users, planned, keys_dir)

    yield run
    modules.ssh_users.forget(keys_dir)
    assert not Path(keys_dir).exists()
    for name in ("tester", "tester2"):
        subprocess.run(["userdel", "-r", name], check=False, capture_output=True)


def test_an_account_is_made_once(modules, converge):
    outcome = converge({"tester": USER})
    assert outcome["tester"]["changes"] == {
        "account": "created",
        "keys": {"added": ["ssh-ed25519 AAAA test"], "removed": []},
    }
    account = pwd.getpwnam("tester")
    assert (account.pw_shell, account.pw_gecos) == ("/bin/sh", "Test Person")
    assert Path(account.pw_dir).stat().st_mode & 0o777 == 0o750
    assert converge({"tester": USER})["tester"] == {"changes": {}, "error": ""}


def test_a_changed_account(modules, converge):
    converge({"tester": USER})
    changed = {**USER, "fullname": "New Name", "login_shell": "/bin/bash", "groups": ["games"]}
    assert converge({"tester": changed})["tester"]["changes"] == {
        "groups": {"added": ["games"], "removed": []},
        "login_shell": {"old": "/bin/sh", "new": "/bin/bash"},
        "fullname": {"old": "Test Person", "new": "New Name"},
    }
    assert "tester" in grp.getgrnam("games").gr_mem
    # A group that was given is taken away again; one that somebody else gave stays.
    modules.ssh_users.set_members({"irc": ["tester"]})
    assert converge({"tester": {**changed, "groups": []}})["tester"]["changes"] == {
        "groups": {"added": [], "removed": ["games"]}
    }
    assert "tester" in grp.getgrnam("irc").gr_mem
    modules.ssh_users.set_members({"irc": []})


@pytest.mark.parametrize(
    ("name", "change", "error"),
    [
        ("daemon", {}, "account of the system"),
        ("root", {}, "account of the system"),
        ("nobody-here", {"existing": True}, "there is no such account"),
        ("tester2", {"groups": ["no-such-group"]}, "there is no group no-such-group in /etc/group"),
        ("tester2", {"gid": 54321}, "54321"),
    ],
)
def test_one_bad_entry_harms_one_user(converge, name, change, error):
    outcome = converge({name: {**USER, **change}, "tester": USER})
    assert error in outcome[name]["error"]
    assert outcome[name]["changes"] == {}
    assert outcome["tester"]["error"] == ""
    assert pwd.getpwnam("tester")


def test_numbers_and_home_that_are_given(converge):
    entry = {**USER, "uid": 2345, "gid": 100, "home": "/home/elsewhere"}
    assert converge({"tester": entry})["tester"]["error"] == ""
    account = pwd.getpwnam("tester")
    assert (account.pw_uid, account.pw_gid, account.pw_dir) == (2345, 100, "/home/elsewhere")
    assert converge({"tester": entry})["tester"] == {"changes": {}, "error": ""}
    # What would leave files behind is refused, and named with its mend.
    for field, value in (("uid", 2346), ("gid", 60), ("home", "/home/tester")):
        outcome = converge({"tester": {**entry, field: value}})["tester"]
        assert f"{field}: the account has {entry[field]}" in outcome["error"]
    assert pwd.getpwnam("tester") == account


def test_a_login_shell_that_the_pillar_does_not_name_stays(converge):
    converge({"tester": {**USER, "login_shell": None}})
    assert pwd.getpwnam("tester").pw_shell == "/bin/bash"
    subprocess.run(["chsh", "-s", "/bin/sh", "tester"], check=True)
    assert converge({"tester": {**USER, "login_shell": None}})["tester"]["changes"] == {}
    assert pwd.getpwnam("tester").pw_shell == "/bin/sh"


def test_a_group_that_somebody_else_gave_stays(modules, groups, converge):
    converge({"tester": USER})
    modules.ssh_users.set_members({groups[0]: ["tester"], groups[1]: []})
    both = {**USER, "groups": list(groups)}
    assert converge({"tester": both})["tester"]["changes"] == {
        "groups": {"added": [groups[1]], "removed": []}
    }
    assert converge({"tester": USER})["tester"]["changes"] == {
        "groups": {"added": [], "removed": [groups[1]]}
    }
    assert modules.ssh_users.members(list(groups)) == {groups[0]: ["tester"], groups[1]: []}


def test_odd_lines_of_etc_group_are_left_alone(modules, groups):
    path = Path("/etc/group")
    before = path.read_text()
    try:
        path.write_text(f"{before}\n+\n+:::\n# note\n")
        modules.ssh_users.set_members({groups[0]: ["root"]})
        text = path.read_text()
        assert text.startswith(f"{before}\n+\n+:::\n# note\n{groups[0]}:x:")
    finally:
        modules.ssh_users.set_members(dict.fromkeys(groups))
        path.write_text(before)


def test_an_account_of_somebody_else(converge):
    before = pwd.getpwnam("daemon")
    entry = {**USER, "existing": True, "login_shell": "/bin/bash"}
    outcome = converge({"daemon": entry})
    assert outcome["daemon"]["error"] == ""
    assert list(outcome["daemon"]["changes"]) == ["keys"]
    assert pwd.getpwnam("daemon") == before


def test_somebody_who_is_released(modules, groups, converge):
    converge({"tester": USER, "tester2": {**USER, "keys": {"1": "ssh-ed25519 BBBB other"}}})
    modules.ssh_users.set_members({groups[0]: ["tester", "tester2"]})
    modules.ssh_users.release("tester", "/etc/ssh/keys_of_tests")
    assert modules.ssh_users.members([groups[0]]) == {groups[0]: ["tester2"]}
    assert os.listdir("/etc/ssh/keys_of_tests") == ["tester2"]
    assert list(modules.ssh_users.recorded()) == ["tester2"]
    assert pwd.getpwnam("tester")
    with pytest.raises(CommandExecutionError, match="tester is not managed"):
        modules.ssh_users.release("tester")


def test_somebody_who_left_the_pillar(converge):
    converge({"tester": USER})
    outcome = converge({}, named=[])
    assert "no longer in the pillar, but tester can still log in" in outcome["tester"]["error"]
    assert Path("/etc/ssh/keys_of_tests/tester").exists()
    subprocess.run(["userdel", "-r", "tester"], check=True, capture_output=True)
    assert converge({})["tester"]["changes"] == {"account": "forgotten; it was removed by hand"}
    assert not Path("/etc/ssh/keys_of_tests/tester").exists()
    assert converge({}) == {}


def test_a_key_file_that_sshd_cannot_read_is_mended(converge):
    converge({"tester": USER})
    folder, path = Path("/etc/ssh/keys_of_tests"), Path("/etc/ssh/keys_of_tests/tester")
    for spoiled in (folder, path):
        spoiled.chmod(0o700)
        assert "keys" in converge({"tester": USER})["tester"]["changes"]
        assert spoiled.stat().st_mode & 0o005
    assert converge({"tester": USER})["tester"]["changes"] == {}


def test_a_shell_that_is_not_there_and_root_as_a_user(converge):
    outcome = converge(
        {
            "tester": {**USER, "login_shell": "/bin/zsh"},
            "root": {**USER, "existing": True, "keys": {"1": "ssh-ed25519 BBBB other"}},
        }
    )
    assert "/bin/zsh is not on this host" in outcome["tester"]["error"]
    assert "sshd asks root for no code" in outcome["root"]["error"]


def test_a_folder_in_the_place_of_a_key_file_harms_one_person(converge):
    Path("/etc/ssh/keys_of_tests/tester2").mkdir(parents=True)
    other = {**USER, "keys": {"1": "ssh-ed25519 BBBB other"}}
    outcome = converge({"tester": USER, "tester2": other})
    assert (outcome["tester"]["error"], outcome["tester2"]["error"] != "") == ("", True)
    Path("/etc/ssh/keys_of_tests/tester2").rmdir()
