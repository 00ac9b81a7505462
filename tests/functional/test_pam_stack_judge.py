"""
The judge of pam_stack is libpam itself: in stacks that are drawn at random (the same in every run)
evaluate() says what libpam says, after asking the same modules in the same order.

``pam_debug.so`` answers as its arguments tell it, and shows each answer to the conversation.
"""

import os
import platform
import random
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from tests.functional.pam import CRASHED
from tests.support import REPO, load

STACKS = 1000
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


# ---- Stacks of every kind --------------------------------------------------------------------
# What a line may say: the usual, and what is rare (one time in so many).

ANSWERS = ("success success success success success ignore auth_err new_authtok_reqd", 7)
VALUES = ("success ignore auth_err new_authtok_reqd default", 10)
ACTIONS = "ignore ignore ok ok done bad die reset 1 1 2 3 12".split()
WORDS = ("required requisite sufficient optional".split(), 16)
ODD_WORDS = ["Required", "[sufficient]", "SUFFICIENT", "mandatory", "success=ok", "[]"]
ODD_ENDS = [" ", " success", " x", " success=0", " ok=1"]
TYPES = ("auth auth auth account password session".split(), 20)
ODD_TYPES = ["Auth", "SESSION", "-auth", "-account", "atuh", "--auth", "[auth]"]
MODULES = (["pam_debug.so"], 6)
ODD_MODULES = ["pam_permit.so", "pam_deny.so", "pam_none.so", "[pam_debug.so]", "pam_debug.so\r"]
GAPS = ([" "], 20)
ODD_GAPS = ["\t", "  \t", " \\\n", "\\\n  ", " \\ \t\n\t"]
TEXTS = (["", "# a comment", "#", "  \t", "# auth required pam_deny.so \\"], 15)
ODD_TEXTS = ["auth", "auth required", "auth optional", "account sufficient", "\r", "x"]
# What libpam gives up on
FATAL = ["auth required /", "auth required .so", "auth optional \\"]
HOW = ["@include", "include", "substack", "substack", "Substack"]
NOWHERE = 9  # there is no such file


class Tree:
    """A service, ``other`` and what they include; the answer of each rule by FILE:LINE."""

    def __init__(self, dice, folder):
        self.dice = dice
        self.folder = folder
        self.texts = {}
        self.answers = {}
        self._draw(SERVICE, self._some(1, 9), tail=self._one_in(30))
        for number in range(3):
            # Later ones only: what includes itself is a case of lint
            self._draw(f"included{number}", self._some(0, 5), first=number + 1)
        self._draw("other", self._some(0, 5))
        if self._one_in(3):
            self.texts[f"{folder}/other"] = None

    def _one_in(self, times):
        return self.dice.randrange(times) == 0

    def _some(self, least, most):
        return range(self.dice.randint(least, most))

    def _mostly(self, usual, rare):
        words, times = usual
        words = words.split() if isinstance(words, str) else words
        return self.dice.choice(rare if self._one_in(times) else words)

    def _draw(self, name, lines, first=0, tail=False):
        path = f"{self.folder}/{name}"
        text = ""
        for _ in lines:
            place = f"{path}:{text.count(chr(10)) + 1}"
            text += self._line(place, first) + "\n"
        if tail:
            text += self.dice.choice(FATAL) + "\n"
        self.texts[path] = text[:-1] + self._mostly((["\n"], 10), ["", "\n\n", "\n   "])

    def _line(self, place, first):
        if self._one_in(7):
            return self._mostly(TEXTS, ODD_TEXTS)
        if not self._one_in(5):
            return self._rule(place)
        number = NOWHERE if self._one_in(40) or first > 2 else self.dice.randint(first, 2)
        how = self.dice.choice(HOW)
        head = how if how == "@include" else f"{self._mostly(TYPES, ODD_TYPES)} {how}"
        return f"{head} {self.folder}/included{number}"

    def _rule(self, place):
        module = self._mostly(MODULES, ODD_MODULES)
        answer = self._mostly(ANSWERS, pam_stack._RETURNS)
        if "debug" in module:
            self.answers[place] = "module_unknown" if "\r" in module else answer
        if "none" in module:
            self.answers[place] = "module_unknown"
        recipes = [name for _, name in ASKED.values()] + ["prechauthtok"]
        words = [self._mostly(TYPES, ODD_TYPES), self._control(), module]
        words += [f"{recipe}={answer}" for recipe in recipes]
        return self._mostly(GAPS, ODD_GAPS).join(words)

    def _control(self):
        if self._one_in(2):
            return self._mostly(WORDS, ODD_WORDS)
        gap = self._mostly(([" "], 10), ["", "\t", "  "])
        settings = gap.join(self._setting() for _ in self._some(0, 4))
        return f"[{settings}{self._mostly(([''], 20), ODD_ENDS)}]"

    def _setting(self):
        value = self._mostly(VALUES, pam_stack._RETURNS)
        left, right = (self._mostly(([""], 10), [" ", "\t", "\v"]) for _ in range(2))
        return f"{value}{left}={right}{self.dice.choice(ACTIONS)}"

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
            rules = pam_stack.effective(SERVICE, rule_type, **where)
        except CommandExecutionError:  # and evaluate() says the same, or that libpam gives up
            rules = []
        places = {f"{rule['file']}:{rule['line']}" for rule in rules} & set(self.answers)
        answers = {place: self.answers[place] for place in places}
        said = pam_stack.evaluate(SERVICE, rule_type, answers, **where)
        shown = [rule["answer"] for rule in said["asked"] if rule["module"] == "pam_debug.so"]
        return said["result"], shown


