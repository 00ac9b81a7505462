"""`./lab demo`: the README's promise, kept before your eyes."""

import re
import shlex

import yaml
from rich.console import Console
from rich.text import Text

from tests.lab.client import Login
from tests.lab.console import elapsed
from tests.lab.host import Host
from tests.lab.lab import REPOSITORY, Lab
from tests.lab.salt import Master
from tests.lab.totp import Codes

KEY = "lab"
APPLY = Master.command("jump*", "state.apply", "sshd_mfa")
SUMMARY = re.compile(
    r"^Summary for (?P<minion>\S+)\n-+\nSucceeded: +(?P<succeeded>\d+)"
    r"(?: \((?P<notes>[^)]*)\))?\nFailed: +(?P<failed>\d+)$",
    re.MULTILINE,
)


class Demo:
    """One run: shows what it does, and remembers what did not hold."""

    def __init__(self, lab: Lab):
        self._lab = lab
        self._console = Console(highlight=False, soft_wrap=True)
        self._broken = 0
        self._example = (REPOSITORY / "pillar.example").read_text()
        self._user, self._secret = person(self._example)

    def run(self) -> bool:
        """Whether everything held."""
        self._prepare()
        self._phase("The formula, with pillar.example and one key more")
        self._apply(again=False)
        folder = self._lab.client.folder
        self._phase(f"This machine is the client, in {folder}")
        for name in ("jump01", "jump02"):
            self._log_in(self._lab.hosts[name])
        self._phase("The formula once more")
        self._apply(again=True)
        self._phase("Everything held." if not self._broken else f"{self._broken} did not hold.")
        return not self._broken

    def _prepare(self) -> None:
        key = self._lab.client.public(KEY)
        more = {"sshd_mfa": {"users": {self._user: {"keys": {KEY: key}}}}}
        self._lab.pillar(self._example, lab=more)
        self._lab.hosts["db01"].account(self._user, key)

    def _apply(self, again: bool) -> None:
        self._command("salt", APPLY)
        done = self._lab.hosts["salt"].run(APPLY, check=False, timeout=300)
        found = {summary["minion"]: summary for summary in SUMMARY.finditer(done.stdout)}
        if done.returncode or len(found) != 2:
            self._console.print(Text(done.stdout + done.stderr))
        for name in ("jump01", "jump02"):
            summary = found.get(name)
            failed = int(summary["failed"]) if summary else None
            notes = (summary["notes"] or "no changes") if summary else "no answer"
            told = f"{name}: {summary['succeeded']} states succeeded, {notes}" if summary else name
            if again:
                self._claim(failed == 0 and notes == "no changes", f"{told}: nothing to do")
            else:
                self._claim(failed == 0 and done.returncode == 0, told)

    def _log_in(self, jump: Host) -> None:
        """All claims on one jump host, in as many attempts as its rate limit allows."""
        codes = Codes(self._secret)
        code = codes.next()
        self._console.print(Text(f"\n{jump.name}, Debian {jump.release}", style="bold"))
        through = ["-J", f"{self._user}@{jump.name}"]
        inside = {"command": "hostname", "options": through}
        login = self._login("db01", key=KEY, code=code, **inside)
        passed = login.ok and login.stdout == "db01\n"
        self._claim(passed, "key and code pass through to db01")
        self._refused(self._login("db01", key=KEY, code=code, **inside), "the same code again")
        self._refused(self._login(jump.name, key=KEY), "the key alone")
        self._refused(self._login(jump.name, code=codes.next()), "a code alone")

    def _login(self, host: str, **how: object) -> Login:
        login = self._lab.client.login(host, self._user, **how)
        self._command("client", login.argv)
        for prompt in login.prompts:
            self._console.print(Text(f"  {prompt}••••••", style="dim"))
        for line in (login.stdout + login.stderr).splitlines():
            self._console.print(Text(f"  {line}"))
        return login

    def _refused(self, login: Login, what: str) -> None:
        self._claim(not login.ok and "Permission denied" in login.stderr, f"{what} is refused")

    def _claim(self, holds: bool, text: str) -> None:
        style, mark = ("green", "✓") if holds else ("bold red", "✗")
        self._console.print(Text(f"  {mark} {text}", style=style))
        self._broken += not holds

    def _command(self, where: str, argv: list[str]) -> None:
        self._console.print(Text(f"{where}$ {shlex.join(argv)}", style="cyan"))

    def _phase(self, title: str) -> None:
        self._console.print(Text(f"\n[{elapsed():5.1f} s] {title}", style="bold"))


def person(example: str) -> tuple[str, str]:
    """Name and secret of the first user of a pillar who has a secret."""
    users = yaml.safe_load(example)["sshd_mfa"]["users"]
    return next(
        (name, user["totp"]["secret"])
        for name, user in users.items()
        if user.get("totp", {}).get("secret")
    )


def run() -> bool:
    """Boot, show, and leave nothing. Whether everything held."""
    with Lab() as lab:
        return Demo(lab).run()
