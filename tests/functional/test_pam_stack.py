"""The module and the states of pam_stack on real files, by way of Salt's loader."""

import shutil
import subprocess
from pathlib import Path

import pytest

STACK = """\
# Access for people
account  required     pam_nologin.so
# account  required     pam_access.so

@include common-auth
session  optional  pam_motd.so  motd=/run/motd.dynamic
session  optional  pam_motd.so noupdate # [1]
"""


@pytest.fixture
def folder():
    """Below folders that are only root's: what is written goes nowhere else."""
    made = Path("/var/lib/pam-stack-judge")
    made.mkdir()
    (made / "judge").write_bytes(STACK.encode())
    (made / "common-auth").write_text("auth required pam_unix.so\n")
    yield made
    shutil.rmtree(made)


@pytest.fixture
def text(folder):
    return lambda: (folder / "judge").read_bytes().decode()


def run(state, testmode, text, folder, **arguments):
    """
    Run a state; in test mode it changes nothing and predicts what the real run does. Run again, it
    has nothing to do.
    """
    before = text()
    arguments = {"name": "a rule", "service": "judge", "folder": str(folder), **arguments}
    if testmode:
        predicted = state(test=True, **arguments)
        assert text() == before
        real = state(**arguments)
        assert predicted.changes == real.changes
        assert predicted.result is (None if real.changes else real.result)
    else:
        real = state(**arguments)
    if not real.result:
        assert text() == before
        return real
    again = state(**arguments)
    assert (again.result, again.changes) == (True, {})
    return real


def test_a_rule_is_added(states, folder, text, testmode):
    wanted = {"type": "account", "module": "pam_access.so", "arguments": ["nodefgroup"]}
    done = run(states.pam_stack.rule_present, testmode, text, folder, **wanted)
    added = "account required pam_access.so nodefgroup\n"
    above = "account  required     pam_nologin.so\n"
    assert text() == STACK.replace(above, above + added)
    assert f"+{added}" in done.changes[str(folder / "judge")]


def test_a_rule_is_added_above_another(states, folder, text, testmode):
    where = {"before": "@include common-auth", "type": "auth", "module": "pam_faildelay.so"}
    run(states.pam_stack.rule_present, testmode, text, folder, **where)
    include = "@include common-auth\n"
    assert text() == STACK.replace(include, f"auth required pam_faildelay.so\n{include}")


def test_a_rule_is_changed_in_its_place(states, folder, text, testmode):
    wanted = {"type": "account", "module": "pam_nologin.so", "control": "requisite"}
    run(states.pam_stack.rule_present, testmode, text, folder, **wanted)
    assert text() == STACK.replace("required     pam_nologin", "requisite     pam_nologin")


def test_one_of_two_rules_is_told_by_its_arguments(states, folder, text, testmode):
    wanted = {"type": "session", "module": "pam_motd.so", "arguments": ["noupdate"]}
    where = {"before": {"module": "pam_motd.so", "arguments": ["motd=/run/motd.dynamic"]}}
    run(
        states.pam_stack.rule_present, testmode, text, folder, control="optional", **wanted, **where
    )
    lines = STACK.splitlines(keepends=True)
    assert text() == "".join([*lines[:-2], lines[-1], lines[-2]])


def test_which_of_two_rules_is_not_guessed(states, folder, text, testmode):
    wanted = {"type": "session", "module": "pam_motd.so"}
    done = run(states.pam_stack.rule_present, testmode, text, folder, **wanted)
    assert not done.result
    assert "2 session rules, at lines 6, 7" in done.comment


def test_what_libpam_would_not_understand_is_refused(states, folder, text, testmode):
    wanted = {"type": "auth", "module": "pam_access.so", "control": "mandatory"}
    done = run(states.pam_stack.rule_present, testmode, text, folder, **wanted)
    assert not done.result
    assert "the control 'mandatory' is not understood" in done.comment


def test_a_module_in_a_folder_is_the_same_module(states, folder, text, testmode):
    path = "/lib/security/pam_access.so"
    (folder / "judge").write_text(f"account required {path}\naccount required pam_unix.so\n")
    wanted = {"type": "account", "module": "pam_access.so"}
    run(states.pam_stack.rule_present, testmode, text, folder, control="requisite", **wanted)
    assert text() == f"account requisite {path}\naccount required pam_unix.so\n"
    run(states.pam_stack.rule_absent, testmode, text, folder, **wanted)
    assert text() == "account required pam_unix.so\n"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"type": "Session"}, "type: 'Session' is none of"),
        ({"type": None}, "type: None is none of"),
        ({"arguments": "noupdate"}, "arguments: 'noupdate' is no list"),
        ({"service": 7}, "7 is no service"),
        ({"folder": None}, "must be absolute paths"),
    ],
)
def test_wrong_arguments_are_named(states, folder, text, testmode, wrong, words):
    wanted = {"type": "session", "module": "pam_motd.so", **wrong}
    for state in (states.pam_stack.rule_present, states.pam_stack.rule_absent):
        arguments = {"folder": str(folder), **wanted}
        done = run(state, testmode, text, **arguments)
        assert not done.result
        assert words in done.comment


