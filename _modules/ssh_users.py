"""
Accounts, groups and authorized keys of a whole roster of people.

``/etc/group`` is changed by one rename under the lock that shadow-utils take, so that
people enter and leave any number of groups in one moment.

What this module did is kept root-only in ``/var/lib/sshd_mfa/roster.json``: whose account
is managed, and which groups it was given. No secret is in there.
"""

import contextlib
import fcntl
import json
import os
import pwd
import stat
import time
from pathlib import Path

from salt.exceptions import CommandExecutionError

__virtualname__ = "ssh_users"

ROSTER = "/var/lib/sshd_mfa/roster.json"

_HEADER = "# BEGIN sshd_mfa: managed by Salt, change the pillar instead\n"

_HOME_KEYS = ".ssh/authorized_keys"

#: Of a new account whose entry names none.
_SHELL = "/bin/bash"

#: Below this uid are the system's own accounts (login.defs(5), UID_MIN).
_FIRST_UID = 1000

#: What lckpwdf(3) waits for the lock, in seconds.
_LOCK_SECONDS = 15


def __virtual__():
    return __virtualname__


def plan(users, keys_dir=None, named=()):
    """
    Return what :py:func:`apply` would change for each person, and what is wrong.

    Somebody who is managed but in neither ``users`` nor ``named`` is an error as long as
    their account exists, and is forgotten after it was removed by hand.

    users
        The ``users`` of :py:func:`mfa_policy.validate
        <saltext.sshd_mfa.modules.mfa_policy.validate>`.

    keys_dir
        Folder of the central store of keys, or ``None`` where the keys lie in the homes:
        those are :py:func:`plan_home_keys`'s. Default: ``None``

    named
        Everybody whom the pillar names, also with an error in the entry. Default: nobody

    Returns ``{name: {"changes": {…}, "error": str}}``; people for whom there is nothing
    to do have empty ``changes``, and ``error`` is empty where nothing is wrong.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.plan "$users" /etc/ssh/authorized_keys.d
    """
    roster, outcome = recorded(), {}
    for name, (changes, error) in _plan_accounts(users, roster).items():
        if keys_dir and not error:
            try:
                changes.update(_plan_keys(users[name], _read_central_keys(name, keys_dir)))
            except (CommandExecutionError, OSError) as err:
                changes, error = {}, f"keys: {err}"
        outcome[name] = {"changes": changes, "error": error}
    for name in sorted(set(roster) - set(users) - {str(name) for name in named}):
        outcome[name] = _plan_gone(name)
    return outcome


def unservable(users):
    """
    Return those whose account cannot be managed as their entry asks, with the reason.

    users
        As for :py:func:`plan`. Returns ``{name: error}``.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.unservable "$users"
    """
    planned = _plan_accounts(users, {})
    return {name: error for name, (_, error) in planned.items() if error}


def apply(users, planned, keys_dir=None):
    """
    Carry out what :py:func:`plan` said. One person's failure stops nobody else.

    users, keys_dir
        As for :py:func:`plan`.

    planned
        What :py:func:`plan` returned.

    Returns the same mapping; what failed has its ``error`` set and no ``changes``.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.apply "$users" "$planned" /etc/ssh/authorized_keys.d
    """
    outcome = {}
    for name, entry in planned.items():
        outcome[name] = {**entry, "changes": dict(entry["changes"])}
        if entry["error"] or not entry["changes"]:
            continue
        try:
            if name not in users:
                _forget_one(name, keys_dir)
                continue
            _apply_account(name, users[name], entry["changes"])
            if "keys" in entry["changes"]:
                _write_central_keys(name, users[name], keys_dir)
        except (CommandExecutionError, OSError) as err:
            outcome[name] = {"changes": {}, "error": str(err)}
    served = {
        name: users[name] for name, entry in outcome.items() if name in users and not entry["error"]
    }
    try:
        _join_groups(served, outcome)
    except (CommandExecutionError, OSError) as err:
        for entry in outcome.values():
            if entry["changes"].pop("groups", None):
                entry["error"] = f"groups: {err}"
    gone = {name for name in planned if name not in users and not planned[name]["error"]}
    try:
        _record(served, outcome, gone)
    except (CommandExecutionError, OSError) as err:
        for name in served:
            outcome[name]["error"] = f"could not be recorded: {err}"
    return outcome


