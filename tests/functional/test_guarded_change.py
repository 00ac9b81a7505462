"""Files and groups that change as one, on a real host with a real sshd."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

DROP_IN = "/etc/ssh/sshd_config.d/00-test.conf"
GROUP = "sshd_mfa_test"


@pytest.fixture(autouse=True)
def host_as_it_was(modules):
    before = snapshot()
    yield
    modules.guarded_change.apply({DROP_IN: None}, {GROUP: None}, "ssh", leave=True)
    modules.guarded_change.forget_originals()
    assert snapshot() == before


def snapshot():
    tree = {}
    for path in [*Path("/etc/ssh").rglob("*"), *Path("/etc/pam.d").rglob("*"), Path("/etc/group")]:
        info = path.lstat()
        tree[path] = (info.st_mode, info.st_uid, path.read_bytes() if path.is_file() else None)
    return tree


def main_pid():
    show = ["systemctl", "show", "--property=MainPID", "--value", "ssh"]
    return subprocess.run(show, check=True, capture_output=True, text=True).stdout


def greeting():
    with socket.create_connection(("127.0.0.1", 22), timeout=5) as connection:
        return connection.recv(100)


def test_laid_out_and_loaded_without_a_restart(modules):
    pid = main_pid()
    text = "# BEGIN sshd_mfa\nVersionAddendum first\n"
    changes = modules.guarded_change.plan({DROP_IN: text}, {GROUP: ["root"]})
    assert changes == {
        DROP_IN: f"--- /dev/null\n+++ {DROP_IN}\n@@ -0,0 +1,2 @@\n"
        "+# BEGIN sshd_mfa\n+VersionAddendum first\n",
        "groups": {GROUP: {"added": ["root"], "removed": []}},
    }
    modules.guarded_change.apply({DROP_IN: text}, {GROUP: ["root"]}, "ssh")
    assert b"first" in greeting()
    assert main_pid() == pid
    assert modules.guarded_change.plan({DROP_IN: text}, {GROUP: ["root"]}) == {}


def test_a_drop_in_that_sshd_does_not_read_is_never_laid_out(modules):
    with pytest.raises(CommandExecutionError, match=r"00-test.conf.*(?s:.)*Nothing was changed"):
        modules.guarded_change.apply({DROP_IN: "NoSuchKeyword yes\n"}, {GROUP: []}, "ssh")
    assert not Path(DROP_IN).exists()
    assert modules.ssh_users.members([GROUP]) == {GROUP: None}


def test_that_there_was_no_file_is_remembered(modules):
    path = "/etc/ssh/test.banner"
    for text in ("first\n", "second\n"):
        modules.guarded_change.write(path, text)
    assert modules.guarded_change.original(path) is None
    modules.guarded_change.write(path, None)


def test_a_failed_probe_brings_everything_back(modules):
    probe = {"user": "root", "address": "127.0.0.1", "expected": {"maxauthtries": "3"}}
    with pytest.raises(CommandExecutionError, match="maxauthtries is 5 for root, not 3") as error:
        modules.guarded_change.apply(
            {DROP_IN: "MaxAuthTries 5\n"}, {GROUP: ["root"]}, "ssh", [probe]
        )
    assert "everything is as it was" in str(error.value)
    assert not Path(DROP_IN).exists()
    assert modules.ssh_users.members([GROUP]) == {GROUP: None}


def test_what_an_interrupted_run_wrote_is_loaded_by_the_next(modules):
    text = "VersionAddendum interrupted\n"
    Path(DROP_IN).write_text(text)
    Path("/run/sshd_mfa.reload-pending").touch()
    assert b"interrupted" not in greeting()
    assert "reload" in modules.guarded_change.plan({DROP_IN: text}, {})
    modules.guarded_change.apply({DROP_IN: text}, {}, "ssh")
    assert b"interrupted" in greeting()
    assert modules.guarded_change.plan({DROP_IN: text}, {}) == {}


def test_connections_that_have_not_logged_in_are_cut(modules):
    """They run under the old configuration, in which a code may be taken for a password."""
    with socket.create_connection(("127.0.0.1", 22), timeout=5) as connection:
        connection.recv(100)
        time.sleep(0.3)
        modules.guarded_change.apply({DROP_IN: "VersionAddendum new\n"}, {}, "ssh")
        connection.settimeout(5)
        try:
            # What was still under way may come first; then the end.
            while connection.recv(4096):
                pass
        except ConnectionResetError:
            pass


def test_nothing_stays_of_files_that_had_another_name(modules, states, testmode):
    """The pillar named another drop-in and another PAM service when they were laid out."""
    begin, end = modules.mfa_policy.marks()
    main, service = "/etc/ssh/sshd_config", "/etc/pam.d/test-other"
    include = modules.sshd_config.plan_drop_in("/etc/ssh/test-other.conf", "UsePAM yes\n")
    files = {
        **{
            path: text.replace("UsePAM", f"{begin}\n{end}\nUsePAM")
            for path, text in include.items()
        },
        main: include[main],
        DROP_IN: f"{begin}\nVersionAddendum old\n{end}\n",
        service: f"{begin}\nauth required pam_deny.so\n{end}\nauth required pam_permit.so\n",
    }
    modules.guarded_change.keep_original(service, "auth required pam_permit.so\n")
    modules.guarded_change.apply(files, {}, "ssh")
    ret = states.sshd_mfa.absent(
        name="gone", drop_in="/etc/ssh/sshd_config.d/00-new.conf", test=testmode
    )
    assert ret.result is (None if testmode else True), ret.comment
    assert set(files) <= set(ret.changes)
    assert Path(DROP_IN).exists() == testmode
    if testmode:
        ret = states.sshd_mfa.absent(name="gone", drop_in="/etc/ssh/sshd_config.d/00-new.conf")
    assert Path(service).read_text() == "auth required pam_permit.so\n"
    Path(service).unlink()  # the rest is compared with how it was by the fixture


def test_the_first_original_is_kept(modules):
    path = Path("/etc/ssh/test.banner")
    try:
        path.write_text("old\n")
        for text in ("new\n", "newer\n"):
            modules.guarded_change.write(str(path), text)
            assert modules.guarded_change.original(str(path)) == "old\n"
        assert Path("/var/lib/sshd_mfa/original").stat().st_mode & 0o777 == 0o700
    finally:
        path.unlink()


def test_an_sshd_that_is_not_the_services_is_not_left_behind(modules):
    """It would go on with the old configuration, while PAM changes at once."""
    with pytest.raises(CommandExecutionError, match="there is no such service"):
        modules.guarded_change.apply({DROP_IN: "MaxAuthTries 5\n"}, {}, "openssh")
    subprocess.run(["/usr/sbin/sshd", "-p", "2200", "-o", "PidFile=/run/other.pid"], check=True)
    try:
        time.sleep(0.3)
        with pytest.raises(CommandExecutionError, match="listens, and is not ssh"):
            modules.guarded_change.apply({DROP_IN: "MaxAuthTries 5\n"}, {}, "ssh")
    finally:
        os.kill(int(Path("/run/other.pid").read_text()), 9)
    assert not Path(DROP_IN).exists()


def test_an_address_that_sshd_cannot_have_is_refused(modules):
    with pytest.raises(CommandExecutionError, match=r"could not listen on 192\.0\.2\.1 port 22"):
        modules.guarded_change.apply({DROP_IN: "ListenAddress 192.0.2.1\n"}, {}, "ssh")
    refused = pytest.raises(CommandExecutionError, match="could not listen on")
    with socket.create_server(("", 8022)), refused:
        modules.guarded_change.apply({DROP_IN: "Port 22\nPort 8022\n"}, {}, "ssh")
    assert greeting().startswith(b"SSH-2.0")


def test_an_sshd_that_died_of_the_change_is_started_again(modules, monkeypatch):
    """What no check foresees: here the check itself is taken away."""
    module = sys.modules[modules.guarded_change.apply.__module__]
    monkeypatch.setattr(module, "_refuse_unbound", lambda *_: None)
    monkeypatch.setattr(module, "_RELOAD_SECONDS", 3)
    with pytest.raises(CommandExecutionError, match="everything is as it was"):
        modules.guarded_change.apply({DROP_IN: "ListenAddress 192.0.2.1\n"}, {}, "ssh")
    time.sleep(0.5)
    assert greeting().startswith(b"SSH-2.0")
