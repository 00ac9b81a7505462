"""What has to agree across files that no program reads together."""

import configparser
import re
import subprocess

import pytest
import yaml

from tests.lab import tools
from tests.support import REPO, load

MODULES = {kind: sorted((REPO / f"_{kind}").glob("*.py")) for kind in ("modules", "states")}


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(REPO / "setup.cfg")
    return parser


def files():
    """Every file that git tracks or would; where there is no git, every file."""
    # Unit tests run as nobody, who does not own the checkout.
    listing = [
        "git",
        "-c",
        "safe.directory=*",
        "-C",
        str(REPO),
        "ls-files",
        "-z",
        "--cached",
        "--others",
    ]
    try:
        found = subprocess.run([*listing, "--exclude-standard"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return [path for path in REPO.rglob("*") if path.is_file() and ".git" not in path.parts]
    paths = [REPO / name for name in found.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def requirements(setup, *extras):
    """Every requirement of setup.cfg, or those of some extras."""
    table = setup["options.extras_require"]
    text = "\n".join(table[extra] for extra in extras or table)
    if not extras:
        text += "\n" + setup["options"]["install_requires"]
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_one_version(setup):
    """The modules tell it, and the formula synchronizes them when they tell another."""
    version = setup["metadata"]["version"]
    operator = load("modules", "sshd_mfa")
    assert operator.__version__ == operator.version() == version
    formula = (REPO / "salt/sshd_mfa/modules.sls").read_text()
    assert re.findall(r"set needed = '([^']*)'", formula) == [version]
    assert re.search(rf"^## \[?{re.escape(version)}\b", (REPO / "CHANGELOG.md").read_text(), re.M)


def test_no_patch_release_is_pinned(setup):
    found = [*requirements(setup), setup["options"]["python_requires"]]
    assert [text for text in found if re.search(r"===?|~=|\d+\.\d+\.\d+", text)] == []


def test_the_lab_installs_what_tests_need(setup):
    assert sorted(requirements(setup, "tests")) == sorted(tools.TESTS)


@pytest.mark.parametrize("folder", ["_modules", "_states", "saltext"])
def test_no_init_file(folder):
    """Salt would load it as a module; in `saltext` it would hide every other extension."""
    assert not (REPO / folder / "__init__.py").exists()


def test_every_package_folder_exists(setup):
    folders = dict(
        re.split(r"\s*=\s*", line) for line in setup["options"]["package_dir"].strip().splitlines()
    )
    assert set(folders) == set(setup["options"]["packages"].split())
    assert all((REPO / folder).is_dir() for folder in folders.values())


def test_no_file_names_a_registry():
    """Where packages come from is the machine's setting, not the project's."""
    host = re.compile(rb"(?:pypi|pythonhosted|npmjs|crates)[.](?:org|com|io)\b")
    assert [str(path) for path in files() if host.search(path.read_bytes())] == []


def test_no_link_leaves_the_repository():
    links = [path for path in files() if path.is_symlink()]
    assert [str(path) for path in links if not path.resolve().is_relative_to(REPO)] == []


@pytest.mark.parametrize("kind", MODULES)
def test_every_module_is_in_the_reference(kind):
    text = (REPO / f"docs/reference/{kind}.md").read_text()
    documented = re.findall(rf"automodule:: saltext\.sshd_mfa\.{kind}\.(\w+)", text)
    assert sorted(documented) == [path.stem for path in MODULES[kind]]


def test_every_pillar_key_is_in_the_reference():
    """Each key that is built stands there as a term; each that is not, among the limits."""
    policy = load("modules", "mfa_policy")
    reference = (REPO / "docs/reference/pillar.md").read_text()
    limits = (REPO / "docs/guide/limits.md").read_text()
    for contract in (policy._POLICY, policy._USER, policy._ROLE):
        for key, (check, _) in contract.items():
            if check is None and key != "*":
                assert f"`{key}`" in limits or f":{key}`" in limits, key
            elif check is not None:
                assert re.search(rf"\b{key}`|^## {key}$", reference, re.MULTILINE), key


def test_hooks_run_every_lint(setup):
    """pre-commit calls the checks of .ci/lint, all of them, with the tools that CI has."""
    hooks = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    checks = re.findall(r"^check_([\w-]+)\(\)", (REPO / ".ci/lint").read_text(), re.MULTILINE)
    assert [hook["entry"] for hook in hooks] == [f"bash .ci/lint {check}" for check in checks]
    needed = {tool for hook in hooks for tool in hook["additional_dependencies"]}
    assert needed == set(requirements(setup, "lint"))