def plan_home_keys(users):
    """
    Return what :py:func:`apply_home_keys` would change, in the form of :py:func:`plan`.

    users
        As for :py:func:`plan`; the keys lie in ``~/.ssh/authorized_keys``.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.plan_home_keys "$users"
    """
    outcome = {}
    for name, user in users.items():
        try:
            account = _account(name)
            current = _read_home_keys(account) if account else None
            outcome[name] = {"changes": _plan_keys(user, current), "error": ""}
        except CommandExecutionError as err:
            outcome[name] = {"changes": {}, "error": str(err)}
    return outcome


def apply_home_keys(users, planned):
    """
    Write the keys into the homes of those for whom :py:func:`plan_home_keys` saw changes.

    To be called when sshd asks these people for all their factors: with a key in the home
    and before that, the key alone would let a new person in.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.apply_home_keys "$users" "$planned"
    """
    outcome, roster = {}, recorded()
    changed = [name for name, entry in planned.items() if entry["changes"]]
    # First the record: keys that a cut-off run wrote have to be known when they are to go.
    _save({**roster, **{name: {**roster.get(name, {}), "home_keys": True} for name in changed}})
    for name, entry in planned.items():
        outcome[name] = entry
        if not entry["changes"]:
            continue
        try:
            account = pwd.getpwnam(name)
            path = f"{account.pw_dir}/{_HOME_KEYS}"
            __salt__["guarded_change.keep_original"](path, _read_home_keys(account))
            _write_home_keys(account, _render_keys(users[name]))
        except KeyError:
            outcome[name] = {"changes": {}, "error": "the account could not be made"}
        except (CommandExecutionError, OSError) as err:
            outcome[name] = {"changes": {}, "error": str(err)}
    return outcome


def restore_home_keys():
    """
    Put back what was in the homes of those into whose homes keys were written.

    To be called when sshd no longer asks them for all their factors. Returns ``{name: error}`` of
    those where that failed.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.restore_home_keys
    """
    errors, roster = {}, recorded()
    for name, entry in recorded().items():
        if not entry.get("home_keys"):
            continue
        try:
            _restore_home_keys(name)
            del roster[name]["home_keys"]
        except (CommandExecutionError, OSError) as err:
            errors[name] = str(err)
    _save(roster)
    return errors


def end_adoption(names):
    """
    Record that a ``~/.google_authenticator`` of these people is not taken over any more.

    It is looked for once, when a person comes under the policy: one that appears later, after a
    reset for instance, may be the work of a stolen session.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.end_adoption '[sean]'
    """
    roster = recorded()
    _save({**roster, **{n: {**roster[n], "adoption_over": True} for n in names if n in roster}})


def recorded():
    """
    Return whom this module manages: ``{name: {"groups": […], "home_keys":, "adoption_over":}}``.

    ``groups`` are those that were given, ``home_keys`` says whether keys were written into the
    home, ``adoption_over`` whether a ``~/.google_authenticator`` is no longer taken over.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.recorded
    """
    text = __salt__["root_file.read"](ROSTER)
    return json.loads(text) if text else {}


def forget(keys_dir):
    """
    Take away the key files that this module wrote, and the record of whom it manages.

    A key file that was there before is put back. Accounts and homes stay. The central
    folder goes when it is empty. Returns ``{name: error}`` of those where that failed.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.forget /etc/ssh/authorized_keys.d
    """
    errors, roster = {}, recorded()
    _leave_groups({name: entry["groups"] for name, entry in roster.items()})
    for name in recorded():
        try:
            _forget_one(name, keys_dir)
            del roster[name]
        except (CommandExecutionError, OSError) as err:
            errors[name] = str(err)
    with contextlib.suppress(OSError):
        os.rmdir(keys_dir)
    _save(roster)
    if not roster:
        Path(ROSTER).unlink(missing_ok=True)
    return errors


