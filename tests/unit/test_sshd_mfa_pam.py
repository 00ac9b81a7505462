"""The block in the PAM service's file, after an operator had a hand in it."""

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import load

PATH = "/etc/pam.d/sshd"
RULES = ["auth required pam_ours.so"]
STOCK = "# Access\n\naccount required pam_nologin.so\n# Passwords\nauth required pam_unix.so\n"
OWN = "auth sufficient pam_rootok.so\n"

state = load("states", "sshd_mfa")
pam_stack = load("modules", "pam_stack")
mfa_policy = load("modules", "mfa_policy")
root_file = load("modules", "root_file")


@pytest.fixture
def planned(monkeypatch):
    """What becomes of a text of the file with these rules."""

    def plan(text, rules):
        overlay = {PATH: text, "/etc/pam.d/other": None}
        functions = {
            "mfa_policy.marks": mfa_policy.marks,
            "pam_stack.plan": lambda *given: pam_stack.plan(*given, files=overlay),
        }
        monkeypatch.setattr(state, "__salt__", functions, raising=False)
        return state._pam_file("sshd", rules)[PATH]

    monkeypatch.setattr(pam_stack, "__grains__", {"os_family": "Debian"}, raising=False)
    functions = {"root_file.diff": root_file.diff, "root_file.read": root_file.read}
    monkeypatch.setattr(pam_stack, "__salt__", functions, raising=False)
    return plan


BLOCK = "\n".join([mfa_policy.marks()[0], *RULES, mfa_policy.marks()[1], ""])


@pytest.mark.parametrize(
    "edited",
    [
        STOCK + BLOCK,
        STOCK.replace("auth", f"{OWN}{BLOCK}auth"),
        STOCK.replace("auth", f"-auth [success=ok default=ignore] pam_x.so\n{BLOCK}auth"),
        STOCK.replace("auth", "auth substack none\n" + BLOCK + "auth"),
    ],
)
def test_no_rule_of_auth_stands_above_the_block(planned, edited):
    new = planned(edited, RULES)
    assert new.index(BLOCK) < new.index(next(f for f in ("-auth", "auth s", "auth r") if f in new))
    assert new.replace(BLOCK, "") == edited.replace(BLOCK, "")
    assert planned(new, RULES) == new
    assert planned(new, []) == edited.replace(BLOCK, "")


@pytest.mark.parametrize("above", ["# Mine\n", "account required pam_access.so\n"])
def test_the_block_stays_where_no_rule_of_auth_is_above(planned, above):
    edited = above + STOCK.replace("auth", f"{BLOCK}# Mine\nauth")
    assert planned(edited, RULES) == edited


@pytest.mark.parametrize("mark", mfa_policy.marks())
@pytest.mark.parametrize("times", [0, 2])
def test_damaged_marks_are_not_guessed_at(planned, mark, times):
    edited = (BLOCK + STOCK).replace(f"{mark}\n", f"{mark}\n" * times)
    for rules in (RULES, []):
        with pytest.raises(CommandExecutionError, match=f"{PATH}:[12]: .* are no pair"):
            planned(edited, rules)


def test_a_jump_over_the_block_is_not_guessed_at(planned):
    """Moved or taken away, the block would leave it jumping somewhere else."""
    edited = STOCK.replace("auth", f"auth [success=2 default=ignore] pam_x.so\n{BLOCK}auth")
    for rules in (RULES, []):
        with pytest.raises(CommandExecutionError, match="would jump to another rule"):
            planned(edited, rules)
