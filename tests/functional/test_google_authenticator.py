"""Secret files on a real host, in root's store and in homes whose owners are hostile."""

import io
import logging
import os
import pty
import random
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import salt.loader
from salt.exceptions import CommandExecutionError

from tests.support import REPO, load

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
OTHER_SECRET = "MZXW6YTBOJRXEZLUMZXW6YTBOJRXEZLU"
CODES = [12345678, 23456789]
SETTINGS = {
    "window": 3,
    "step": 30,
    "rate_limit": {"attempts": 3, "seconds": 30},
    "disallow_reuse": True,
}
HOME_STORE = {**SETTINGS, "store": "home"}
FILE = f'{SECRET}\n" RATE_LIMIT 3 30\n" WINDOW_SIZE 17\n" DISALLOW_REUSE 56666666\n" TOTP_AUTH\n'

core = load("modules", "google_authenticator")


@pytest.fixture(autouse=True)
def no_secret_is_said():
    """No test may leave a secret or a scratch code in the log, at any level."""
    said = io.StringIO()
    handler, root = logging.StreamHandler(said), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield
    root.setLevel(level)
    root.removeHandler(handler)
    for secret in (SECRET, OTHER_SECRET, *map(str, CODES)):
        assert secret not in said.getvalue()


@pytest.fixture
def store():
    folder = Path("/var/lib/sshd_mfa/totp")
    yield folder
    subprocess.run(["rm", "-rf", "/var/lib/sshd_mfa"], check=True)


@pytest.fixture
def managed(modules):
    """``managed``, whose answers must never tell a secret."""

    def checked(users, settings=None, **arguments):
        answer = modules.google_authenticator.managed(users, settings or SETTINGS, **arguments)
        assert set(answer) == set(users)
        for said in (SECRET, OTHER_SECRET, *map(str, CODES)):
            assert said not in repr(answer)
        return answer

    return checked


@pytest.fixture
def home(account):
    return Path(account.pw_dir)


def owned(path, account, link_to=None):
    if link_to:
        path.symlink_to(link_to)
    os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    return path


def at_home(home, account, text=FILE):
    path = home / ".google_authenticator"
    path.write_text(text)
    path.chmod(0o400)
    return owned(path, account)


def untouched(path):
    """What would not be the same if somebody had changed a file."""
    info = path.lstat()
    return path.read_bytes(), info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def wanted(secret=SECRET, codes=CODES):
    return {"secret": secret, "scratch_codes": codes}


def changes(answer):
    return {name: result["changes"] for name, result in answer.items()}


# ---- The central store -----------------------------------------------------------------------


def test_a_new_store(managed, store):
    people = {"sean": wanted(), "ann": wanted(OTHER_SECRET, None), "bob": {}}
    expected = {"sean": {"secret": "set", "scratch codes": "2 issued"}, "ann": {"secret": "set"}}
    assert changes(managed(people, test=True)) == {**expected, "bob": {}}
    assert not store.exists()
    answer = managed(people)
    assert changes(answer) == {**expected, "bob": {}}
    assert answer["bob"] == {"result": True, "changes": {}, "comment": "has no secret yet"}
    assert sorted(os.listdir(store)) == ["ann", "sean"]
    assert [mode(store), mode(store / "sean"), (store / "sean").owner()] == [0o700, 0o600, "root"]
    assert core._parse((store / "sean").read_text()).scratch_codes == tuple(CODES)
    inodes = [path.stat().st_ino for path in store.iterdir()]
    assert changes(managed(people)) == {"sean": {}, "ann": {}, "bob": {}}
    assert [path.stat().st_ino for path in store.iterdir()] == inodes


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda path: path.chmod(0o400), {}),
        (lambda path: path.chmod(0o640), {"mode": {"old": "0640", "new": "0600"}}),
        (lambda path: os.chown(path, 1, 1), {"owner": {"old": 1, "new": 0}}),
    ],
    ids=["mode 0400", "mode 0640", "owner"],
)
def test_what_the_pam_module_would_refuse_is_put_right(managed, store, harm, expected):
    managed({"sean": wanted()})
    harm(store / "sean")
    before = (store / "sean").read_text()
    for test in (True, False):
        assert changes(managed({"sean": wanted()}, test=test)) == {"sean": expected}
    assert (store / "sean").read_text() == before
    assert changes(managed({"sean": wanted()})) == {"sean": {}}
    assert (store / "sean").stat().st_uid == 0