def release(name, keys_dir="/etc/ssh/authorized_keys.d"):
    """
    Stop managing one person: the account stays, with the way in that it had before.

    For somebody who was taken out of the pillar and whose account is to be kept. Apply
    afterwards, or the entry in the pillar brings them back.

    name
        The user's name.

    keys_dir
        Folder of the central store of keys.

    CLI Example:

    .. code-block:: bash

        salt jump01 ssh_users.release sean
    """
    roster = recorded()
    if name not in roster:
        raise CommandExecutionError(f"{name} is not managed on this host")
    ours = [group for group in _parse_groups(_read_groups()) if group.startswith("sshd_mfa")]
    _leave_groups({name: [*ours, *roster[name]["groups"]]})
    _forget_one(name, keys_dir)
    del roster[name]
    _save(roster)
    return True


def members(groups):
    """
    Return who is in each group of ``/etc/group``; ``None`` for a group that is not there.

    groups
        Names of groups, a list.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.members '[sshd_mfa_user]'
    """
    found = _parse_groups(_read_groups())
    return {group: found.get(group) for group in groups}


def plan_members(groups):
    """
    Return what :py:func:`set_members` would change, as ``{group: {"added":, "removed":}}``.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.plan_members '{sshd_mfa_user: [sean]}'
    """
    changes = {}
    for group, current in members(list(groups)).items():
        if current == groups[group]:
            continue
        have, want = set(current or []), set(groups[group] or [])
        changes[group] = {"added": sorted(want - have), "removed": sorted(have - want)}
    return changes


def set_members(groups):
    """
    Give groups exactly these members, all in one rename of ``/etc/group``.

    A group that is missing is made with a free system gid; ``None`` as its members
    removes a group. ``/etc/gshadow`` follows, and nscd is told.

    groups
        Group name to the list of its members, or to ``None``.

    CLI Example:

    .. code-block:: bash

        salt-call --local ssh_users.set_members '{sshd_mfa_user: [sean]}'
    """
    return _rewrite_groups(lambda _current: groups) if plan_members(groups) else False


def _account(name):
    """An account from whatever source NSS has, or None."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def _plan_accounts(users, roster):
    """Changes and error of each person, from one reading of passwd and group."""
    accounts = {account.pw_name: account for account in pwd.getpwall()}
    groups = _parse_groups(_read_groups())
    planned = {}
    for name, user in users.items():
        account, changes, error = accounts.get(name) or _account(name), {}, ""
        try:
            given = roster.get(name, {}).get("groups", [])
            changes = _plan_account(name, user, account, groups, given)
        except CommandExecutionError as err:
            error = str(err)
        planned[name] = changes, error
    return planned


def _plan_account(name, user, account, known_groups, given):
    missing = sorted(group for group in user["groups"] if group not in known_groups)
    if missing:
        raise CommandExecutionError(
            f"groups: there is no group {missing[0]} in /etc/group; make it first"
        )
    shell = user["login_shell"]
    if shell and not user["existing"] and not os.access(shell, os.X_OK):
        raise CommandExecutionError(f"login_shell: {shell} is not on this host; install it first")
    changes = _plan_groups(name, user, known_groups, given)
    if account is None:
        if user["existing"]:
            raise CommandExecutionError("existing: there is no such account; take `existing` out")
        return {"account": "created", **changes}
    if user["existing"]:
        if account.pw_uid == 0 and user["role"] != "robot":
            # Under PermitRootLogin prohibit-password sshd takes no code from root (sshd_config(5)).
            raise CommandExecutionError(
                "sshd asks root for no code; give role: robot, or log in as a person and use sudo"
            )
        return changes
    if account.pw_uid < _FIRST_UID:
        raise CommandExecutionError(
            f"this is an account of the system (uid {account.pw_uid}); if only keys and role are"
            " to be managed, say existing: true"
        )
    for field, current in (
        ("uid", account.pw_uid),
        ("gid", account.pw_gid),
        ("home", account.pw_dir),
    ):
        if user[field] not in (None, current):
            raise CommandExecutionError(
                f"{field}: the account has {current}; changing it would leave files behind, so"
                f" move it by hand (usermod) or give {current}"
            )
    for field, current in (
        ("login_shell", account.pw_shell),
        ("fullname", account.pw_gecos.split(",")[0]),
    ):
        if user[field] not in (None, current):
            changes[field] = {"old": current, "new": user[field]}
    return changes


def _plan_gone(name):
    if _account(name) is None:
        return {"changes": {"account": "forgotten; it was removed by hand"}, "error": ""}
    return {
        "changes": {},
        "error": f"no longer in the pillar, but {name} can still log in: removing people is not"
        f" built yet. Put the entry back; or remove the account with `userdel {name}`; or keep it,"
        f" unmanaged and with the way in that it had before, with `salt-call ssh_users.release"
        f" {name}`. Then apply again",
    }


def _forget_one(name, keys_dir):
    """Take one person's key files back to what they were."""
    central = f"{keys_dir}/{name}"
    __salt__["guarded_change.write"](central, __salt__["guarded_change.original"](central))
    if recorded()[name].get("home_keys"):
        _restore_home_keys(name)


