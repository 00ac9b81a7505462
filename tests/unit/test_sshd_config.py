"""
sshd_config without an sshd, case by case: a file below ``sshd_config/`` is a case.

``lint/`` also makes the table of the guide, and ``tests/functional/test_sshd_config.py`` puts each
of these to the real sshd. To write the table anew:
``python -m tests.unit.test_sshd_config > docs/guide/_lint_sshd.md``.
"""

from pathlib import Path

import pytest
import yaml

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


def read_case(path):
    return yaml.safe_load(path.read_text())


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
    files = sshd_config._Files({CONFIG: case["config"]})
    return sshd_config._lint(CONFIG, files, host(release), case.get("users", []))


@pytest.mark.parametrize("release", VERSIONS)
@pytest.mark.parametrize("path", cases("lint"), ids=by_name)
def test_lint(path, release):
    case = read_case(path)
    found = lint(case, release)
    # What only sshd itself can say, the functional test sees
    wanted = [] if case.get("only_sshd") else findings_of(case, release)
    assert [(finding["line"], finding["code"]) for finding in found] == wanted
    for finding in found:
        assert finding["file"] == CONFIG
        assert finding["message"]
        assert finding["mend"]


# ---- The table of the guide ------------------------------------------------------------------


def table():
    """The table of what lint finds and what sshd says to the same file."""
    rows = [
        "| what is written | `sshd_config.lint` | `sshd -t` | `sshd -T -C` |",
        "|---|---|---|---|",
    ]
    for path in cases("lint"):
        case = read_case(path)
        codes = {
            release: ", ".join(f"`{code}`" for _, code in findings_of(case, release)) or "nothing"
            for release in VERSIONS
        }
        answers = [
            {release: for_release(case[key], release) for release in VERSIONS}
            for key in ("sshd_t", "sshd_T")
        ]
        cells = [cell(each) for each in (codes, *answers)]
        rows.append(f"| {case['title']} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def cell(answers):
    if len(set(answers.values())) == 1:
        return answers["9.2"]
    return "; ".join(f"{release}: {answer}" for release, answer in answers.items())


def test_the_guide_has_the_table_of_these_cases():
    fragment = (REPO / "docs/guide/_lint_sshd.md").read_text()
    assert fragment.endswith(table()), "write it anew, as this file's first lines say"


if __name__ == "__main__":
    print(table(), end="")