def test_a_full_disk_leaves_the_file(states, folder, text):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12k,mode=755", "none", folder], check=True)
    try:
        (folder / "judge").write_text("account required pam_unix.so\n" * 280)
        wanted = {"type": "auth", "module": "pam_access.so"}
        done = run(states.pam_stack.rule_present, False, text, folder, **wanted)
        assert not done.result
        assert "No space left" in done.comment
        assert text() == "account required pam_unix.so\n" * 280
    finally:
        subprocess.run(["umount", folder], check=True)


def test_arguments_of_other_rules_are_not_told(states, folder, text, testmode):
    (folder / "judge").write_text("auth required pam_mysql.so passwd=hidden\n")
    wanted = {"type": "auth", "module": "pam_unix.so"}
    done = run(states.pam_stack.rule_present, testmode, text, folder, **wanted)
    assert "+auth required pam_unix.so" in done.changes[str(folder / "judge")]
    assert "hidden" not in str(done.raw)


def test_a_service_that_is_not_there(states, folder, text, testmode):
    wanted = {"service": "sshdd", "type": "auth", "module": "pam_access.so"}
    for state in (states.pam_stack.rule_present, states.pam_stack.rule_absent):
        done = run(state, testmode, text, folder, **wanted)
        assert not done.result
        assert "no service sshdd" in done.comment


def test_rules_are_removed(states, folder, text, testmode):
    wanted = {"type": "session", "module": "pam_motd.so"}
    run(states.pam_stack.rule_absent, testmode, text, folder, **wanted)
    assert text() == STACK[: STACK.index("session")]


def test_a_rule_is_commented_out_and_back(states, modules, folder, text, testmode):
    wanted = {"type": "session", "module": "pam_motd.so", "arguments": ["noupdate"]}
    run(states.pam_stack.rule_absent, testmode, text, folder, comment_out=True, **wanted)
    last = STACK.splitlines(keepends=True)[-1]
    assert text() == STACK.replace(last, f"# {last}")
    back = [{"uncomment": {"module": "pam_motd.so", "arguments": ["noupdate"]}}]
    modules.pam_stack.apply("judge", back, folder=str(folder))
    assert text() == STACK


def test_owner_and_mode_stay(modules, folder, text):
    path = folder / "judge"
    path.chmod(0o640)
    subprocess.run(["chown", "root:adm", str(path)], check=True)
    modules.pam_stack.apply("judge", [{"remove": "pam_nologin.so"}], folder=str(folder))
    assert "nologin" not in text()
    assert (path.stat().st_mode & 0o7777, path.group()) == (0o640, "adm")


def test_bytes_that_are_no_text_stay(modules, folder):
    path = folder / "judge"
    path.write_bytes(b"# \xff\xfe caf\xe9\r\nauth required pam_deny.so\n# no end \xff")
    block = {"block": "ours", "rules": ["auth required pam_permit.so"]}
    before = path.read_bytes()
    modules.pam_stack.apply("judge", [block], folder=str(folder))
    assert (
        b"# BEGIN ours\nauth required pam_permit.so\n# END ours\nauth required" in path.read_bytes()
    )
    modules.pam_stack.apply("judge", [{**block, "rules": []}], folder=str(folder))
    assert path.read_bytes() == before


def round_trips(modules, path, folder):
    """Every byte is there again after an edit and its undoing; what the reader made of it."""
    rules = modules.pam_stack.read(path.name, folder)
    before = path.read_bytes()
    block = {"block": "trial", "rules": ["auth required pam_permit.so"], "at": "bottom"}
    planned = modules.pam_stack.plan(path.name, [block], folder)
    assert "pam_permit.so" in planned["diff"]
    overlay = {str(path): planned["new"]}
    gone = modules.pam_stack.plan(path.name, [{**block, "rules": []}], folder, overlay)
    assert gone["new"].encode("utf-8", "surrogateescape") == before
    return rules


def test_every_file_of_this_host(modules):
    """Reads without a problem, round-trips, and lint has nothing to say of what Debian ships."""
    services = sorted(path for path in Path("/etc/pam.d").iterdir() if path.is_file())
    assert len(services) >= 15
    for path in services:
        rules = round_trips(modules, path, "/etc/pam.d")
        assert [rule for rule in rules if "problem" in rule] == []
        assert [f for f in modules.pam_stack.lint(path.name) if f["severity"] == "error"] == []


@pytest.mark.judge
def test_every_file_of_all_of_debian(modules):
    """Those of packages that no host has all of; the lab fetched them from the archive."""
    files = sorted(path for path in Path("/usr/local/share/pam.d").glob("*/*") if path.is_file())
    assert len(files) >= 60
    for path in files:
        assert round_trips(modules, path, str(path.parent))
    print(f"{len(files)} files of {len({path.parent for path in files})} packages round-trip")


def test_an_edit_is_in_force_at_once(modules, libpam, folder):
    stack = folder / "judge"
    stack.write_text("auth required pam_deny.so\nauth optional pam_permit.so\n")
    assert libpam.ask("authenticate", "judge", folder)[0] == 7  # PAM_AUTH_ERR
    modules.pam_stack.apply("judge", [{"comment": "pam_deny.so"}], folder=str(folder))
    assert libpam.ask("authenticate", "judge", folder)[0] == 0
    assert modules.pam_stack.evaluate("judge", "auth", {}, str(folder))["result"] == "success"