def _restore_home_keys(name):
    account = _account(name)
    current = _read_home_keys(account) if account else None
    if current is None or not current.startswith(_HEADER):
        return
    before = __salt__["guarded_change.original"](f"{account.pw_dir}/{_HOME_KEYS}")
    if before is None:
        __salt__["home_file.remove"](account.pw_dir, account.pw_uid, _HOME_KEYS)
    else:
        _write_home_keys(account, before)


def _plan_groups(name, user, known_groups, given):
    added = sorted(group for group in user["groups"] if name not in known_groups[group])
    removed = sorted(
        group for group in set(given) - set(user["groups"]) if name in known_groups.get(group, ())
    )
    return {"groups": {"added": added, "removed": removed}} if added or removed else {}


def _plan_keys(user, current):
    wanted = _key_lines(user)
    if current == _render_keys(user):
        return {}
    have = {line.strip() for line in (current or "").splitlines()}
    have = {line for line in have if line and not line.startswith("#")}
    return {
        "keys": {
            "added": sorted(_label(line) for line in set(wanted) - have),
            "removed": sorted(_label(line) for line in have - set(wanted)),
        }
    }


def _label(line):
    """The type and the comment of a key are enough to recognize it by."""
    return line if len(line) < 60 else f"{line[:30]}…{line[-25:]}"


def _key_lines(user):
    return [user["keys"][label] for label in sorted(user["keys"])]


def _render_keys(user):
    return _HEADER + "".join(f"{line}\n" for line in _key_lines(user))


def _read_central_keys(name, keys_dir):
    """The text of somebody's key file; None where there is none that sshd can read."""
    text = __salt__["root_file.read"](f"{keys_dir}/{name}")
    # sshd reads it as the person, so others must be able to (sshd(8), FILES).
    if text and (
        not os.stat(keys_dir).st_mode & stat.S_IXOTH
        or not os.stat(f"{keys_dir}/{name}").st_mode & stat.S_IROTH
    ):
        return None
    return text


def _write_central_keys(name, user, keys_dir):
    path = f"{keys_dir}/{name}"
    __salt__["guarded_change.write"](path, _render_keys(user))
    for name, bits in ((path, 0o444), (keys_dir, 0o111)):
        os.chmod(name, stat.S_IMODE(os.stat(name).st_mode) | bits)


def _read_home_keys(account):
    return __salt__["home_file.read"](account.pw_dir, account.pw_uid, _HOME_KEYS)


def _write_home_keys(account, text):
    home, uid, gid = account.pw_dir, account.pw_uid, account.pw_gid
    __salt__["home_file.write"](home, uid, gid, _HOME_KEYS, text)


def _apply_account(name, user, changes):
    if "account" in changes:
        _run(_useradd(name, user))
        return
    argv = []
    if "login_shell" in changes:
        argv += ["--shell", user["login_shell"] or _SHELL]
    if "fullname" in changes:
        argv += ["--comment", user["fullname"]]
    if argv:
        _run(["usermod", *argv, name])


def _useradd(name, user):
    """Arguments of useradd(8); the password stays locked, and keys work all the same."""
    argv = [
        "useradd",
        "--create-home",
        "--key",
        "HOME_MODE=0750",
        "--shell",
        user["login_shell"] or _SHELL,
    ]
    for option, field in (("--comment", "fullname"), ("--home-dir", "home"), ("--uid", "uid")):
        if user[field] is not None:
            argv += [option, str(user[field])]
    if user["gid"] is None:
        argv.append("--user-group")
    else:
        argv += ["--gid", str(user["gid"])]
    return [*argv, name]


