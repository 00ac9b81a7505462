"""`./lab test`: every test, where it belongs, and one sum of all."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from tests.lab import roots, tools
from tests.lab.console import elapsed, progress
from tests.lab.host import Host, Spec
from tests.lab.lab import REPOSITORY, Lab
from tests.lab.salt import REPOSITORY as SEEN

PYTEST = ["-m", "pytest", "-p", "no:cacheprovider"]
# Debian release and Salt series of the functional tests.
FUNCTIONAL = [("12", "3008"), ("13", "3008"), ("12", "3007"), ("12", "3006")]
# The real parsers that judge ours are the release's, and ask nothing of Salt: once is enough.
JUDGES = "3008"
NO_TESTS = 5  # pytest's exit status when it collected none


@dataclass
class Sum:
    """Tests of all phases.

    Attributes:
        broken: phases that ended otherwise than pytest does, or had no tests to run.
    """

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, phase: str, status: int, junit: str, narrowed: bool) -> None:
        """Count what one pytest reported.

        Args:
            status: its exit status.
            junit: its report, "" when it wrote none.
            narrowed: whether arguments of the user's may have left it without a test.
        """
        failed = skipped = total = 0
        for suite in ElementTree.fromstring(junit).iter("testsuite") if junit else ():
            total += int(suite.get("tests"))
            failed += int(suite.get("failures")) + int(suite.get("errors"))
            skipped += int(suite.get("skipped"))
        self.passed += total - failed - skipped
        self.failed += failed
        self.skipped += skipped
        expected = {0} if not failed else {1}
        if narrowed:
            expected.add(NO_TESTS)
        if status not in expected:
            self.broken.append(f"{phase} (pytest exited {status})")

    def tell(self, logins: int) -> bool:
        """Print the last lines; whether all is well."""
        for phase in self.broken:
            print(f"broken: {phase}")
        if not self.passed + self.failed:
            self.broken.append("no test ran")
            print("broken: no test ran")
        print(f"{logins} real logins")
        # A phase that broke is a failure that no test stands for.
        print(f"{self.passed} passed, {self.failed + len(self.broken)} failed", end="")
        print(f", {self.skipped} skipped" if self.skipped else "")
        return not self.failed and not self.broken


class Suite:
    """One run of the tests.

    Args:
        arguments: for pytest; paths among them leave out the phases they do not concern.
        everything: tests marked `long` too.
    """

    def __init__(self, arguments: Sequence[str], everything: bool):
        self._arguments = list(arguments)
        self._variables = {"LAB_ALL": "1"} if everything else {}
        self._sum = Sum()

    def run(self) -> bool:
        """Whether every test passed."""
        with tempfile.TemporaryDirectory(prefix="sshd_mfa-lab-") as scratch:
            folder = Path(scratch)
            (folder / "logins").touch()
            if self._concerned("unit"):
                self._unit(folder)
            if self._concerned("functional"):
                self._functional()
            if self._concerned("integration"):
                self._integration(folder)
            progress("done")
            return self._sum.tell((folder / "logins").stat().st_size)

    def _concerned(self, tier: str) -> bool:
        paths = [argument for argument in self._arguments if argument.startswith("tests/")]
        return not paths or any(path.startswith(f"tests/{tier}") for path in paths)

    def _pytest(self, tier: str, junit: str) -> list[str]:
        """pytest's arguments; the user's paths take the place of the whole tier."""
        given = [
            argument
            for argument in self._arguments
            if not argument.startswith("tests/") or argument.startswith(f"tests/{tier}")
        ]
        paths = [argument for argument in given if argument.startswith("tests/")]
        return [*PYTEST, f"--junit-xml={junit}", *given, *([] if paths else [f"tests/{tier}"])]

    def _unit(self, folder: Path) -> None:
        """On this machine as nobody: pure cores need no host, no root and no way to write."""
        junit = folder / "unit" / "junit.xml"
        junit.parent.mkdir()
        folder.chmod(0o755)
        shutil.chown(junit.parent, "nobody")
        with _phase("unit tests, as nobody"):
            # The checkout may be where nobody can look: it is mounted where anybody can.
            (folder / "repository").mkdir()
            mounted = 'mount --bind "$1" "$2"; cd "$2"; shift 2; exec "$@"'
            status = subprocess.call(
                [
                    *("unshare", "--mount", "--propagation", "private", "sh", "-euc", mounted),
                    *("unit", str(REPOSITORY), str(folder / "repository")),
                    *("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"),
                    *(tools.environment("unit"), *self._pytest("unit", str(junit))),
                ],
                env=self._environment(str(junit.parent)),
            )
        self._add("unit tests", status, junit.read_text() if junit.exists() else "")

    def _functional(self) -> None:
        """As root on hosts that know Salt but no master."""
        specs = [
            Spec(
                f"d{release}-{series}",
                roots.tests(release, series, pam_files=series == JUDGES),
                sees_repository=True,
            )
            for release, series in FUNCTIONAL
        ]
        with Lab(specs) as lab:
            for (release, series), host in zip(FUNCTIONAL, lab.hosts.values(), strict=True):
                name = f"functional tests, Debian {release}, Salt {series}"
                judges = [] if series == JUDGES else ["-m", "not judge"]
                with _phase(f"{name}{', without the judges' if judges else ''}"):
                    python = f"/opt/salt/{series}/bin/python"
                    self._add(name, *self._on_host(host, python, *judges))

    def _on_host(self, host: Host, python: str, *options: str) -> tuple[int, str]:
        junit = "/run/junit.xml"
        variables = [f"{name}={value}" for name, value in self._environment("/tmp").items()]
        tests = [*self._pytest("functional", junit), *options]
        command = ["env", f"--chdir={SEEN}", *variables, python, *tests]
        status = host.show(command)
        written = host.run(["cat", junit], check=False)
        return status, written.stdout

    def _integration(self, folder: Path) -> None:
        """On this machine as root, which drives hosts and logs in to them."""
        junit = folder / "integration.xml"
        with _phase("integration tests"):
            status = subprocess.call(
                [tools.environment("lab"), *self._pytest("integration", str(junit))],
                cwd=REPOSITORY,
                env={**os.environ, **self._variables, "LAB_LOGINS": str(folder / "logins")},
            )
        self._add("integration tests", status, junit.read_text() if junit.exists() else "")

    def _environment(self, home: str) -> dict[str, str]:
        """For tests that must not write into the checkout."""
        return {
            **self._variables,
            "HOME": home,
            "HYPOTHESIS_STORAGE_DIRECTORY": f"{home}/hypothesis",
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _add(self, phase: str, status: int, junit: str) -> None:
        self._sum.add(phase, status, junit, narrowed=bool(self._arguments))


@contextmanager
def _phase(name: str) -> Iterator[None]:
    progress(name)
    start = elapsed()
    yield
    progress(f"{name}: {elapsed() - start:.0f} s")
