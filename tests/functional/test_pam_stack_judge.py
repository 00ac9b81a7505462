"""
The judge of pam_stack is libpam itself: whatever stands in a stack, and whatever its modules
answer, evaluate() says what libpam says, after asking the same modules in the same order.

``pam_debug.so`` answers as its arguments tell it, and shows each answer to the conversation.
"""

import os
import platform
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError

from tests.functional.pam import CRASHED, Libpam
from tests.support import REPO, load

STACKS = 600
SERVICE = "judge"
# pam_FUNCTION(3) of each type, and what pam_debug calls its recipes
ASKED = {
    "auth": ("authenticate", "auth"),
    "account": ("acct_mgmt", "acct"),
    "password": ("chauthtok", "chauthtok"),
    "session": ("open_session", "open_session"),
}

pam_stack = load("modules", "pam_stack")
root_file = load("modules", "root_file")


@pytest.fixture(autouse=True, scope="module")
def loader():
    pam_stack.__salt__ = {"root_file.read": root_file.read, "root_file.diff": root_file.diff}
    pam_stack.__grains__ = {"os_family": "Debian"}


@pytest.fixture(scope="module")
def libpam():
    asked = Libpam()
    yield asked
    asked.close()


@pytest.fixture
def folder(tmp_path):
    """Debian's libpam looks for relative includes in /etc/pam.d only: ours are absolute."""
    return tmp_path


# ---- Stacks of every kind --------------------------------------------------------------------


def mostly(usual, rare, times=9):
    """one_of() would take the same strategy once, however often it is named."""
    return st.integers(0, times).flatmap(lambda number: rare if number == times else usual)


RETURNS = st.sampled_from(pam_stack._RETURNS)
ANSWERS = mostly(
    st.sampled_from(["success"] * 5 + ["ignore", "auth_err", "new_authtok_reqd"]),
    RETURNS,
    times=6,
)
ACTIONS = st.sampled_from("ignore ignore ok ok done bad die reset 1 1 2 3 12".split())
VALUES = mostly(
    st.sampled_from(["success", "ignore", "auth_err", "new_authtok_reqd", "default"]), RETURNS
)
SETTINGS = st.builds(
    lambda value, action, left, right: f"{value}{left}={right}{action}",
    VALUES,
    ACTIONS,
    mostly(st.just(""), st.sampled_from([" ", "\t", "\v"])),
    mostly(st.just(""), st.sampled_from([" ", "\f"])),
)
TABLES = st.builds(
    lambda settings, gap, end: f"[{gap.join(settings)}{end}]",
    st.lists(SETTINGS, max_size=4),
    mostly(st.just(" "), st.sampled_from(["", "\t", "  "])),
    mostly(st.just(""), st.sampled_from([" ", " success", " x", " success=0", " ok=1"]), times=20),
)
WORDS = st.sampled_from("required requisite sufficient optional".split())
CONTROLS = mostly(
    WORDS | TABLES,
    st.sampled_from(["Required", "[sufficient]", "SUFFICIENT", "mandatory", "success=ok", "[]"]),
    times=15,
)
TYPES = mostly(
    st.sampled_from(["auth", "auth", "auth", "account", "password", "session"]),
    st.sampled_from(["Auth", "SESSION", "-auth", "-account", "atuh", "--auth", "[auth]"]),
    times=20,
)
MODULES = mostly(
    st.just("pam_debug.so"),
    st.sampled_from(
        ["pam_permit.so", "pam_deny.so", "pam_none.so", "[pam_debug.so]", "pam_debug.so\r"]
    ),
    times=5,
)
GAPS = mostly(
    st.just(" "), st.sampled_from(["\t", "  \t", " \\\n", "\\\n  ", " \\ \t\n\t"]), times=20
)
RULES = st.tuples(st.just("rule"), TYPES, CONTROLS, MODULES, ANSWERS, GAPS)
INCLUDES = st.tuples(
    st.just("include"),
    st.sampled_from(["@include", "include", "substack", "substack", "Substack"]),
    st.sampled_from(["auth", "auth", "account", "atuh"]),
    mostly(st.integers(0, 2), st.just(9), times=40),  # there is no file 9
)
OTHERS = st.tuples(
    st.just("text"),
    mostly(
        st.sampled_from(["", "# a comment", "#", "  \t", "# auth required pam_deny.so \\"]),
        st.sampled_from(
            ["auth", "auth required", "auth optional", "account sufficient", "\r", "x"]
        ),
        times=15,
    ),
)
# What libpam gives up on, or takes for a module without a name
FATAL = st.tuples(
    st.just("text"), st.sampled_from(["auth required /", "auth required .so", "auth optional \\"])
)
LINES = mostly(mostly(RULES, INCLUDES, times=4), OTHERS, times=6)
ENDS = mostly(st.just("\n"), st.sampled_from(["", "\n\n", "\n   "]))
FILES = st.tuples(st.lists(LINES, max_size=5), ENDS)
TREES = st.fixed_dictionaries(
    {
        "service": st.tuples(st.lists(LINES, min_size=1, max_size=9), ENDS),
        "included": st.tuples(FILES, FILES, FILES),
        "other": mostly(FILES, st.none(), times=2),
        "tail": mostly(st.none(), FATAL, times=30),
    }
)