def _join_groups(users, outcome):
    """Everybody's groups in one rename."""
    moves = {name: outcome[name]["changes"].get("groups") for name in users}
    moves = {name: move for name, move in moves.items() if move}

    def decide(current):
        wanted = {}
        for name, move in moves.items():
            for group in move["added"]:
                wanted[group] = [*wanted.get(group, current.get(group, [])), name]
            for group in move["removed"]:
                names = wanted.get(group, current.get(group, []))
                wanted[group] = [member for member in names if member != name]
        return wanted

    if moves:
        _rewrite_groups(decide)


def _leave_groups(leaving):
    """Take people out of groups, as ``{name: [group, …]}``."""

    def decide(current):
        return {
            group: [name for name in names if group not in leaving.get(name, ())]
            for group, names in current.items()
            if any(group in leaving.get(name, ()) for name in names)
        }

    if decide(_parse_groups(_read_groups())):
        _rewrite_groups(decide)


def _rewrite_groups(decide):
    """Change group(5) and gshadow(5); ``decide`` sees who is in which group, under the lock."""
    with _locked():
        wanted = decide(_parse_groups(_read_groups()))
        for path, new_line in (("/etc/group", _new_group), ("/etc/gshadow", _new_gshadow)):
            text = __salt__["root_file.read"](path)
            if text is not None:
                edited = _edit_groups(text, wanted, new_line)
                __salt__["root_file.write"](path, edited)
    if Path("/run/nscd/socket").exists():
        __salt__["cmd.run_all"](["nscd", "--invalidate=group"], python_shell=False)
    return True


def _record(users, outcome, forgotten):
    roster = recorded()
    wanted = {name: entry for name, entry in roster.items() if name not in forgotten}
    for name, user in users.items():
        before = roster.get(name, {})
        # A group that somebody else had put them into is not ours to take away.
        given = {
            *before.get("groups", []),
            *outcome[name]["changes"].get("groups", {}).get("added", []),
        }
        wanted[name] = {**before, "groups": sorted(given & set(user["groups"]))}
    _save(wanted)


def _save(roster):
    if roster != recorded():
        text = json.dumps(roster, indent=1, sort_keys=True) + "\n"
        __salt__["root_file.write"](ROSTER, text, mode=0o600)


def _run(argv):
    result = __salt__["cmd.run_all"](argv, python_shell=False, ignore_retcode=True)
    if result["retcode"]:
        raise CommandExecutionError((result["stderr"] or result["stdout"]).strip())


@contextlib.contextmanager
def _locked():
    """The lock of lckpwdf(3), which shadow-utils and systemd-sysusers take as well."""
    with open("/etc/.pwd.lock", "a", encoding="ascii") as lock:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CommandExecutionError(
                        f"/etc/.pwd.lock: held by somebody else for {_LOCK_SECONDS} s; is another"
                        " tool changing accounts? Apply again when it is done"
                    ) from None
                time.sleep(0.05)
        yield


def _read_groups():
    return Path("/etc/group").read_text(encoding="utf-8")


def _parse_groups(text):
    """Members of each group of group(5), as they stand there; odd lines are not ours."""
    found = {}
    for line in text.splitlines():
        if line.count(":") == 3 and not line.startswith(("+", "-", "#")):
            name, _, _, names = line.split(":")
            found[name] = [member for member in names.split(",") if member]
    return found


def _edit_groups(text, wanted, new_line):
    """Set the last field of group(5) or gshadow(5) lines; every other line stays as it is."""
    lines, missing = [], dict(wanted)
    for line in text.splitlines():
        name, _, _ = line.partition(":")
        if name not in wanted:
            lines.append(line)
            continue
        names = missing.pop(name, None)
        if names is not None:
            lines.append(f"{line.rpartition(':')[0]}:{','.join(names)}")
    for name, names in missing.items():
        if names is not None:
            lines.append(new_line(name, lines) + ",".join(names))
    return "\n".join(lines) + "\n"


def _new_group(name, lines):
    # Only the file counts here: groups of another source do not use system gids.
    used = {int(gid) for line in lines for gid in line.split(":")[2:3] if gid.isdigit()}
    gid = next(gid for gid in range(999, 99, -1) if gid not in used)
    return f"{name}:x:{gid}:"


def _new_gshadow(name, lines):
    return f"{name}:!::"