def test_one_bad_entry_harms_one_user(managed, store):
    managed({"torn": wanted(), "link": wanted(), "fifo": wanted()})
    (store / "torn").write_bytes(b"\0" * 10)
    (store / "link").unlink()
    (store / "link").symlink_to("/etc/shadow")
    (store / "fifo").unlink()
    os.mkfifo(store / "fifo")
    shadow = Path("/etc/shadow").read_text()
    answer = managed(
        {
            "stars": wanted("**********"),
            "short": wanted("MZXW6YTB"),
            "codes": wanted(codes=[1]),
            "../up": wanted(),
            "torn": {},
            "link": wanted(),
            "fifo": wanted(),
            "sean": wanted(),
        }
    )
    comments = {name: result["comment"] for name, result in answer.items() if not result["result"]}
    assert sorted(comments) == ["../up", "codes", "fifo", "link", "short", "stars", "torn"]
    assert "Salt 3008 masks" in comments["stars"]
    assert comments["codes"].startswith("scratch_codes:0: must be a number")
    assert comments["torn"] == (
        f"{store}/torn: there is a NUL byte in the file; remove it with google_authenticator.reset"
    )
    assert comments["fifo"] == f"{store}/fifo: is not a regular file"
    assert "is it a link?" in comments["link"]
    assert answer["sean"]["changes"] == {"secret": "set", "scratch codes": "2 issued"}
    assert Path("/etc/shadow").read_text() == shadow
    assert not store.with_name("up").exists()


def test_a_store_that_others_can_change_is_refused(managed, store):
    managed({"sean": wanted()})
    store.chmod(0o770)
    with pytest.raises(CommandExecutionError, match="others than root can change it"):
        managed({"sean": wanted()})


def test_a_full_disk_harms_whom_it_meets(managed, store):
    store.mkdir(mode=0o700, parents=True)
    tmpfs = ["mount", "-t", "tmpfs", "-o", "mode=0700,nr_inodes=6", "tmpfs", str(store)]
    subprocess.run(tmpfs, check=True)
    try:
        answer = managed({f"p{i}": wanted() for i in range(10)})
        failed = [name for name, result in answer.items() if not result["result"]]
        assert 0 < len(failed) < 10
        assert all("No space left" in answer[name]["comment"] for name in failed)
        assert sorted(os.listdir(store)) == sorted(set(answer) - set(failed))
    finally:
        subprocess.run(["umount", str(store)], check=True)


def elsewhere(code, **arguments):
    """Run code in a process of its own; ``ga`` is the module there."""
    prelude = (
        "import os; from tests.support import load; ga = load('modules', 'google_authenticator');"
        " ga.__salt__ = {}; "
    )
    return subprocess.Popen([sys.executable, "-c", prelude + code], cwd=REPO, **arguments)