class Tree:
    """A generated case: texts by path, and the answer of each rule by FILE:LINE."""

    def __init__(self, case, folder):
        self.folder = folder
        self.texts = {f"{folder}/other": None}
        self.answers = {}
        lines, end = case["service"]
        self._write(SERVICE, [*lines, *([case["tail"]] if case["tail"] else [])], end)
        for number, (lines, end) in enumerate(case["included"]):
            # Later ones only: what includes itself is a case of its own
            self._write(f"included{number}", lines, end, number + 1)
        if case["other"]:
            self._write("other", *case["other"])

    def _write(self, name, lines, end, first=0):
        path = f"{self.folder}/{name}"
        written = []
        for kind, *line in lines:
            place = f"{path}:{sum(text.count(chr(10)) + 1 for text in written) + 1}"
            if kind == "rule":
                text = self._rule(place, *line)
            elif kind == "include":
                how, rule_type, number = line
                head = how if how == "@include" else f"{rule_type} {how}"
                number = number if number == 9 or number >= first else 9
                text = f"{head} {self.folder}/included{number}"
            else:
                text = line[0]
            written.append(text)
        self.texts[path] = "\n".join(written) + end

    def _rule(self, place, rule_type, control, module, answer, gap):
        known = {"pam_none.so": "module_unknown", "pam_debug.so\r": "module_unknown"}
        recipes = ["auth", "acct", "chauthtok", "prechauthtok", "open_session"]
        if "debug" in module and module not in known:
            known[module] = answer
        if module in known:
            self.answers[place] = known[module]
        words = [rule_type, control, module, *(f"{recipe}={answer}" for recipe in recipes)]
        return gap.join(words)

    def lay_out(self):
        for path in self.folder.glob("*"):
            path.unlink()
        for path, text in self.texts.items():
            if text is not None:
                Path(path).write_bytes(text.encode())

    def ours(self, rule_type):
        """What evaluate() says: ``(result, answers of pam_debug.so in order)``"""
        where = {"folder": str(self.folder), "files": self.texts}
        try:
            places = {
                f"{rule['file']}:{rule['line']}"
                for rule in pam_stack.effective(SERVICE, rule_type, **where)
            }
        except CommandExecutionError:
            places = set()
        answers = {place: self.answers[place] for place in places & set(self.answers)}
        said = pam_stack.evaluate(SERVICE, rule_type, answers, **where)
        shown = [
            asked["answer"]
            for asked in said["asked"]
            if asked["module"] == "pam_debug.so"
            and f"{asked['file']}:{asked['line']}" in self.answers
            and asked["answer"] == self.answers[f"{asked['file']}:{asked['line']}"]
        ]
        return said["result"], shown


def theirs(libpam, folder, rule_type):
    """What libpam says: ``(result, answers of pam_debug.so in order)``"""
    function, recipe = ASKED[rule_type]
    number, messages = libpam.ask(function, SERVICE, folder)
    if number == CRASHED:
        return "crash", []
    result = pam_stack._RETURNS[number]
    # pam_chauthtok(3) walks the stack twice, the first time for a preliminary check
    shown = [text.split("=") for _, text in messages]
    first = [answer for name, answer in shown if name in (recipe, f"pre{recipe}")]
    if rule_type == "password" and result == "success":
        first = first[: len(first) // 2]
    elif rule_type == "password":
        first = [answer for name, answer in shown if name == f"pre{recipe}"]
    return result, first


def test_libpam_agrees(libpam, folder, record_property):
    counted = Counter()

    @settings(
        max_examples=STACKS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(TREES)
    def agrees(case):
        tree = Tree(case, folder)
        try:
            says = {rule_type: tree.ours(rule_type) for rule_type in ASKED}
        except CommandExecutionError as error:
            counted[f"not guessed: {str(error).rpartition(': ')[2][:40]}"] += 1
            return
        tree.lay_out()
        for rule_type, said in says.items():
            they = theirs(libpam, folder, rule_type)
            assert said == they, f"{rule_type}: {said} {they} {tree.texts}"
            counted[said[0]] += 1
        counted["stacks"] += 1

    agrees()
    print(f"{counted['stacks']} stacks agreed: {dict(counted.most_common())}")
    assert counted["stacks"] >= 500
    assert counted["success"] >= 150, counted
    assert counted["abort"] >= 20


# ---- What lint finds -------------------------------------------------------------------------

USER = "lintjudge"
PASSWORD = "right"
LINT = sorted((REPO / "tests/unit/pam_stack/lint").glob("*.yaml"))


@pytest.fixture(scope="module")
def release():
    """Debian's, as the cases name it."""
    return platform.freedesktop_os_release()["VERSION_ID"]


@pytest.fixture(scope="module")
def person():
    """Somebody with a password, and without a secret file."""
    install = ["apt-get", "-qq", "install", "libpam-google-authenticator"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=env)
    subprocess.run(["useradd", "--create-home", USER], check=True)
    subprocess.run(["chpasswd"], input=f"{USER}:{PASSWORD}", text=True, check=True)
    yield USER
    subprocess.run(["userdel", "--remove", USER], check=True, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("path", LINT, ids=lambda path: path.stem)
def test_lint(path, libpam, folder, person, release):
    """The very file of each case, given to libpam; the guide's table has both answers."""
    case = yaml.safe_load(path.read_text())
    (folder / SERVICE).write_bytes(case["service"].encode())
    included = {Path("/etc/pam.d") / name: text for name, text in case.get("files", {}).items()}
    for place, text in included.items():
        place.write_text(text)
    number, _ = libpam.ask("authenticate", SERVICE, folder, person, case.get("password", PASSWORD))
    for place in included:
        place.unlink()
    says = "crash" if number == CRASHED else pam_stack._RETURNS[number]
    expected = case["libpam"]
    assert says == (expected if isinstance(expected, str) else expected[release])
