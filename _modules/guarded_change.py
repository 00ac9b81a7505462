"""
Change a set of files that decide who may log in, and the groups they speak of, as one.

The files gain or lose blocks that speak of groups; who is in those groups decides. So the
files are laid out while nobody new is in the groups, checked by sshd itself and loaded;
then one rename of ``/etc/group`` is the commit. Whatever fails brings the old state back.

The first original of every file that is replaced is kept below ``/var/lib/sshd_mfa/original``.
"""

import contextlib
import errno
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError

__virtualname__ = "guarded_change"

#: Where the first original of every replaced file is kept, root-only.
ORIGINALS = "/var/lib/sshd_mfa/original"

#: A file with this text is ours and has no original to keep.
_OURS = "# BEGIN sshd_mfa"

#: Stands from before the first file is written until sshd has loaded them all and nobody is left
#: who came under the old ones; a run that was cut off in between is finished by the next one. A
#: reboot does all that by itself.
_PENDING = Path("/run/sshd_mfa.reload-pending")

_RELOAD_SECONDS = 10


def __virtual__():
    return __virtualname__


def plan(files, groups):
    """
    Return what :py:func:`apply` would change, as data that a state may show.

    files
        Absolute path to the text that is wanted, or to ``None`` where no file is wanted.

    groups
        Group name to the list of its members, or to ``None`` where no group is wanted.

    Returns ``{path: unified diff, …, "groups": {group: {"added": […], "removed": […]}}}``,
    empty when nothing would change.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.plan '{/etc/ssh/banner: null}' '{}'
    """
    changes = {}
    for path, wanted in files.items():
        current = __salt__["root_file.read"](path)
        if current != wanted:
            changes[path] = __salt__["root_file.diff"](path, current, wanted)
    if moves := __salt__["ssh_users.plan_members"](groups):
        changes["groups"] = moves
    if _PENDING.exists():
        changes["reload"] = "sshd may not have loaded what an interrupted run wrote"
    return changes


def apply(files, groups, service, probes=None, leave=False):
    """
    Lay the files out, have sshd check and load them, and commit by one group rename.

    When anything goes wrong, files and groups are put back as they were, sshd is
    reloaded, and the error says what failed in sshd's own words.

    files, groups
        As for :py:func:`plan`.

    service
        Name of sshd's service, ``ssh`` on Debian. It is reloaded, never restarted:
        a restart would end the listener when the new configuration does not load.

    probes
        What the host has to answer after the commit: a list of ``{"user":, "address":,
        "expected": {keyword: value}}``, each put to ``sshd -T -C``. An ``address`` of
        ``None`` asks for the global values.

    leave
        ``True`` when people leave the groups because the blocks go away: then the
        groups change first and the files after them. Default: ``False``

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.apply '{/etc/ssh/banner: "Hello\\n"}' '{}' ssh
    """
    running = _refuse_other_listeners(service)
    try:
        for question in probes or []:
            if question["address"] is None:
                _probe(**question, files=files)
        _refuse_unbound(files, service, running)
    except CommandExecutionError as err:
        raise CommandExecutionError(f"{err}\nNothing was changed.") from None
    texts = {path: __salt__["root_file.read"](path) for path in files}
    before = texts, __salt__["ssh_users.members"](list(groups))
    try:
        _switch(files, groups, service, leave)
        _cut_unauthenticated()
        probe(probes or [])
        _PENDING.unlink(missing_ok=True)
    except (CommandExecutionError, OSError) as err:
        outcome = "everything is as it was"
        try:
            _take_back(*before, service, not leave, running)
            _PENDING.unlink(missing_ok=True)
        except (CommandExecutionError, OSError) as again:
            outcome = f"but that failed as well: {again}"
        raise CommandExecutionError(f"{err}\nThe change was taken back, {outcome}.") from err
    return True


def probe(probes):
    """
    Ask sshd itself what it would ask of people, and compare.

    probes
        As for :py:func:`apply`. Raises CommandExecutionError when an answer differs.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.probe \\
            '[{user: sean, address: 127.0.0.1, expected: {usepam: "yes"}}]'
    """
    for question in probes:
        _probe(**question)
    return True


