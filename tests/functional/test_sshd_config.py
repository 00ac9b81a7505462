"""States and functions of sshd_config on a real host, with its real sshd and systemd."""

import contextlib
import os
import re
import subprocess
from operator import attrgetter
from pathlib import Path

import pytest
import salt.payload
from salt.exceptions import CommandExecutionError, SaltInvocationError

from tests.support import REPO, load
from tests.unit import test_sshd_config as unit

CONFIG = Path("/etc/ssh/sshd_config")
FOLDER = Path("/etc/ssh/sshd_config.d")
DROP_IN = FOLDER / "10-test.conf"


def etc():
    """What lies in /etc/ssh: ``{path: bytes}``."""
    return {path: path.read_bytes() for path in CONFIG.parent.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def etc_ssh():
    """Afterwards everything is as it was, to the byte."""
    before = etc()
    yield
    folder = CONFIG.parent
    for path in [path for path in folder.rglob("*") if path.is_file() or path.is_symlink()]:
        if path not in before:
            path.unlink()
    for path, text in before.items():
        if not path.exists() or path.read_bytes() != text:
            path.write_bytes(text)


@pytest.fixture
def sshd(modules):
    return modules.sshd_config


@pytest.fixture
def release(sshd):
    return "9.2" if "refuseconnection" not in sshd.keywords() else "10.0"


def run(state, testmode, **arguments):
    """
    Run a state; in test mode it changes nothing and predicts what the real run does. Run again, it
    has nothing to do.
    """
    before = etc()
    if testmode:
        predicted = state(test=True, **arguments)
        assert etc() == before
    real = state(**arguments)
    if testmode:
        assert predicted.changes == real.changes
        assert predicted.result is (None if real.changes else real.result)
    assert real.result is True, real.comment
    again = state(**arguments)
    assert (again.result, again.changes) == (True, {})
    return real


# ---- The table of the guide ------------------------------------------------------------------


def answer(ask):
    """What sshd says: ``accepts``, ``refuses`` or ``crashes``; and what it prints."""
    try:
        return "accepts", ask()
    except CommandExecutionError as err:
        return "crashes" if "crashed" in str(err) else "refuses", {}


@pytest.mark.parametrize("path", unit.cases("lint"), ids=unit.by_name)
def test_the_table_says_what_sshd_says(path, sshd, release, tmp_path):
    case = unit.read_case(path)
    config = tmp_path / "sshd_config"
    for name, text in unit.texts_of(case, str(tmp_path)).items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    found = sshd.lint(config=str(config), users=case.get("users"))
    assert [(each["line"], each["code"]) for each in found] == unit.findings_of(case, release)

    checked = subprocess.run(["sshd", "-t", "-f", str(config)], check=False, capture_output=True)
    said = "accepts" if checked.returncode == 0 else "refuses"
    assert said == unit.for_release(case["sshd_t"], release)

    said, printed = answer(lambda: sshd.effective(config=str(config), **case["connection"]))
    assert said == unit.for_release(case["sshd_T"], release)
    for keyword, values in case.get("says", {}).items():
        assert printed[keyword] == values


def test_lint_finds_nothing_on_a_new_host(sshd):
    assert sshd.lint(users=["root"]) == []


def test_lint_names_what_systemd_ignores(sshd, ssh_socket):
    found = sshd.lint(files={str(CONFIG): "Port 2222\n"})
    assert ("socket", 1) in [(each["code"], each["line"]) for each in found]


def test_lint_names_a_drop_in_that_nobody_reads(sshd):
    DROP_IN.write_text("X11Forwarding no\n")
    text = CONFIG.read_text().replace("Include ", "#Include ")
    found = sshd.lint(files={str(CONFIG): text})
    assert (str(DROP_IN), "not-read") in [(each["file"], each["code"]) for each in found]


# ---- The guide -------------------------------------------------------------------------------


def test_the_guide_does_what_it_says(modules, sshd):
    page = (REPO / "docs/guide/sshd_config.md").read_text()
    functions = set(dir(load("modules", "sshd_config"))) | set(dir(load("states", "sshd_config")))
    assert set(re.findall(r"sshd_config\.([a-z_]+)", page)) <= functions | {"d", "py"}

    (FOLDER / "50-cloud-init.conf").write_text("PasswordAuthentication yes\n")
    (FOLDER / "60-sftp.conf").write_text("Match Group root\n    ForceCommand internal-sftp\n")
    assert [each["code"] for each in sshd.lint()] == ["forwarding-open"]
    (states,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    done = modules.state.template_str(states.replace("Group sftp", "Group root"))
    assert [state["result"] for state in done.raw.values()] == [True] * 3
    assert sshd.effective()["passwordauthentication"] == ["no"]
    assert sshd.effective(user="root")["disableforwarding"] == ["yes"]
    assert [each["code"] for each in sshd.lint()] == ["shadowed"]


# ---- Functions -------------------------------------------------------------------------------


def test_source_names_the_file_and_line(sshd):
    DROP_IN.write_text("# ours\nX11Forwarding no\nMatch User root\n  X11Forwarding yes\n")
    assert sshd.source("X11Forwarding") == [
        {"file": str(DROP_IN), "line": 2, "text": "X11Forwarding no"}
    ]
    assert [each["line"] for each in sshd.source("x11forwarding", user="root")] == [4]
    assert sshd.source("MaxAuthTries") == []


def test_read_names_keywords_as_sshd_prints_them(sshd):
    files = {str(CONFIG): "SkeyAuthentication no\n"}
    read = sshd.read(files=files)
    assert read == [
        {
            "file": str(CONFIG),
            "line": 1,
            "keyword": "SkeyAuthentication",
            "name": "kbdinteractiveauthentication",
            "arguments": ["no"],
            "match": None,
        }
    ]
    assert sshd.effective(files=files)[read[0]["name"]] == ["no"]


def test_lint_says_how_to_name_accounts(sshd):
    with pytest.raises(SaltInvocationError, match=r"^user: write users=\[mary\]$"):
        sshd.lint(user="mary")


def test_an_error_of_sshd_names_the_file_that_is_not_there_yet(sshd):
    with pytest.raises(
        CommandExecutionError, match=rf"{DROP_IN}.* line 2: Bad configuration option: Foo"
    ):
        sshd.effective(files={str(DROP_IN): "UsePAM yes\nFoo bar\n"})
    assert not DROP_IN.exists()


def test_keywords_are_those_of_this_sshd(sshd, release):
    known = set(sshd.keywords())
    assert {"include", "channeltimeout", "kbdinteractiveauthentication"} <= known
    assert ("refuseconnection" in known) == (release == "10.0")
    printed = set(sshd.effective())
    assert printed <= known
    assert "passwordauthentification" not in known


def test_an_unknown_word_about_the_connection_is_refused(sshd):
    with pytest.raises(SaltInvocationError, match="addr: expected one of user, host, address"):
        sshd.effective(addr="10.0.0.1")
    with pytest.raises(SaltInvocationError, match="user: a,host=b: expected one value"):
        sshd.effective(user="a,host=b")


@pytest.fixture
def ssh_socket():
    """systemd listens for sshd."""
    subprocess.run(["systemctl", "stop", "ssh.service"], check=True)
    subprocess.run(["systemctl", "start", "ssh.socket"], check=True)
    yield
    subprocess.run(["systemctl", "stop", "ssh.socket"], check=True)
    subprocess.run(["systemctl", "start", "ssh.service"], check=True)


def listening():
    answer = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    return {line.split()[3].rpartition(":")[2] for line in answer.splitlines()}


def test_ports_of_sshd(sshd):
    found = sshd.ports(files={str(DROP_IN): "Port 2022\nPort 2222\nListenAddress 127.0.0.1\n"})
    assert [(each["address"], each["port"], each["by"]) for each in found] == [
        ("127.0.0.1", 2022, "sshd"),
        ("127.0.0.1", 2222, "sshd"),
    ]


def test_ports_under_a_socket_unit(sshd, ssh_socket):
    found = sshd.ports(files={str(DROP_IN): "Port 2222\n"})
    assert {each["by"] for each in found} == {"ssh.socket"}
    assert {str(each["port"]) for each in found} == {"22"} <= listening()


# ---- Drop-ins --------------------------------------------------------------------------------


def no_include(text):
    return text.replace("\nInclude ", "\n#Include ")


def late(text):
    return no_include(text) + f"PasswordAuthentication yes\nInclude {FOLDER}/*.conf\n"


def in_match(text):
    return no_include(text) + f"Match User root\nInclude {FOLDER}/*.conf\n"


def carriage_returns(text):
    return no_include(text).replace("\n", "\r\n")


def empty(_):
    return ""


def a_comment_without_end(_):
    return "# nothing yet\r\n# nor here"


def no_final_newline(text):
    return late(text).rstrip("\n")


MAINS = [
    str,
    no_include,
    late,
    in_match,
    carriage_returns,
    no_final_newline,
    empty,
    a_comment_without_end,
]


@pytest.mark.parametrize("main", MAINS)
def test_a_drop_in_is_read_and_wins(main, sshd, states, testmode):
    for other in FOLDER.iterdir():
        other.unlink()  # what is only allowed above Match must not be in the way
    CONFIG.write_bytes(main(CONFIG.read_text()).encode())
    before = CONFIG.read_bytes()
    contents = "PasswordAuthentication no\nMatch User nobody\n    MaxSessions 3"
    ret = run(states.sshd_config.drop_in, testmode, name=str(DROP_IN), contents=contents)
    assert str(DROP_IN) in ret.changes
    assert sshd.effective()["passwordauthentication"] == ["no"]
    assert sshd.source("PasswordAuthentication")[0]["file"] == str(DROP_IN)
    assert sshd.effective(user="nobody")["maxsessions"] == ["3"]

    run(states.sshd_config.drop_in_absent, testmode, name=str(DROP_IN))
    assert not DROP_IN.exists()
    assert CONFIG.read_bytes() == before


def test_other_dead_drop_ins_stay_dead(sshd, states):
    (FOLDER / "50-dead.conf").write_text("PermitEmptyPasswords yes\n")
    CONFIG.write_text(no_include(CONFIG.read_text()))
    states.sshd_config.drop_in(name=str(DROP_IN), contents="PasswordAuthentication no")
    assert sshd.effective()["permitemptypasswords"] == ["no"]


@pytest.mark.parametrize("above", ["PermitEmptyPasswords no\nX11Forwarding yes", "Match User bin"])
def test_a_drop_in_does_not_wake_others(above, sshd, states, testmode):
    other = FOLDER / "50-other.conf"
    other.write_text("PermitEmptyPasswords yes\n")
    before = f"{above}\nInclude {FOLDER}/*.conf\n"
    CONFIG.write_text(before)
    ret = states.sshd_config.drop_in(name=str(DROP_IN), contents="X11Forwarding no", test=testmode)
    assert ret.result is False
    assert f"{other}:1 (PermitEmptyPasswords yes) would begin to hold" in ret.comment
    assert CONFIG.read_text() == before
    assert not DROP_IN.exists()


def test_a_later_drop_in_still_counts_when_the_first_goes(sshd, states):
    later = FOLDER / "20-later.conf"
    before = f"MaxAuthTries 6\nX11Forwarding yes\nInclude {FOLDER}/*.conf\n"
    CONFIG.write_text(before)
    assert states.sshd_config.drop_in(name=str(DROP_IN), contents="MaxAuthTries 3").result
    assert states.sshd_config.drop_in(name=str(later), contents="X11Forwarding no").result
    assert states.sshd_config.drop_in_absent(name=str(DROP_IN)).result is True
    assert sshd.effective()["x11forwarding"] == ["no"]
    assert states.sshd_config.drop_in_absent(name=str(later)).result is True
    assert CONFIG.read_text() == before


OUTSIDE = "/etc/ssh/test.conf"  # of no Include of Debian's
KEYWORDS = "X11Forwarding no\nUsePAM yes\n"


@pytest.mark.parametrize(
    ("edit", "left"),
    [
        (lambda mark, include: [include, KEYWORDS], f"Include {OUTSIDE}\n{KEYWORDS}"),
        (lambda mark, include: [mark, KEYWORDS], KEYWORDS),
        (lambda mark, include: [KEYWORDS, mark], KEYWORDS),
        (lambda mark, include: [mark, KEYWORDS, include], KEYWORDS),
        (lambda mark, include: [KEYWORDS, include, "# other\n", mark], f"{KEYWORDS}# other\n"),
        (lambda mark, include: [mark, include, mark, include, KEYWORDS], KEYWORDS),
        (lambda mark, include: ["# new\n", mark, include, KEYWORDS], f"# new\n{KEYWORDS}"),
    ],
)
def test_an_edited_file_loses_only_what_is_ours(edit, left, states):
    CONFIG.write_text(KEYWORDS)
    states.sshd_config.drop_in(name=OUTSIDE, contents="MaxAuthTries 3")
    mark, include, *rest = CONFIG.read_text().splitlines(keepends=True)
    assert "".join(rest) == KEYWORDS
    CONFIG.write_text("".join(edit(mark, include)))
    assert states.sshd_config.drop_in_absent(name=OUTSIDE).result is True
    assert CONFIG.read_text() == left


@pytest.mark.parametrize("marked", [0, 1, 2])
def test_an_include_that_was_moved_and_edited_is_there_once(marked, states):
    include = f"Include {FOLDER}/*.conf\n"
    CONFIG.write_text(f"MaxAuthTries 6\n{include}")
    states.sshd_config.drop_in(name=str(DROP_IN), contents="MaxAuthTries 3")
    lines = CONFIG.read_text().splitlines(keepends=True)
    CONFIG.write_text("".join(lines[marked:]))
    assert states.sshd_config.drop_in_absent(name=str(DROP_IN)).result is True
    top = f"{include}MaxAuthTries 6\n"
    assert CONFIG.read_text() == (top if marked == 1 else f"MaxAuthTries 6\n{include}")


@pytest.mark.parametrize(
    "name",
    [
        "test.conf",
        str(CONFIG),
        str(FOLDER),
        "/",
        f"{FOLDER}//x.conf",
        f"{FOLDER}/../sshd_config",
        "/etc/ssh/a b.conf",
        "/etc/ssh/a[b].conf",
        "/etc/ssh/a'b.conf",
        "/etc/ssh/x\nPermitRootLogin yes",
    ],
)
def test_what_is_no_path_of_a_drop_in(name, states, testmode):
    before = CONFIG.read_bytes()
    for ret in (
        states.sshd_config.drop_in(name=name, contents="UsePAM yes", test=testmode),
        states.sshd_config.drop_in_absent(name=name, test=testmode),
    ):
        assert ret.result is False
        assert ret.comment.startswith(f"{name}: expected the absolute path of a drop-in")
    assert CONFIG.read_bytes() == before


@pytest.mark.parametrize("contents", [None, 5, True, ["UsePAM yes"], {"UsePAM": "yes"}])
def test_contents_that_are_no_text(contents, states):
    ret = states.sshd_config.drop_in(name=str(DROP_IN), contents=contents)
    assert (ret.result, ret.changes) == (False, {})
    assert ret.comment == f"contents: {contents}: expected the text of the file"


def test_a_nul_byte_is_named(sshd):
    files = {str(CONFIG): "Port 22\n# cut\0 off\nMaxAuthTries 3\n"}
    assert sshd.effective(files=files)["maxauthtries"] == ["6"]  # it has become a comment
    with pytest.raises(CommandExecutionError, match=f"^{CONFIG}:2: a NUL byte"):
        sshd.values(files=files)


@pytest.mark.parametrize(
    ("connection", "words"),
    [({"lport": "many"}, "lport: many"), ({"user": ["sean"]}, "user: .*one value")],
)
def test_a_connection_that_cannot_be(connection, words, sshd):
    for ask in (sshd.values, sshd.effective):
        with pytest.raises(SaltInvocationError, match=words):
            ask(**connection)


def test_a_drop_in_that_another_one_beats(states):
    first = FOLDER / "00-first.conf"
    first.write_text("PasswordAuthentication yes\n")
    ret = states.sshd_config.drop_in(
        name=str(DROP_IN), contents="X11Forwarding no\nPasswordAuthentication no"
    )
    assert ret.result is False
    assert f"{DROP_IN}:2" in ret.comment
    assert f"{first}:1" in ret.comment
    assert not DROP_IN.exists()


@pytest.mark.parametrize(
    "contents",
    ["Foo bar", 'Banner "x', "Match User a\nUsePAM yes", "Port x", 'UsePAM yes\nInclude ""'],
)
def test_what_sshd_refuses_is_not_written(contents, states, testmode):
    before = FOLDER.stat().st_mtime_ns
    ret = states.sshd_config.drop_in(name=str(DROP_IN), contents=contents, test=testmode)
    assert ret.result is False
    assert str(DROP_IN) in ret.comment
    assert not DROP_IN.exists()
    assert FOLDER.stat().st_mtime_ns == before, "it was there for a moment"


def test_a_path_through_somebody_elses_folder_is_refused(states, account, testmode):
    """Nothing of the file to which a link of theirs leads is shown, either."""
    path = Path(account.pw_dir, "x.conf")
    path.symlink_to("/etc/shadow")
    before = Path("/etc/shadow").read_bytes()
    for ret in (
        states.sshd_config.drop_in(name=str(path), contents="UsePAM yes", test=testmode),
        states.sshd_config.drop_in_absent(name=str(path), test=testmode),
        states.sshd_config.options(
            name="x", options={"UsePAM": True}, path=str(path), test=testmode
        ),
    ):
        assert (ret.result, ret.changes) == (False, {})
        assert ret.comment.startswith(f"{account.pw_dir}: belongs to somebody else than root")
        assert account.pw_name not in ret.comment.replace(account.pw_dir, "")
    assert path.is_symlink()
    assert Path("/etc/shadow").read_bytes() == before


@contextlib.contextmanager
def busy(path):
    """A file that can be neither replaced nor removed: EBUSY."""
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_all_is_put_back_when_a_later_file_cannot_be_written(states):
    before = no_include(CONFIG.read_text())
    CONFIG.write_text(before)
    with busy(CONFIG):
        ret = states.sshd_config.drop_in(name=str(DROP_IN), contents="UsePAM yes")
    assert ret.result is False
    assert ret.comment.endswith(". Everything was put back")
    assert not DROP_IN.exists()
    assert CONFIG.read_text() == before


def test_a_file_to_be_removed_keeps_owner_and_mode_when_another_cannot_be_written(sshd):
    DROP_IN.write_text("UsePAM yes\n")
    DROP_IN.chmod(0o600)
    os.chown(DROP_IN, 0, 2)
    before = DROP_IN.stat()
    of_a_file = attrgetter("st_ino", "st_mode", "st_uid", "st_gid")
    plan = {str(DROP_IN): None, str(CONFIG): f"{CONFIG.read_text()}# more\n"}
    with (
        busy(CONFIG),
        pytest.raises(CommandExecutionError, match=r"\. Everything was put back$"),
    ):
        sshd.apply(plan)
    assert of_a_file(DROP_IN.stat()) == of_a_file(before)
    sshd.apply(plan)
    assert not DROP_IN.exists()


def test_a_removed_file_is_back_when_the_next_cannot_be_removed(sshd):
    other = FOLDER / "20-test.conf"
    for path in (DROP_IN, other):
        path.write_text("UsePAM yes\n")
    made_anew = rf"{DROP_IN} is made anew, with root as its owner and mode 0644$"
    with busy(other), pytest.raises(CommandExecutionError, match=made_anew):
        sshd.apply({str(DROP_IN): None, str(other): None})
    assert (DROP_IN.read_text(), other.read_text()) == ("UsePAM yes\n",) * 2
    assert DROP_IN.stat().st_mode & 0o777 == 0o644


# ---- Options ---------------------------------------------------------------------------------


def test_options_of_the_main_file(sshd, states, testmode):
    DROP_IN.write_text("MaxAuthTries 5\n")
    before = CONFIG.read_text()
    wanted = {"X11Forwarding": False, "MaxAuthTries": 2, "AllowUsers": ["root", "a"]}
    ret = run(states.sshd_config.options, testmode, name="hardening", options=wanted)
    assert set(ret.changes) == {str(CONFIG)}
    found = sshd.effective()
    assert found["x11forwarding"] == ["no"]
    assert found["maxauthtries"] == ["2"]
    assert found["allowusers"] == ["root", "a"]
    changed = CONFIG.read_text()
    assert set(before.splitlines()) - set(changed.splitlines()) == {"X11Forwarding yes"}

    nothing = dict.fromkeys(("MaxAuthTries", "AllowUsers"))
    wanted = {**nothing, "X11Forwarding": True}
    run(states.sshd_config.options, testmode, name="as it was", options=wanted)
    assert CONFIG.read_text() == before


def test_options_of_a_match_block(sshd, states, testmode):
    match = "User nobody Address 10.0.0.0/8"
    who = {"user": "nobody", "address": "10.1.2.3"}
    wanted = {"ForceCommand": "/usr/bin/id -u", "DisableForwarding": True}
    run(states.sshd_config.options, testmode, name="made", options=wanted, match=match)
    assert sshd.effective(**who)["forcecommand"] == ["/usr/bin/id -u"]
    assert sshd.effective(user="nobody")["forcecommand"] == ["none"]
    more = {"MaxSessions": 1}
    run(states.sshd_config.options, testmode, name="more", options=more, match=match)
    assert sshd.effective(**who)["maxsessions"] == ["1"]
    assert CONFIG.read_text().count("Match ") == 2  # the other one is in Debian's example
    assert states.sshd_config.options(name="more", options=wanted, match=match).changes == {}


def test_options_of_a_drop_in(sshd, states):
    ret = states.sshd_config.options(
        name="x", options={"MaxStartups": "5:30:20"}, path=str(DROP_IN)
    )
    assert ret.result is True
    assert DROP_IN.read_text() == "MaxStartups 5:30:20\n"
    assert sshd.effective()["maxstartups"] == ["5:30:20"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"Banner": "a\nPermitRootLogin yes"}, "line break"),
        ({"Ban ner": "x"}, "expected a keyword"),
        ({"Banner": ""}, "expected a keyword"),
        ({"Port": "many"}, "Badly formatted port number"),
        ({"Match": "User root"}, "Match is the argument match"),
        ({"Include": "/etc/ssh/x"}, "Include the state drop_in"),
        ({"AllowUsers": [None]}, "expected a keyword"),
        ({"AllowUsers": [["root"]]}, "expected a keyword"),
        ({"AllowUsers": []}, "expected a keyword"),
        ({"Banner": {"a": "b"}}, "expected a keyword"),
        ({True: 1}, "expected a keyword"),
        ([{"X11Forwarding": False}], "expected keywords"),
        (None, "expected keywords"),
    ],
)
def test_wrong_options_change_nothing(options, words, states):
    before = CONFIG.read_bytes()
    ret = states.sshd_config.options(name="wrong", options=options)
    assert ret.result is False
    assert words in ret.comment
    assert CONFIG.read_bytes() == before


