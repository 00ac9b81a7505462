"""What the lab promises to those who test with it, and to the machine it runs on."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pyotp
import pytest

from tests.lab import Lab, cache, roots, runs
from tests.lab.console import LabError
from tests.lab.host import Spec
from tests.lab.network import Network, ip
from tests.lab.totp import Codes

SMALL = [Spec("tiny", roots.root("12"))]
# Another process with a lab of its own: it tells the lab's name, then stays until it is ended.
KEEPER = """
import time
from tests.integration.test_lab import SMALL
from tests.lab import Lab
with Lab(SMALL) as lab:
    print(lab.network.name, flush=True)
    time.sleep(600)
"""


def traces(name: str) -> list[str]:
    """Whatever of a lab is found on this machine."""
    links = [line.split(":")[1].strip() for line in ip("-oneline", "link").splitlines()]
    found = [f"link {link}" for link in links if link.partition("@")[0].partition("-")[0] == name]
    found += [f"name space {path.name}" for path in Path("/run/netns").glob(f"{name}-*")]
    found += [f"folder {path}" for path in Path("/run/systemd").glob(f"nspawn/*/{name}-*")]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{name}-*")]
    found += [f"run {path}" for path in runs.folder().glob(name)]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text()
            mounts = (process / "mountinfo").read_text()
        except OSError:
            continue
        if f"/runs/{name}/" in words + mounts or f"\0{name}-" in words:
            found.append(f"process {words!r}")
    return found


@contextmanager
def keeper():
    """Another process's lab: the process, and the lab's name."""
    process = subprocess.Popen(
        [sys.executable, "-c", KEEPER], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
    )
    try:
        # Progress lines come before.
        names = (line.strip() for line in process.stdout)
        yield process, next(name for name in names if name.startswith("mfa") and " " not in name)
    finally:
        process.kill()
        process.communicate()
        runs.sweep()


def reaches(address: str) -> bool:
    """Whether an SSH server answers this machine. A proxy may take any connection."""
    try:
        with socket.create_connection((address, 22), timeout=3) as connection:
            connection.settimeout(3)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def test_the_client_reaches_the_outer_hosts_only(lab):
    assert reaches(lab.hosts["jump01"].address)
    assert not reaches(lab.hosts["db01"].address)


@pytest.mark.parametrize(("name", "reached"), [("jump01", True), ("jump02", True), ("salt", False)])
def test_only_jump_hosts_reach_the_inner_host(lab, name, reached):
    knock = "timeout 3 bash -c '</dev/tcp/db01/22'"
    assert (lab.hosts[name].run(knock, check=False).returncode == 0) is reached


def test_hosts_have_no_way_to_the_outside(lab):
    """Neither through this machine nor around it: what they need they have."""
    for host in lab.hosts.values():
        assert host.run("ip route show default").stdout == ""


def test_a_fresh_host_has_forgotten_everything_but_its_minion_key(lab):
    host = lab.hosts["jump02"]
    host.put("/etc/forgotten", "")
    host.run(["useradd", "forgotten"])
    assert lab.fresh("jump02") is host
    assert host.run("test -e /etc/forgotten || getent passwd forgotten", check=False).returncode
    assert lab.salt("jump02", "test.ping") == {"jump02": True}


def test_a_stock_host_lets_in_by_key_alone(lab):
    host = lab.fresh("jump01")
    host.account("ann", lab.client.public("ann"))
    assert lab.client.login("jump01", "ann", key="ann", command="id -un").stdout == "ann\n"
    refused = lab.client.login("jump01", "ann", code="123456")
    assert (refused.ok, refused.rc, len(refused.prompts)) == (False, 255, 1)
    assert "123456" not in " ".join(refused.argv)


def test_every_login_is_counted(lab):
    counter = Path(os.environ.get("LAB_LOGINS") or lab.folder / "logins")
    before = counter.stat().st_size if counter.exists() else 0
    lab.client.login("jump01", "nobody-of-that-name")
    assert counter.stat().st_size == before + 1


def test_a_minion_that_is_down_is_an_error(lab):
    host = lab.hosts["jump01"]
    host.run(["systemctl", "stop", "salt-minion"])
    with pytest.raises(LabError, match="jump01"):
        lab.salt("jump01", "test.ping", timeout=2)
    host.run(["systemctl", "start", "salt-minion"])
    lab.wait_for_minions(["jump01"])


def test_a_failing_command_tells_what_it_said(lab):
    with pytest.raises(LabError, match="db01: 'echo why >&2; exit 3' exited 3\n\nwhy"):
        lab.hosts["db01"].run("echo why >&2; exit 3")


def test_a_command_that_hangs_is_ended(lab):
    with pytest.raises(subprocess.TimeoutExpired):
        lab.hosts["db01"].run("sleep 987", timeout=1)
    time.sleep(0.2)
    assert lab.hosts["db01"].run("pgrep -fx 'sleep 987'", check=False).stdout == ""


def test_two_labs_at_once_and_no_trace_of_the_one_that_ends(lab):
    before = ip("-oneline", "link"), Path("/proc/sys/net/ipv4/ip_forward").read_text()
    with Lab(SMALL) as other:
        name = other.network.name
        assert not other.network.outer.overlaps(lab.network.outer)
        assert other.hosts["tiny"].run("hostname").stdout == "tiny\n"
        assert reaches(other.hosts["tiny"].address)
        assert len(traces(name)) > 5
    assert traces(name) == []
    assert (ip("-oneline", "link"), Path("/proc/sys/net/ipv4/ip_forward").read_text()) == before
    assert lab.hosts["jump01"].run("hostname").stdout == "jump01\n"


def test_the_networks_of_two_labs_are_apart(lab):
    with Lab(SMALL) as other:
        knock = f"timeout 3 bash -c '</dev/tcp/{lab.hosts['jump01'].address}/22'"
        assert other.hosts["tiny"].run(knock, check=False).returncode != 0


def test_the_next_lab_removes_what_a_killed_one_left():
    with keeper() as (process, name):
        process.kill()
        process.wait()
        assert [trace for trace in traces(name) if "systemd-nspawn" in trace]
        with Lab(SMALL) as other:
            assert other.hosts["tiny"].run("hostname").stdout == "tiny\n"
            left = traces(name)
        # The name is free again, so the new lab may have taken it.
        assert (left == []) is (other.network.name != name)
        assert traces(name) == []


def test_a_lab_at_work_is_not_swept():
    with keeper() as (_, name):
        assert name not in runs.sweep([name])
        assert Network(int(name.removeprefix("mfa"))).name == name
        assert [trace for trace in traces(name) if "systemd-nspawn" in trace]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_lab_that_is_interrupted_leaves_nothing(number):
    with keeper() as (process, name):
        process.send_signal(number)
        process.wait(timeout=30)
        assert traces(name) == []


def command(*argv: str, **options) -> subprocess.CompletedProcess:
    """`./lab …` as somebody types it."""
    return subprocess.run(
        ["./lab", *argv], capture_output=True, text=True, check=False, cwd=Path.cwd(), **options
    )


def test_up_stays_until_down():
    up = command("up")
    assert up.returncode == 0, up.stdout + up.stderr
    name = up.stdout.split()[-1]
    try:
        assert name in runs.kept()
        environment = {**os.environ, "LAB_RUN": name}
        shell = command("shell", "jump02", "hostname; exit 3", env=environment)
        assert (shell.stdout, shell.returncode) == ("jump02\n", 3)
        wrong = command("shell", "jump03", env=environment)
        assert wrong.stderr == "lab: there is no host jump03: salt, jump01, jump02, db01\n"
    finally:
        command("down", name)
    assert traces(name) == []


def test_who_is_not_root_is_told():
    refused = command("demo", user="nobody")
    assert refused.returncode == 1
    assert refused.stderr.startswith("lab: ")
    assert "run it as root" in refused.stderr


@pytest.mark.parametrize(
    ("release", "problem"),
    [
        ('ID=debian\nVERSION_ID="11"\nPRETTY_NAME="Debian 11"', "this is Debian 11"),
        ('ID=ubuntu\nVERSION_ID="24.04"\nPRETTY_NAME="Ubuntu 24.04"', "this is Ubuntu 24.04"),
    ],
)
def test_another_system_is_told(tmp_path, release, problem):
    (tmp_path / "os-release").write_text(release)
    elsewhere = 'mount --bind "$1" /etc/os-release; ./lab demo'
    refused = subprocess.run(
        ["unshare", "--mount", "sh", "-c", elsewhere, "lab", tmp_path / "os-release"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr == f"lab: the lab needs Debian 12 or newer, {problem}\n"


def test_an_entry_that_fails_half_way_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))

    def half(place):
        (place / "half").touch()
        raise LabError("no disk")

    with pytest.raises(LabError):
        cache.entry("thing", "key", half)
    whole = cache.entry("thing", "key", lambda place: (place / "whole").touch())
    assert [path.name for path in whole.iterdir()] == ["whole"]


def test_an_entry_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LAB_CACHE", str(tmp_path))
    made = []

    def slowly(place):
        made.append(place)
        time.sleep(0.3)

    threads = [threading.Thread(target=cache.entry, args=("thing", "key", slowly)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_codes_are_handed_out_once_and_are_taken_by_the_server():
    secret = pyotp.random_base32()
    totp, codes = pyotp.TOTP(secret), Codes(secret)
    given = [codes.next(), codes.next()]
    assert len(set(given)) == 2
    # Window 3: the step before, this one, and the next.
    assert all(totp.verify(code, valid_window=1) for code in given)