def test_a_run_that_is_killed_leaves_old_or_new_files(store):
    people = {f"p{i}": wanted() for i in range(60)}
    core.managed(people, SETTINGS)
    chance = random.Random(1)
    halfway = 0
    for window in range(4, 24):
        call = f"ga.managed({people}, { ({**SETTINGS, 'window': window}) })"
        child = elsewhere(f"print(flush=True); {call}", stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        child.kill()
        child.communicate()
        files = {name: core._parse((store / name).read_text()) for name in people}
        assert all(not file.problems for file in files.values())
        assert {file.scratch_codes for file in files.values()} == {tuple(CODES)}
        windows = {file.window for file in files.values()}
        halfway += len(windows) > 1 or any(store.glob("*~*"))
    assert halfway, "no run was killed in the middle"
    for left_over in store.glob("*~*"):
        os.utime(left_over, (0, 0))
    core.managed(people, SETTINGS)
    assert sorted(os.listdir(store)) == sorted(people)


def test_a_login_that_writes_just_after_us_keeps_both_changes(store, monkeypatch):
    """
    The PAM module looks at the file, flushes its temporary file and renames it: what we exchange
    in between, it would undo.
    """
    core.managed({"sean": wanted()}, SETTINGS)
    path, temporary = store / "sean", store / "sean~Ab12Cd"
    put, met = core._put_in_place, []

    def with_a_login(place, staged, inode, found):
        put(place, staged, inode, found)
        if not met:
            met.append(threading.Timer(0.2, temporary.rename, [path]))
            met[0].start()

    monkeypatch.setattr(core, "_put_in_place", with_a_login)
    temporary.write_text(path.read_text().replace("12345678\n", ""))
    temporary.chmod(0o400)
    answer = core.managed({"sean": wanted()}, {**SETTINGS, "window": 4})
    assert answer["sean"]["changes"] == {"window": {"old": 3, "new": 4}}
    file = core._parse(path.read_text())
    assert (file.window, file.scratch_codes) == (4, (23456789,))
    assert met
    assert os.listdir(store) == ["sean"]


def test_a_login_by_our_older_state_undoes_nobody(store, monkeypatch):
    """
    One login wrote just before the exchange. Another looked at our version, which is older, while
    that stood there, and renames its own over the first one's when we have put that back.
    """
    core.managed({"sean": wanted()}, SETTINGS)
    path, temporary = store / "sean", store / "sean~Ab12Cd"
    rename, exchanges = core._rename, []

    def with_logins(place, one, other, how):
        if not exchanges:
            first = store / "first"
            first.write_text(path.read_text().replace("12345678\n", ""))
            first.rename(path)
        done = rename(place, one, other, how)
        exchanges.append(how)
        if len(exchanges) == 1:
            temporary.write_text(path.read_text().replace("23456789\n", ""))
        if len(exchanges) == 2:
            temporary.rename(path)
        return done

    monkeypatch.setattr(core, "_rename", with_logins)
    answer = core.managed({"sean": wanted()}, {**SETTINGS, "window": 4})
    assert answer["sean"]["result"]
    assert len(exchanges) == 3
    file = core._parse(path.read_text())
    assert (file.window, file.scratch_codes) == (4, ())
    assert os.listdir(store) == ["sean"]


# ---- The home store --------------------------------------------------------------------------


def test_a_file_at_home(managed, account, home):
    expected = {account.pw_name: {"secret": "set", "scratch codes": "2 issued"}}
    assert changes(managed({account.pw_name: wanted()}, HOME_STORE, test=True)) == expected
    assert os.listdir(home) == []
    assert changes(managed({account.pw_name: wanted()}, HOME_STORE)) == expected
    path = home / ".google_authenticator"
    info = path.stat()
    assert (info.st_uid, info.st_gid, mode(path)) == (account.pw_uid, account.pw_gid, 0o600)
    assert changes(managed({account.pw_name: wanted()}, HOME_STORE)) == {account.pw_name: {}}
    assert os.listdir(home) == [".google_authenticator"]


def test_somebodys_own_file_at_home_keeps_its_secret(managed, account, home):
    path = at_home(home, account)
    answer = managed({account.pw_name: {}}, HOME_STORE)
    assert changes(answer) == {account.pw_name: {"window": {"old": 17, "new": 3}}}
    assert path.read_text() == FILE.replace("WINDOW_SIZE 17", "WINDOW_SIZE 3")
    assert path.stat().st_uid == account.pw_uid


def link(home, account):
    (home / ".google_authenticator").symlink_to("/etc/shadow")


def hard_link(home, account):
    os.link("/etc/shadow", home / ".google_authenticator")


def link_to_own_file(home, account):
    at_home(home, account).rename(home / "spare")
    owned(home / ".google_authenticator", account, link_to="spare")


def hard_link_to_own_file(home, account):
    os.link(at_home(home, account), home / "spare")


def fifo(home, account):
    os.mkfifo(home / ".google_authenticator")


def folder(home, account):
    (home / ".google_authenticator").mkdir()


def roots_file(home, account):
    (home / ".google_authenticator").write_text(FILE)


def linked_home(home, account):
    home.rename(home.with_name("moved"))
    home.symlink_to(home.with_name("moved"))


def somebody_elses_home(home, account):
    os.chown(home, 1, 1)


HOSTILE = [
    *(link, hard_link, link_to_own_file, hard_link_to_own_file, fifo, folder, roots_file),
    *(linked_home, somebody_elses_home),
]


@pytest.mark.parametrize("trick", HOSTILE, ids=lambda trick: trick.__name__)
def test_a_hostile_home_is_refused_and_nothing_outside_touched(
    managed, account, home, store, trick
):
    trick(home, account)
    shadow = untouched(Path("/etc/shadow"))
    answer = managed({account.pw_name: wanted(), "root": wanted()}, HOME_STORE)
    assert answer[account.pw_name]["result"] is False
    assert answer["root"]["result"], answer
    Path("/root/.google_authenticator").unlink()
    assert untouched(Path("/etc/shadow")) == shadow

    adopting = managed({account.pw_name: {}})
    assert adopting[account.pw_name]["result"] is True
    assert adopting[account.pw_name]["changes"] == {}
    assert os.listdir(store) == []


SWAPPER = """
import os, pathlib, random, sys
home, victim, text = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
name = home / ".google_authenticator"
print(flush=True)
while True:
    for path in [name, *home.glob(".google_authenticator~*")]:
        tricks = (
            lambda: path.symlink_to(victim),
            lambda: path.write_text(text),
            lambda: os.mkfifo(path),
            lambda: os.link(home / "spare", path),
            lambda: path.unlink(),
        )
        try:
            path.unlink(missing_ok=True)
            random.choice(tricks)()
        except OSError:
            pass
"""


def test_a_home_whose_owner_swaps_names_all_the_time(managed, account, home):
    """Whatever the race ends with, what is root's stays as it is, and theirs alone is theirs."""
    victim = Path("/etc/victim")
    victim.write_text(FILE)
    before = untouched(victim)
    (home / "spare").write_text(FILE)
    owned(home / "spare", account)
    swapper = subprocess.Popen(
        ["/usr/bin/python3", "-c", SWAPPER, str(home), str(victim), FILE],
        user=account.pw_name,
        stdout=subprocess.PIPE,
    )
    try:
        swapper.stdout.readline()
        answers = [
            managed({account.pw_name: wanted()}, {**HOME_STORE, "window": 3 + turn % 90})
            for turn in range(200)
        ]
    finally:
        swapper.kill()
        swapper.wait()
    assert untouched(victim) == before
    victim.unlink()
    met = {answer[account.pw_name]["comment"] for answer in answers}
    assert len(met) >= 3, f"the two hardly met: {met}"
    for path in home.iterdir():
        assert path.lstat().st_uid == account.pw_uid


# ---- Adoption --------------------------------------------------------------------------------


def test_adoption_and_back(modules, managed, account, home, store):
    name, path = account.pw_name, at_home(home, account, FILE + "12345678\n23456789\n")
    expected = {name: {"secret": "adopted from ~/.google_authenticator"}}
    assert changes(managed({name: {}}, test=True)) == expected
    assert changes(managed({name: {}})) == expected
    adopted = core._parse((store / name).read_text())
    assert (adopted.blocked, adopted.scratch_codes) == ((56666666,), tuple(CODES))
    assert path.exists(), "the old PAM stack still needs it"

    # the old stack lets somebody in meanwhile: one code and one step more are spent
    path.unlink()
    at_home(home, account, FILE.replace("56666666", "56666666 56666667") + "23456789\n")
    completed = modules.google_authenticator.complete_adoption([name])
    assert changes(completed) == {name: {"~/.google_authenticator": "removed"}}
    assert os.listdir(home) == []
    adopted = core._parse((store / name).read_text())
    assert (adopted.blocked, adopted.scratch_codes) == ((56666666, 56666667), (23456789,))
    assert modules.google_authenticator.complete_adoption() == {}
    assert changes(managed({name: {}})) == {name: {}}

    # a stolen session lays a file of its own in the way
    at_home(home, account, f'{OTHER_SECRET}\n" TOTP_AUTH\n')
    back = modules.google_authenticator.hand_back()
    assert changes(back) == {name: {"secret": "back in ~/.google_authenticator"}}
    assert os.listdir(store) == []
    returned = core._parse(path.read_text())
    assert (returned.blocked, returned.scratch_codes) == ((56666666, 56666667), (23456789,))
    assert returned.key == core._key(SECRET)
    assert "SSHD_MFA" not in path.read_text()
    assert (path.stat().st_uid, mode(path)) == (account.pw_uid, 0o600)
    assert modules.google_authenticator.hand_back() == {}


def test_what_was_provisioned_is_not_handed_back(modules, managed, account, home, store):
    managed({account.pw_name: wanted()})
    assert modules.google_authenticator.hand_back([account.pw_name]) == {}
    assert os.listdir(home) == []
    assert os.listdir(store) == [account.pw_name]


def test_adoption_happens_once_and_only_where_it_is_wanted(managed, account, home, store):
    name = account.pw_name
    at_home(home, account)
    assert changes(managed({name: {}}, {**SETTINGS, "adopt": False})) == {name: {}}
    assert changes(managed({name: wanted(OTHER_SECRET)})) == {
        name: {"secret": "set", "scratch codes": "2 issued"}
    }
    assert changes(managed({name: {}})) == {name: {}}
    assert core._parse((store / name).read_text()).key == core._key(OTHER_SECRET)


@pytest.mark.parametrize("adopt", [True, False])
def test_what_was_spent_at_home_stays_spent_under_the_pillars_secret(
    managed, account, home, store, adopt
):
    name = account.pw_name
    at_home(home, account, FILE + "23456789\n")
    managed({name: wanted()}, {**SETTINGS, "adopt": adopt})
    file = core._parse((store / name).read_text())
    assert (file.blocked, file.scratch_codes) == ((56666666,), (23456789,))
    assert file.adopted == ("pending" if adopt else None)
    assert changes(managed({name: wanted()}, {**SETTINGS, "adopt": adopt})) == {name: {}}


def test_an_invalid_file_is_not_adopted_and_fails_nobody(managed, account, home, store):
    at_home(home, account, f'{SECRET}\n" HOTP_COUNTER 5\n')
    answer = managed({account.pw_name: {}})[account.pw_name]
    assert (answer["result"], answer["changes"]) == (True, {})
    assert "is not adopted: HOTP_COUNTER" in answer["comment"]


# ---- What an operator calls ------------------------------------------------------------------


def test_list_tells_all_but_secrets(modules, managed, store):
    managed({"sean": wanted(), "ann": wanted()})
    (store / "ann").write_text(f'{SECRET}\n" RATE_LIMIT 3 30 \n" TOTP_AUTH\n')
    (store / "ann").chmod(0o644)
    (store / "sean~tmp123").write_text("")
    listed = modules.google_authenticator.list()
    assert sorted(listed) == ["ann", "sean"]
    assert listed["sean"] == {
        **SETTINGS,
        "path": f"{store}/sean",
        "mode": "0600",
        "kind": "totp",
        "scratch_codes": 2,
        "spent_steps": 0,
        "attempts": 0,
        "time_skew": 0,
        "adopted": False,
        "problems": [],
    }
    assert listed["ann"]["problems"] == [
        "the mode is wrong",
        "RATE_LIMIT must end with numbers, without a space behind the last",
    ]
    assert SECRET not in repr(listed)
    assert modules.google_authenticator.list("nobody") == {}


def test_without_a_terminal_secrets_go_to_a_file_for_root(modules, managed, store, monkeypatch):
    managed({"sean": wanted()})
    for shown, text in {
        modules.google_authenticator.uri("sean"): f"secret={SECRET}&issuer=bastion",
        modules.google_authenticator.qr("sean"): "▀",
        modules.google_authenticator.new_scratch_codes("sean", 3): "each lets in once",
        modules.google_authenticator.generate("ann"): "otpauth://totp/bastion:ann?secret=",
    }.items():
        assert shown.startswith("written to /var/lib/sshd_mfa/handover/")
        path = Path(shown.split()[2].rstrip(","))
        assert text in path.read_text()
        assert (path.stat().st_uid, mode(path), mode(path.parent)) == (0, 0o600, 0o700)
    with pytest.raises(CommandExecutionError, match="run: salt-call google_authenticator"):
        modules.google_authenticator.verify("sean")
    with pytest.raises(CommandExecutionError, match="replace_secret=True"):
        modules.google_authenticator.generate("ann")


def test_new_scratch_codes_outlive_the_next_apply(modules, managed, store):
    managed({"sean": wanted()})
    modules.google_authenticator.new_scratch_codes("sean", 3)
    made = core._parse((store / "sean").read_text()).scratch_codes
    assert len(made) == 3
    assert not set(made) & set(CODES)
    assert changes(managed({"sean": wanted()})) == {"sean": {}}
    assert core._parse((store / "sean").read_text()).scratch_codes == made


def on_a_terminal(call, answer=""):
    """What somebody sees who calls a function on a terminal, and what it returns."""
    ours, theirs = pty.openpty()
    child = elsewhere(
        f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); said = {call}; "
        "print('returned:', said)",
        **dict.fromkeys(("stdin", "stdout", "stderr"), theirs),
        start_new_session=True,
    )
    os.close(theirs)
    if answer:
        os.read(ours, 1000)  # the prompt
        os.write(ours, f"{answer}\n".encode())
    seen = b""
    while True:
        try:
            seen += os.read(ours, 10_000)
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    assert child.wait() == 0, seen
    shown, _, returned = seen.decode().replace("\r", "").rpartition("returned: ")
    return shown, returned.strip()