def test_options_of_a_match_block_that_a_drop_in_beats(states):
    DROP_IN.write_text("Match User nobody\nX11Forwarding yes\n")
    before = CONFIG.read_bytes()
    wanted = {"X11Forwarding": False}
    ret = states.sshd_config.options(name="x", options=wanted, match="User nobody")
    assert ret.result is False
    assert f"{DROP_IN}:2 (X11Forwarding yes) is read before it" in ret.comment
    assert CONFIG.read_bytes() == before


@pytest.mark.parametrize("path", [CONFIG, FOLDER / "20-mine.conf"])
@pytest.mark.parametrize("match", [None, "User root"])
def test_another_file_that_adds_a_value(match, path, sshd, states, testmode):
    DROP_IN.write_text("Match User root\n" * bool(match) + "AllowUsers mallory\n")
    before = etc()

    def state(*users):
        wanted = {"AllowUsers": list(users)}
        return states.sshd_config.options(
            name="x", options=wanted, match=match, path=str(path), test=testmode
        )

    ret = state("root")
    assert ret.result is False
    line = 1 + bool(match)
    assert f"{DROP_IN}:{line} (AllowUsers mallory) adds to what {path} says" in ret.comment
    assert etc() == before
    assert state("root", "mallory").result is (None if testmode else True)
    if not testmode:
        assert set(sshd.effective(user="root")["allowusers"]) == {"root", "mallory"}


