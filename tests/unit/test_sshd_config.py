"""
sshd_config without an sshd, case by case: a file below ``sshd_config/`` is a case.

``lint/`` also makes the table of the guide, and ``tests/functional/test_sshd_config.py`` puts each
of these to the real sshd. To write the table anew:
``python -m tests.unit.test_sshd_config > docs/guide/_lint_sshd.md``.
"""

from pathlib import Path

import pytest
import yaml
from salt.exceptions import CommandExecutionError, SaltInvocationError

from tests.support import REPO, load

sshd_config = load("modules", "sshd_config")

CASES = Path(__file__).parent / "sshd_config"
CONFIG = "/nowhere/sshd_config"
VERSIONS = {"9.2": "OpenSSH_9.2p1 Debian-2", "10.0": "OpenSSH_10.0p2 Debian-7"}
#: Keywords that OpenSSH 9.2 does not know yet
LATER = set(
    "pamservicename persourcepenalties persourcepenaltyexemptlist refuseconnection sshdauthpath"
    " sshdsessionpath".split()
)


def cases(folder):
    return sorted((CASES / folder).glob("*.yaml"))


def by_name(path):
    return path.stem


#: What a case may say
KEYS = {
    "read": {"files", "error", "lines", "ports", "matches"},
    "options": {"options", "match", "before", "after"},
    "lint": set(
        "title config files users findings other_findings only_sshd"
        " sshd_t connection sshd_T says".split()
    ),
}


def read_case(path):
    case = yaml.safe_load(path.read_text())
    unknown = set(case) - KEYS[path.parent.name]
    assert not unknown, f"{path}: {', '.join(unknown)}: no key of such a case"
    return case


def texts_of(case, folder):
    """The main file of a lint case and what lies beside it, ``{path: text}``."""
    texts = {"sshd_config": case["config"], **case.get("files", {})}
    return {f"{folder}/{name}": text.replace("{here}", folder) for name, text in texts.items()}


def for_release(value, release):
    """A value of a case, where it may differ between releases."""
    return value[release] if isinstance(value, dict) and release in value else value


def findings_of(case, release):
    found = case.get("other_findings", {}).get(release, case["findings"])
    return [tuple(finding) for finding in found]


def host(release):
    known = sshd_config._GLOBAL | sshd_config._IN_MATCH
    return sshd_config._Host(
        VERSIONS[release],
        frozenset(known - LATER if release == "9.2" else known),
        is_user=lambda name: name in ("root", "nobody"),
        is_group=lambda name: name in ("root", "nogroup"),
    )


def lint(case, release):
    files = sshd_config._Files(texts_of(case, "/nowhere"))
    return sshd_config._lint(CONFIG, files, host(release), case.get("users", []))


@pytest.mark.parametrize("path", cases("read"), ids=by_name)
def test_read(path):
    """As OpenSSH 10.0 does."""
    case = read_case(path)
    files = sshd_config._Files(case["files"])

    def lines():
        return list(sshd_config._lines(CONFIG, files, (10, 0)))

    if "error" in case:
        with pytest.raises((sshd_config._BadLineError, CommandExecutionError)) as refused:
            lines()
        assert case["error"] in str(refused.value)
    if "lines" in case:
        found = [[line.number, line.keyword, list(line.arguments)] for line in lines()]
        assert found == case["lines"]
    if "ports" in case:
        assert [line.arguments[0] for line in lines() if line.name == "port"] == case["ports"]
    if "matches" in case:
        found = {
            line.text: [list(criterion) for criterion in line.match] or None
            for line in lines()
            if line.name not in ("match", "include")
        }
        assert found == case["matches"]


def test_a_relative_name_in_files_is_refused():
    with pytest.raises(SaltInvocationError, match="files: sshd_config: expected an absolute path"):
        sshd_config._Files({"sshd_config": "UsePAM yes"})


@pytest.mark.parametrize("path", cases("options"), ids=by_name)
def test_options(path):
    case = read_case(path)
    criteria = tuple(sshd_config._criteria(case["match"], (10, 0))) if "match" in case else ()

    def plan(text):
        files = {CONFIG: text}
        return sshd_config._plan_options(CONFIG, case["options"], criteria, CONFIG, files, (10, 0))

    if case["before"] != case["after"]:
        assert plan(case["before"]) == {CONFIG: case["after"]}
    assert plan(case["after"]) == {}


