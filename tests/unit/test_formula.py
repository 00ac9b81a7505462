"""The formula rendered by Salt itself, with the grains of each system's family."""

import copy
import functools

import pytest
import salt.client
import yaml

from tests.support import REPO

EXAMPLE = yaml.safe_load((REPO / "pillar.example").read_text())

FAMILIES = {
    "Debian": {"packages": ["openssh-server", "libpam-google-authenticator"], "service": "ssh"},
    "RedHat": {"packages": ["openssh-server", "google-authenticator"], "service": "sshd"},
    "Suse": {"packages": ["openssh-server", "google-authenticator-libpam"], "service": "sshd"},
    "Arch": {"packages": ["openssh", "libpam-google-authenticator"], "service": "sshd"},
}


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Render SLS files as a masterless minion of some family would."""

    @functools.cache
    def caller(family):
        root = tmp_path_factory.mktemp(family)
        config = {
            "root_dir": str(root),
            "file_client": "local",
            "file_roots": {"base": [str(REPO), str(REPO / "salt")]},
            "id": family,
            # Grains of the configuration file beat those that Salt finds.
            "grains": {"os_family": family},
        }
        (root / "minion").write_text(yaml.safe_dump(config))
        return salt.client.Caller(str(root / "minion"))

    def show_sls(sls, family, pillar=EXAMPLE):
        return caller(family).cmd("state.show_sls", sls, pillar=copy.deepcopy(pillar))

    return show_sls


def arguments(low, state, function):
    """The arguments of one state declaration of what show_sls returned, as one mapping."""
    found = {}
    for item in low[state][function]:
        found.update(item if isinstance(item, dict) else {"fun": item})
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_renders(render, family):
    states = render("sshd_mfa", family)
    assert isinstance(states, dict), states
    expected = FAMILIES[family]
    assert arguments(states, "sshd_mfa packages", "pkg")["pkgs"] == expected["packages"]
    policy = arguments(states, "sshd_mfa policy", "sshd_mfa")
    assert policy["service"] == expected["service"]
    assert policy["pam_service"] == "sshd"
    assert ("sshd_mfa repository" in states) is (family == "RedHat")


def test_lookup_beats_the_family(render):
    pillar = copy.deepcopy(EXAMPLE)
    pillar["sshd_mfa"]["lookup"] = {
        "packages": ["ours"],
        "service": "sshd-ours",
        "paths": {"keys_dir": "/srv/keys"},
    }
    states = render("sshd_mfa", "Debian", pillar)
    policy = arguments(states, "sshd_mfa policy", "sshd_mfa")
    assert arguments(states, "sshd_mfa packages", "pkg")["pkgs"] == ["ours"]
    assert policy["service"] == "sshd-ours"
    assert policy["keys_dir"] == "/srv/keys"
    assert policy["drop_in"] == "/etc/ssh/sshd_config.d/00-sshd_mfa.conf"


@pytest.mark.parametrize("part", ["package", "users", "enforced", "clean"])
def test_every_part_renders_alone(render, part):
    states = render(f"sshd_mfa.{part}", "Debian")
    assert isinstance(states, dict), states
    assert "sshd_mfa modules are of version 0.1.0" in states


def test_the_number_of_states_does_not_grow_with_people(render):
    pillar = copy.deepcopy(EXAMPLE)
    entry = pillar["sshd_mfa"]["users"]["sean"]
    pillar["sshd_mfa"]["users"] = {f"user{number}": entry for number in range(500)}
    assert len(render("sshd_mfa", "Debian", pillar)) == len(render("sshd_mfa", "Debian"))


def test_nobody_of_the_pillar_is_in_rendered_states(render):
    """What Salt keeps of rendered states lies about in caches that others can read."""
    shown = repr(render("sshd_mfa", "Debian"))
    sean = EXAMPLE["sshd_mfa"]["users"]["sean"]
    assert sean["totp"]["secret"] not in shown
    assert not any(str(code) in shown for code in sean["totp"]["scratch_codes"])
    assert "sean" not in shown