def theirs(libpam, folder, rule_type):
    """What libpam says: ``(result, answers of pam_debug.so in order)``"""
    function, recipe = ASKED[rule_type]
    number, messages = libpam.ask(function, SERVICE, folder)
    shown = [text.split("=") for _, text in messages]
    # pam_chauthtok(3) walks the stack twice, the first time for a preliminary check
    recipe = "prechauthtok" if rule_type == "password" else recipe
    answers = [answer for name, answer in shown if name == recipe]
    return "crash" if number == CRASHED else pam_stack._RETURNS[number], answers


@pytest.mark.judge
def test_libpam_agrees(libpam, tmp_path):
    """Included by absolute paths: Debian's libpam looks for others in /etc/pam.d only."""
    dice = random.Random(3)
    counted = Counter()
    for _ in range(STACKS):
        tree = Tree(dice, tmp_path)
        try:
            says = {rule_type: tree.ours(rule_type) for rule_type in ASKED}
        except CommandExecutionError:
            counted["not guessed"] += 1
            continue
        tree.lay_out()
        for rule_type, said in says.items():
            they = theirs(libpam, tmp_path, rule_type)
            assert said == they, f"{rule_type}: we say {said}, libpam says {they}: {tree.texts}"
            counted[said[0]] += 1
        counted["stacks"] += 1
    print(f"{counted['stacks']} stacks agreed: {dict(counted.most_common())}")
    assert counted["not guessed"] <= STACKS / 20
    assert counted["success"] >= STACKS / 4
    assert counted["abort"] >= STACKS / 20
    assert len(counted) >= 20, "few different answers came through"


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
def test_lint(path, libpam, tmp_path, person, release):
    """The very file of each case, given to libpam; the guide's table has both answers."""
    case = yaml.safe_load(path.read_text())
    (tmp_path / SERVICE).write_bytes(case["service"].encode())
    included = {Path("/etc/pam.d") / name: text for name, text in case.get("files", {}).items()}
    for place, text in included.items():
        place.write_text(text)
    number, _ = libpam.ask(
        "authenticate", SERVICE, tmp_path, person, case.get("password", PASSWORD)
    )
    for place in included:
        place.unlink()
    says = "crash" if number == CRASHED else pam_stack._RETURNS[number]
    expected = case["libpam"]
    assert says == (expected if isinstance(expected, str) else expected[release])