def test_a_match_block_for_names_with_spaces(sshd, states):
    wanted, match = {"X11Forwarding": False}, 'User "domain user"'
    assert states.sshd_config.options(name="x", options=wanted, match=match).result is True
    assert sshd.effective(user="domain user")["x11forwarding"] == ["no"]
    assert states.sshd_config.options(name="x", options=wanted, match=match).changes == {}


@pytest.mark.parametrize("match", [5, True, ["User a"], {"User": "a"}, 'User "a\nPermitTTY no"'])
def test_what_is_no_match(match, states):
    before = CONFIG.read_bytes()
    ret = states.sshd_config.options(name="x", options={"X11Forwarding": False}, match=match)
    assert (ret.result, ret.changes) == (False, {})
    assert "expected one line, such as Group sftp" in ret.comment
    assert CONFIG.read_bytes() == before


def test_the_diff_of_a_file_that_is_not_utf8_can_be_sent(states):
    CONFIG.write_bytes(b"# gr\xfcn\nBanner /gr\xfcn\n")
    ret = states.sshd_config.options(name="x", options={"Banner": "none"})
    assert ret.result is True
    assert CONFIG.read_bytes() == b"# gr\xfcn\nBanner none\n"
    assert b"-Banner /gr\\xfcn" in salt.payload.dumps(dict(ret.changes))
