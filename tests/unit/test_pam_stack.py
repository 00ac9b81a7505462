"""
PAM stacks, case by case: a file in ``pam_stack/KIND`` is a case.

A case of ``parse`` is the text of a file and the ``entries`` that read() finds in it, without file
and line. One of ``plan`` is a text, the edits, and the ``new`` text or the ``error``; ``files`` are
others that it includes, by name. One of ``evaluate`` has the ``answers`` of modules, and what comes
of them: the ``result``, and the rules ``asked``. One of ``lint`` is the text of a ``service``, what
lint ``finds`` there, and what ``libpam`` says to somebody with a password (``right``, unless
``password`` says otherwise) and no secret file, or to each Debian release; the functional tests ask
it.

``python -m tests.unit.test_pam_stack`` prints the guide's table of the cases of ``lint``.
"""

import re
import tempfile
from pathlib import Path

import pytest
import yaml
from salt.exceptions import CommandExecutionError, SaltInvocationError

from tests.support import REPO, load

HERE = Path(__file__).parent / "pam_stack"
FOLDER = "/etc/pam.d"

pam_stack = load("modules", "pam_stack")
root_file = load("modules", "root_file")


@pytest.fixture(autouse=True)
def loader(monkeypatch):
    names = ("read", "write", "diff")
    functions = {f"root_file.{name}": getattr(root_file, name) for name in names}
    monkeypatch.setattr(pam_stack, "__salt__", functions, raising=False)
    monkeypatch.setattr(pam_stack, "__grains__", {"os_family": "Debian"}, raising=False)


def cases(kind):
    paths = sorted((HERE / kind).glob("*.yaml"))
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def overlay(text, files=()):
    others = {f"{FOLDER}/{name}": files[name] for name in files}
    return {f"{FOLDER}/service": text, f"{FOLDER}/other": None, **others}


@cases("parse")
def test_parse(path):
    case = yaml.safe_load(path.read_text())
    found = pam_stack.read("service", files=overlay(case["text"]))
    assert [entry["line"] for entry in found] == case["lines"]
    for entry in found:
        del entry["file"], entry["line"]
    silent = {"silent": False}
    assert found == [silent | entry for entry in case["entries"]]


@cases("plan")
def test_plan(path):
    case = yaml.safe_load(path.read_text())
    files = overlay(case["text"], case.get("files", {}))
    if "error" in case:
        with pytest.raises(SaltInvocationError) as raised:
            pam_stack.plan("service", case["edits"], files=files)
        assert str(raised.value) == case["error"]
        return
    planned = pam_stack.plan("service", case["edits"], files=files)
    assert planned["new"] == case["new"]
    if case.get("repeatable", True):
        files[planned["path"]] = case["new"]
        assert pam_stack.plan("service", case["edits"], files=files)["diff"] == ""


@cases("evaluate")
def test_evaluate(path):
    case = yaml.safe_load(path.read_text())
    files = overlay(case["text"], case.get("files", {}))
    said = pam_stack.evaluate("service", case.get("type", "auth"), case["answers"], files=files)
    asked = [f"{Path(rule['file']).name}:{rule['line']} {rule['action']}" for rule in said["asked"]]
    assert (said["result"], asked) == (case["result"], case["asked"])


def test_a_module_without_an_answer_is_named():
    files = overlay("auth required pam_a.so\n")
    for answers in ({}, {"pam_b.so": "success"}):
        with pytest.raises(SaltInvocationError, match="service:1: answers says nothing of pam_a"):
            pam_stack.evaluate("service", "auth", answers, files=files)
    with pytest.raises(SaltInvocationError, match="okay' is no answer"):
        pam_stack.evaluate("service", "auth", {"pam_a.so": "okay"}, files=files)
    with pytest.raises(SaltInvocationError, match="service:7 is no rule of the auth stack"):
        pam_stack.evaluate("service", "auth", {"/etc/pam.d/service:7": "success"}, files=files)