def write(path, text):
    """
    Replace a file atomically, or remove it where ``text`` is ``None``; keep its first original.

    See :py:func:`root_file.write <saltext.sshd_mfa.modules.root_file.write>`.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.write /etc/ssh/banner 'Hello'
    """
    keep_original(path, __salt__["root_file.read"](path))
    return __salt__["root_file.write"](path, text)


def original(path):
    """
    Return the text of the first original of a file, or ``None`` where there was no file.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.original /etc/pam.d/sshd
    """
    return __salt__["root_file.read"](_kept(path))


def originals():
    """
    Return the paths of the files that have been replaced, and whose first original is kept.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.originals
    """
    kept = [path for path in Path(ORIGINALS).rglob("*") if path.is_file()]
    return sorted("/" + str(path.relative_to(ORIGINALS)).removesuffix(".missing") for path in kept)


def keep_original(path, text):
    """
    Keep the text of a file as its first original, unless it is ours or one is kept already.

    ``None`` as the text keeps that there was no file.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.keep_original /etc/ssh/banner 'Hello'
    """
    kept = _kept(path)
    missing = kept.with_name(f"{kept.name}.missing")
    if _OURS in (text or "") or kept.exists() or missing.exists():
        return False
    for folder in (Path(ORIGINALS).parent, Path(ORIGINALS)):
        folder.mkdir(mode=0o700, exist_ok=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if text is None:
        missing.touch()
    else:
        __salt__["root_file.write"](str(kept), text, mode=0o600)
    return True


def forget_originals():
    """
    Remove the kept originals, once they have all been put back.

    CLI Example:

    .. code-block:: bash

        salt-call --local guarded_change.forget_originals
    """
    shutil.rmtree(ORIGINALS, ignore_errors=True)
    return True


def _refuse_unbound(files, service, running):
    """sshd gives up for good when it cannot read its files, or listen on anything."""
    __salt__["sshd_config.effective"](files=files)
    own = set(_listening(running).values())
    for place in __salt__["sshd_config.ports"](service, files=files):
        address, port = place["address"], place["port"]
        if place["by"] != "sshd":
            return
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                candidate.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                candidate.bind((address, port))
            except OSError as err:
                if err.errno == errno.EADDRINUSE and port in own:
                    continue
                # Without IPv6, or IPv4, sshd goes on with the other.
                if err.errno != errno.EADDRINUSE and address in ("0.0.0.0", "::"):  # noqa: S104
                    continue
                raise CommandExecutionError(
                    f"sshd could not listen on {address} port {port}: {err.strerror}"
                ) from None


def _refuse_other_listeners(service):
    """
    Return the process id of sshd, "0" where none runs as this service.

    A listener that is not the service's would go on with the configuration that it has, while
    PAM changes at once: its people would get in by the code alone, or not at all.
    """
    state = _run(["systemctl", "show", "--property=LoadState,MainPID", service])
    state = dict(line.split("=", 1) for line in state.splitlines())
    if state.get("LoadState") != "loaded":
        raise CommandExecutionError(
            f"{service}: there is no such service; name sshd's in lookup:service."
            " Nothing was changed."
        )
    for pid, title in _titles():
        if re.fullmatch(r"sshd: .*\[listener\].*", title) and pid != state["MainPID"]:
            raise CommandExecutionError(
                f"process {pid} ({title}) listens, and is not {service}; end it, or name its"
                " service in lookup:service. Nothing was changed."
            )
    return state["MainPID"]


def _titles():
    """Process ids and titles of sshd's processes; others could only pretend to be one."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if not os.readlink(entry / "exe").startswith(("/usr/sbin/sshd", "/usr/lib")):
                    continue
                title = (entry / "cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
                yield entry.name, title


def _take_back(files, groups, service, leave, running):
    """Put files and groups back, and see to it that sshd runs with them as it ran before."""
    if _run(["systemctl", "show", "--property=MainPID", "--value", service]).strip() == running:
        _switch(files, groups, service, leave)
        return
    # It has died of the new files: there is nothing to reload, and no order to keep.
    for path, text in files.items():
        write(path, text)
    __salt__["ssh_users.set_members"](groups)
    _run(["systemctl", "reset-failed", service])
    _run(["systemctl", "start", service])


def _switch(files, groups, service, leave):
    """Nobody new is in the groups before the files are loaded, nor after they go away."""
    if leave:
        __salt__["ssh_users.set_members"](groups)
    _lay_out(files, service)
    if not leave:
        __salt__["ssh_users.set_members"](groups)


def _lay_out(files, service):
    _PENDING.touch(mode=0o600)
    for path, text in files.items():
        if __salt__["root_file.read"](path) != text:
            write(path, text)
    _run(["sshd", "-t"])
    _reload(service)


def _kept(path):
    return Path(ORIGINALS) / str(path).lstrip("/")


def _run(argv):
    """Run a command of the host's; its own words are the error."""
    result = __salt__["cmd.run_all"](argv, python_shell=False, ignore_retcode=True)
    if result["retcode"]:
        words = (result["stderr"] or result["stdout"]).strip()
        raise CommandExecutionError(f"{' '.join(argv)}: {words}")
    return result["stdout"]


def _reload(service):
    """Reload sshd and wait until it listens with the new configuration."""
    main = _run(["systemctl", "show", "--property=MainPID", "--value", service]).strip()
    if main in ("", "0"):
        # Not running: whoever starts it, ssh.socket for one, has it read the files.
        return
    before = _image(main)
    _run(["systemctl", "reload", service])
    deadline = time.monotonic() + _RELOAD_SECONDS
    # Upon SIGHUP sshd executes itself anew under the same process id (sshd(8)), and it listens
    # when it has read its configuration.
    while time.monotonic() < deadline:
        if _image(main) != before and _listening(main):
            return
        time.sleep(0.02)
    raise CommandExecutionError(
        f"{service} did not listen again within {_RELOAD_SECONDS} s of its reload;"
        f" see: journalctl -u {service}"
    )


def _image(pid):
    """
    What tells one execution of a program from the next under the same process id.

    The auxiliary vector holds addresses that are drawn anew at each execve(2) (proc(5),
    randomize_va_space); the sockets are others as well, unless systemd handed them over.
    """
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/auxv").read_bytes(), _listening(pid)
    return None


def _listening(pid):
    """The TCP sockets on which a process listens, as ``{inode: port}``."""
    listening = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
                row = line.split()
                if row[3] == "0A":
                    listening[row[9]] = int(row[1].rpartition(":")[2], 16)
    sockets = set()
    with contextlib.suppress(FileNotFoundError):
        for fd in os.scandir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                sockets.add(os.readlink(fd.path))
    return {inode: port for inode, port in listening.items() if f"socket:[{inode}]" in sockets}


def _cut_unauthenticated():
    """
    End the connections that have not logged in yet.

    They run under the configuration that was loaded when they came: an old one with
    PasswordAuthentication would take the one-time code for a password, and a code alone
    would let in.
    """
    for pid, title in _titles():
        if re.fullmatch(r"sshd(-session|-auth)?: .*\[(net|pam|accepted)\]", title):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


def _probe(user, address, expected, files=None):
    """Ask sshd itself what it would ask of that person, of the host where there is no address."""
    who = {"user": user, "host": address, "address": address} if address else {}
    answers = __salt__["sshd_config.effective"](files=files, **who)
    for keyword, wanted in expected.items():
        found = answers.get(keyword, ["nothing"])
        if sorted(found) != sorted(wanted if isinstance(wanted, list) else [wanted]):
            lines = __salt__["sshd_config.source"](keyword, files=files, **who)
            places = [f"{line['file']}:{line['line']}" for line in lines]
            raise CommandExecutionError(
                f"sshd says {keyword} is {' and '.join(found)} for {user}, not {wanted};"
                f" {', '.join(places) or 'no file'} decides that"
            )