def test_verify_spends_nothing(managed, store):
    managed({"sean": wanted()})
    path = store / "sean"
    before = (path.read_bytes(), path.stat())
    step = int(time.time()) // 30

    def verify(answer):
        return on_a_terminal("ga.verify('sean')", answer)

    assert verify(core._totp(core._key(SECRET), step))[1] == "right"
    assert verify("12345678")[1] == "right"
    assert verify("1234 5678")[1] == "right"
    shown, said = verify("12345679")
    assert said == "wrong"
    assert "12345679" not in shown, "a code is not echoed"
    assert (path.read_bytes(), path.stat()) == before
    text = path.read_text().replace("12345678\n", "")
    now = int(time.time())
    path.write_text(core._put(text, "RATE_LIMIT", f"3 3600 {now} {now} {now}"))
    said = verify("12345678")[1]
    assert said.startswith("right, but already spent; the rate limit refuses logins for ")


def test_on_a_terminal_secrets_are_shown_and_not_returned(managed, store):
    managed({"sean": wanted()})
    shown, said = on_a_terminal("ga.uri('sean', issuer='R & D')")
    assert f"otpauth://totp/R%20%26%20D:sean?secret={SECRET}&issuer=R%20%26%20D" in shown
    assert said == "shown on the terminal"
    assert not (store.parent / "handover").exists()