def test_what_releases_read_differently_is_not_evaluated():
    files = overlay("auth required \\\n# comment\npam_permit.so\n")
    with pytest.raises(CommandExecutionError, match="service:1: a comment or an empty line"):
        pam_stack.evaluate("service", "auth", {}, files=files)


TEXTS = [
    "",
    "\n",
    "# only a comment",
    "auth required pam_x.so",
    "auth required pam_x.so\n\n",
    "auth required pam_x.so\r\n\r\n# \r\naccount required pam_x.so\r\n",
    "auth required \\\n  pam_x.so\n   ",
    "# \udcff\udcfe\nauth\trequired pam_x.so # \udce4\n",
    "session required pam_x.so\n# BEGIN other\n# END other",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("at", ["top", "bottom"])
def test_a_block_leaves_no_trace(text, at):
    rules = ["# mine", "auth required pam_ours.so", ""]
    block = {"block": "mine", "rules": rules, "at": at, "begin": "# BEGIN mine: hands off"}
    new = pam_stack.plan("service", [block], files=overlay(text))["new"]
    assert "# BEGIN mine: hands off\n# mine\nauth required pam_ours.so\n\n# END mine" in new
    found = pam_stack.read("service", files=overlay(new))
    assert "pam_ours.so" in [entry.get("module") for entry in found]
    gone = pam_stack.plan("service", [{"block": "mine", "rules": []}], files=overlay(new))
    assert gone["new"] == text


@pytest.mark.parametrize(
    "path", sorted(HERE.glob("stacks/*/*")), ids=lambda path: "/".join(path.parts[-2:])
)
def test_round_trip(path):
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    assert "".join(entry.text for entry in pam_stack._parse(text)) == text
    for entry in pam_stack._parse(text):
        assert not entry.doubt
        assert not entry.cut
        assert not entry.words or not entry.problem


STACKS = sorted(path for path in (HERE / "stacks").iterdir())


@pytest.mark.parametrize("folder", STACKS, ids=lambda path: path.name)
@pytest.mark.parametrize("password", ["success", "auth_err"])
def test_other_distributions(folder, password, monkeypatch):
    """Their sshd stacks let in with a password, and not without; nothing is wrong with them."""
    monkeypatch.setattr(pam_stack, "__grains__", {"os_family": "RedHat"})
    monkeypatch.setattr(pam_stack, "_module_folders", list)
    modules = {rule.get("module") for rule in pam_stack.effective("sshd", "auth", str(folder))}
    answers = dict.fromkeys(modules - {"pam_deny.so", None}, "success")
    failing = {
        "pam_unix.so": password,
        "pam_sss.so": password,
        "pam_systemd_home.so": "module_unknown",
        # What it answers to authfail
        "pam_faillock.so": "success" if password == "success" else "auth_err",
    }
    said = pam_stack.evaluate("sshd", "auth", answers | failing, str(folder))
    assert (said["result"] == "success") == (password == "success")
    assert pam_stack.lint("sshd", str(folder)) == []


@pytest.mark.parametrize("service", [None, 7, "..", "a/b", "", "a b", ["sshd"]])
def test_what_is_no_service(service):
    with pytest.raises(SaltInvocationError, match="is no service"):
        pam_stack.read(service)


@pytest.mark.parametrize(
    ("answers", "files", "words"),
    [
        ({7: "success"}, None, "answers: '7: success' is no answer"),
        ({"pam_a.so": None}, None, "answers: 'pam_a.so: None' is no answer"),
        (["pam_a.so"], None, "is no mapping; give MODULE"),
        ({}, ["/etc/pam.d/service"], "is no mapping; give PATH"),
    ],
)
def test_what_are_no_answers_and_no_files(answers, files, words):
    with pytest.raises(SaltInvocationError, match=words):
        pam_stack.evaluate("service", "auth", answers, files=files)


def test_an_empty_word_is_no_module():
    files = overlay("auth required [] x\nauth sufficient pam_permit.so\n")
    assert pam_stack.evaluate("service", "auth", {}, files=files)["result"] == "abort"


def test_lint_tells_of_a_file_that_ends_in_backslashes():
    found = pam_stack.lint("service", files=overlay("auth required pam_permit.so\n\\\n\\\n"))
    assert [finding["code"] for finding in found] == ["cut-off"]


# ---- lint --------------------------------------------------------------------------------------

LINT = sorted((HERE / "lint").glob("*.yaml"))
MODULES = "debug deny faillock google_authenticator permit unix".split()


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The modules of a host, so that the one of this machine does not matter."""
    for name in MODULES:
        (tmp_path / f"pam_{name}.so").touch()
    monkeypatch.setattr(pam_stack, "_module_folders", lambda: [str(tmp_path)])


def lint(case):
    files = overlay(case["service"], case.get("files", {}))
    return pam_stack.lint("service", files=files)


def shown(finding):
    """What a case says of a finding; where it is, if not in the service's own file."""
    place = Path(finding["file"]).name
    known = {key: finding[key] for key in ("line", "severity", "code")}
    return known if place == "service" else {"in": place, **known}


@pytest.mark.parametrize("path", LINT, ids=lambda path: path.stem)
def test_lint(path, modules):
    case = yaml.safe_load(path.read_text())
    found = lint(case)
    assert [shown(finding) for finding in found] == case["finds"]
    assert all(finding["message"] and finding["mend"] for finding in found)


# ---- The guide's table -------------------------------------------------------------------------

TABLE = REPO / "docs/guide/_lint_pam.md"


def table():
    """What lint finds and what libpam says, of each case, as the guide has it."""
    rows = [
        "<!-- Made by python -m tests.unit.test_pam_stack from tests/unit/pam_stack/lint. -->",
        "| The file | What `pam_stack.lint` finds | What libpam says |",
        "|---|---|---|",
    ]
    for path in LINT:
        case = yaml.safe_load(path.read_text())
        found = "<br>".join(map(told, lint(case))) or "nothing"
        rows.append(f"| {case['about']}:<br>{written(case)} | {found} | {said(case['libpam'])} |")
    return "\n".join(rows) + "\n"


def written(case):
    texts = [("", case["service"]), *case.get("files", {}).items()]
    return "<br>".join(
        (f"in `{name}`:<br>" if name else "") + "<br>".join(map(code, text.split("\n")[:-1]))
        for name, text in texts
    )


def code(line):
    """A line in a table: control characters named, what is long cut short."""
    line = re.sub(r"(x{20})x+", r"\1…", line).replace("\r", "␍").replace("|", "\\|")
    return f"`{line}`" if line.strip() else ""


def told(finding):
    place = shown(finding).get("in", "line")
    message = finding["message"].replace(f"{FOLDER}/", "").replace("|", "\\|")
    return f"{place} {finding['line']}, {finding['severity']} `{finding['code']}`: {message}"


def said(libpam):
    if isinstance(libpam, dict):
        return "<br>".join(f"Debian {release}: {said(word)}" for release, word in libpam.items())
    return "the process dies" if libpam == "crash" else f"`{libpam}`"


def test_the_table_of_the_guide(modules):
    assert TABLE.read_text() == table(), "run: python -m tests.unit.test_pam_stack"


def test_no_finding_without_a_case(modules):
    """Each kind was given to libpam; but what is wrong elsewhere only cannot be, on Debian."""
    codes = {finding["code"] for path in LINT for finding in lint(yaml.safe_load(path.read_text()))}
    assert codes | {"at-include"} == set(pam_stack._SEVERITIES)


def test_at_include_is_debians(modules, monkeypatch):
    monkeypatch.setattr(pam_stack, "__grains__", {"os_family": "RedHat"})
    found = lint({"service": "@include common-auth\nauth required pam_permit.so\n"})
    assert ("at-include", 1) in [(finding["code"], finding["line"]) for finding in found]


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        loader.__wrapped__(patch)
        modules.__wrapped__(Path(folder), patch)
        print(table(), end="")
