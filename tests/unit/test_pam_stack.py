"""
PAM stacks, case by case: a file in ``pam_stack/parse`` or ``pam_stack/plan`` is a case.

A case of ``parse`` is the text of a file and the ``entries`` that read() finds in it, without file
and line. One of ``plan`` is a text, the edits, and the ``new`` text or the ``error``; ``files`` are
others that it includes, by name.
"""

from pathlib import Path

import pytest
import yaml
from salt.exceptions import SaltInvocationError

from tests.support import load

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
    again = pam_stack.plan("service", case["edits"], files={**files, planned["path"]: case["new"]})
    assert not case.get("repeatable", True) or again["new"] == case["new"]


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