def test_reset(modules, managed, store):
    managed({"sean": wanted()})
    assert "cannot log in where a code is asked for" in modules.google_authenticator.reset("sean")
    assert os.listdir(store) == []
    assert modules.google_authenticator.reset("sean") == "sean had no secret"


# ---- The states ------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["test mode", "for real"])
def state(request, minion_opts):
    """The states as a run calls them. (state.single takes an argument named pillar for itself.)"""
    pillar = {"totp": {"sean": wanted(), "ann": wanted("**********"), "bob": "secret"}}
    opts = {**minion_opts, "pillar": pillar, "test": request.param}
    modules = salt.loader.minion_mods(opts)
    states = salt.loader.states(opts, modules, salt.loader.utils(opts), None)

    def run(function, **arguments):
        ret = states[f"google_authenticator.{function}"](**arguments)
        for said in (SECRET, *map(str, CODES)):
            assert said not in repr(ret)
        return SimpleNamespace(**ret)

    run.test = request.param
    return run


def test_present(state, store):
    ret = state("present", name="sean", pillar="totp:sean")
    assert ret.result is (None if state.test else True)
    assert ret.changes == {"secret": "set", "scratch codes": "2 issued"}
    assert (store / "sean").exists() is not state.test
    if not state.test:
        again = state("present", name="sean", pillar="totp:sean")
        assert (again.result, again.changes) == (True, {})