@pytest.mark.parametrize(
    ("text", "patterns", "found"),
    [
        ("sean", "sean", 1),
        ("sean", "s?an,x", 1),
        ("sean", "x,!s*", -1),
        ("sean", "!s*,sean", -1),
        ("sean", "!x", 0),
        ("sean", "sean,", 1),
        ("", "*", 1),
        ("a.b", "a?b*", 1),
        ("a+b", "a+b", 1),
        ("sean", "Sean", 0),
    ],
)
def test_pattern_lists(text, patterns, found):
    assert sshd_config._pattern_list(text, patterns) == found


@pytest.mark.parametrize(
    ("address", "patterns", "found"),
    [
        ("10.1.2.3", "10.0.0.0/8", 1),
        ("10.1.2.3", "*,!10.1.0.0/16", -1),
        ("10.1.2.3", "!10.1.0.0/16,*", -1),
        ("10.1.2.3", "!192.0.2.0/24", 0),
        ("10.1.2.3", "10.1.*", 1),
        ("fd00::1", "fd00:0:0::/48", 1),
        ("10.1.2.3", "fd00::/8", 0),
        ("10.1.2.3", "10.1.2.3/32,x", 1),
    ],
)
def test_address_lists(address, patterns, found):
    assert sshd_config._address_list(address, patterns) == found


@pytest.mark.parametrize("release", VERSIONS)
@pytest.mark.parametrize("path", cases("lint"), ids=by_name)
def test_lint(path, release):
    case = read_case(path)
    found = lint(case, release)
    # What only sshd itself can say, the functional test sees
    wanted = [] if case.get("only_sshd") else findings_of(case, release)
    assert [(finding["line"], finding["code"]) for finding in found] == wanted
    for finding in found:
        assert finding["file"].startswith("/nowhere/")
        assert finding["message"]
        assert finding["mend"]
        assert finding["severity"] == sshd_config._SEVERITIES[finding["code"]]


def test_no_finding_without_a_case():
    """But for what systemd has to be there for: the functional test asks it."""
    told = {
        code
        for case in map(read_case, cases("lint"))
        for release in VERSIONS
        for _, code in findings_of(case, release)
    }
    assert told | {"socket"} == set(sshd_config._SEVERITIES)


def test_a_mistyped_key_of_a_case_is_named(tmp_path):
    path = tmp_path / "lint" / "case.yaml"
    path.parent.mkdir()
    path.write_text("title: x\nfinding: []\n")
    with pytest.raises(AssertionError, match="finding: no key of such a case"):
        read_case(path)


# ---- The table of the guide ------------------------------------------------------------------


def table():
    """The table of what lint finds and what sshd says to the same file."""
    head = [
        "<!-- Made by python -m tests.unit.test_sshd_config from tests/unit/sshd_config/lint. -->",
        "| The file | What `sshd_config.lint` finds | `sshd -t` | `sshd -T -C` |",
        "|---|---|---|---|",
    ]
    rows = sorted(map(row, map(read_case, cases("lint"))))
    return "\n".join([*head, *(text for _, text in rows)]) + "\n"


def row(case):
    """A row, and its place: first what only lint finds, last what is right."""
    found = {
        release: "<br>".join(f"{severity} `{code}`" for severity, code in kinds(case, release))
        or "nothing"
        for release in VERSIONS
    }
    answers = [
        {release: for_release(case[key], release) for release in VERSIONS}
        for key in ("sshd_t", "sshd_T")
    ]
    place = ("nothing" in found.values(), case["sshd_t"] != "accepts", list(found.values()))
    cells = [f"{case['title']}:<br>{written(case)}", cell(found), *map(cell, answers)]
    return place, f"| {' | '.join(cells)} |"


def kinds(case, release):
    codes = dict.fromkeys(code for _, code in findings_of(case, release))
    return [(sshd_config._SEVERITIES[code], code) for code in codes]


def written(case):
    """Its files, with the indentation that Markdown would take away."""
    texts = texts_of(case, "/etc/ssh")
    return "<br>".join(
        ("" if path == "/etc/ssh/sshd_config" else f"in `{path}`:<br>")
        + "<br>".join(map(code, text.splitlines()))
        for path, text in texts.items()
    )


def code(line):
    words = line.lstrip()
    shown = f"`{words}`".replace("|", "\\|") if words else ""
    return "&emsp;" * (len(line) > len(words)) + shown


def cell(answers):
    if len(set(answers.values())) == 1:
        return answers["9.2"]
    return "; ".join(f"{release}: {answer}" for release, answer in answers.items())


def test_the_guide_has_the_table_of_these_cases():
    fragment = (REPO / "docs/guide/_lint_sshd.md").read_text()
    assert fragment == table(), "write it anew, as this file's first lines say"


if __name__ == "__main__":
    print(table(), end="")