def test_present_changes_an_option(state, managed, store):
    managed({"sean": wanted()})
    before = (store / "sean").read_text()
    ret = state("present", name="sean", window=4)
    assert ret.result is (None if state.test else True)
    assert ret.changes == {"window": {"old": 3, "new": 4}}
    assert ((store / "sean").read_text() == before) is state.test


def test_present_adopts(state, account, home, store):
    at_home(home, account)
    ret = state("present", name=account.pw_name, adopt=True)
    assert ret.changes == {"secret": "adopted from ~/.google_authenticator"}
    assert os.listdir(home) == ([".google_authenticator"] if state.test else [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "ann", "pillar": "totp:ann"}, "totp:ann: ann: secret: has stars in it"),
        ({"name": "bob", "pillar": "totp:bob"}, "totp:bob: no such pillar key"),
        ({"name": "eve", "pillar": "totp:eve"}, "totp:eve: no such pillar key"),
        ({"name": "eve"}, "eve: has no secret yet"),
        ({"name": "eve", "window": 0}, "window: must be a whole number from 1 to 100"),
    ],
)
def test_present_says_what_is_wrong(state, store, arguments, words):
    ret = state("present", **arguments)
    assert ret.result is False
    assert ret.comment.startswith(words)
    assert not ret.changes


def test_absent(state, managed, store):
    managed({"sean": wanted()})
    ret = state("absent", name="sean")
    assert ret.result is (None if state.test else True)
    assert ret.changes == {"secret": "removed"}
    assert (store / "sean").exists() is state.test
    gone = state("absent", name="eve")
    assert (gone.result, gone.changes) == (True, {})
