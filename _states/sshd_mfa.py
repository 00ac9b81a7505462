"""
The policy: who is asked for which factors, by PAM and sshd together.
"""

import contextlib
import ipaddress
import itertools
import pwd
from pathlib import Path

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

__virtualname__ = "sshd_mfa"

#: Name of a main file of sshd's that is only ever judged, never laid out.
_CANDIDATE = "/etc/ssh/sshd_mfa.candidate"

_PAM = "/etc/pam.d/"


def __virtual__():
    return __virtualname__


def enforced(
    name,
    pillar="sshd_mfa",
    service="ssh",
    pam_service="sshd",
    drop_in="/etc/ssh/sshd_config.d/00-sshd_mfa.conf",
    banner="/etc/ssh/sshd_mfa.banner",
    keys_dir="/etc/ssh/authorized_keys.d",
    totp_dir="/var/lib/sshd_mfa/totp",
):
    """
    Have PAM and sshd ask the people of the pillar for the factors of their roles.

    The files only ever gain or lose blocks that nobody is in; one rename of
    ``/etc/group`` then moves people into the groups that those blocks speak of. With
    ``enforce: false`` in the pillar the groups are empty and the files as they were.

    A person stays where they are when their entry, or their account, is not as it has to be.

    name
        Only a label.

    pillar
        Name of the pillar key, with colons for nested ones. Default: ``sshd_mfa``

    service
        Name of sshd's service. Default: ``ssh``, Debian's

    pam_service
        Name of sshd's file in ``/etc/pam.d``. Default: ``sshd``

    drop_in, banner
        Files that sshd reads; the drop-in has to sort before the host's own.

    keys_dir, totp_dir
        Folders of the central stores.

    .. code-block:: yaml

        sshd_mfa policy:
          sshd_mfa.enforced:
            - pillar: sshd_mfa
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    checked = __salt__["mfa_policy.validate"](
        traverse_dict_and_list(__pillar__, pillar, {}), pillar
    )
    if checked["errors"]:
        return {**ret, "result": False, "comment": "\n".join(checked["errors"])}
    policy, users = checked["policy"], checked["users"]
    if error := __salt__["sshd_mfa.contradiction"](policy, pillar):
        return {**ret, "result": False, "comment": error}
    left = set()
    try:
        if policy["enforce"]:
            data = traverse_dict_and_list(__pillar__, pillar, {})
            factors = _factors(data, users, policy, totp_dir)
            ready = _ready(users, factors, policy, keys_dir)
            groups = _groups(users, ready, _single(factors, policy))
            left = set(users) - _people_in(groups)
            text = __salt__["mfa_policy.sshd_drop_in"](policy, keys_dir, banner)
            files = {
                **_sshd_files(drop_in, text),
                banner: policy["sshd"]["banner"] or __salt__["guarded_change.original"](banner),
                **_pam_file(pam_service, __salt__["mfa_policy.pam_rules"](policy, totp_dir)),
            }
            _refuse_ports_of_a_socket(policy, service, pillar)
            probes = _probes(policy, groups, keys_dir, drop_in, text)
            in_homes = policy["authorized_keys"]["store"] == "home"
            _enforce(ret, files, groups, service, probes, users if in_homes else {}, pillar)
            if policy["totp"]["store"] == "central":
                _complete_adoption(ret, totp_dir)
        else:
            groups = {group: [] for group in __salt__["mfa_policy.groups"]({})}
            _withdraw(
                ret, _files_without_us(pam_service, drop_in, banner), groups, service, totp_dir
            )
        _make(ret, *_record(policy, totp_dir))
    except CommandExecutionError as err:
        _note_errors(ret, {"sshd_mfa": str(err)})
    return _finish(ret, left)


def absent(
    name,
    service="ssh",
    pam_service="sshd",
    drop_in="/etc/ssh/sshd_config.d/00-sshd_mfa.conf",
    banner="/etc/ssh/sshd_mfa.banner",
    keys_dir="/etc/ssh/authorized_keys.d",
    totp_dir="/var/lib/sshd_mfa/totp",
):
    """
    Leave PAM and sshd byte for byte as they were before the first apply.

    The groups are emptied first and removed, then the files are put back, then the keys go,
    and adopted secrets are handed back to the homes they came from. Accounts, homes and
    provisioned secrets stay: a secret file that came anew with the next apply would bring
    spent codes back.

    name
        Only a label.

    service, pam_service, drop_in, banner, keys_dir, totp_dir
        As for :py:func:`enforced`.

    .. code-block:: yaml

        sshd_mfa is gone:
          sshd_mfa.absent: []
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        groups = dict.fromkeys(__salt__["mfa_policy.groups"]({}))
        _withdraw(ret, _files_without_us(pam_service, drop_in, banner), groups, service, totp_dir)
        people = sorted(__salt__["ssh_users.recorded"]())
        errors = {}

        def forget():
            errors.update(__salt__["ssh_users.forget"](keys_dir))

        _make(ret, {"people": {"no longer managed": people}} if people else {}, forget)
        _note_errors(ret, errors)
        if ret["result"] and not __opts__["test"]:
            __salt__["sshd_mfa.forget"]()
            __salt__["guarded_change.forget_originals"]()
    except CommandExecutionError as err:
        _note_errors(ret, {"sshd_mfa": str(err)})
    return _finish(ret)


def _make(ret, changes, act):
    """
    One step: shown in test mode, carried out otherwise.

    What was done is reported, whatever becomes of later steps.
    """
    if not changes:
        return
    if not __opts__["test"]:
        act()
    elif ret["result"]:
        ret["result"] = None
    ret["changes"].update(changes)


def _note_errors(ret, errors):
    if errors:
        ret["result"] = False
        words = [f"{where}: {error}" for where, error in errors.items()]
        ret["comment"] = "\n".join([*filter(None, [ret["comment"]]), *words])


def _finish(ret, left=()):
    """Say what was done, unless it went wrong, and for whom nothing was done."""
    if not ret["comment"]:
        done = "are as they have to be"
        if ret["changes"]:
            done = "would be changed" if __opts__["test"] else "were changed; sshd is reloaded"
        ret["comment"] = f"PAM, sshd and groups {done}"
    if left:
        ret["comment"] += f"\nLeft as they are, see ssh_users.managed: {', '.join(sorted(left))}"
    return ret


def _enforce(ret, files, groups, service, probes, in_homes, pillar):
    """
    Lay out and commit.

    Who is asked for all factors already gets keys into the home before sshd looks for them
    there, so that a run that is cut off locks nobody out; who comes to it with the commit, after
    that; and who does not, never: the key alone would let them in.
    """
    before = _people_in(__salt__["ssh_users.members"](list(groups)))
    joining = _people_in(groups) - before
    _keys_in_homes(ret, {n: u for n, u in in_homes.items() if n in before}, pillar)
    changes = __salt__["guarded_change.plan"](files, groups)
    _make(ret, changes, lambda: __salt__["guarded_change.apply"](files, groups, service, probes))
    if not changes:
        __salt__["guarded_change.probe"](probes)
    _keys_in_homes(ret, {n: u for n, u in in_homes.items() if n in joining}, pillar)


def _people_in(groups):
    return {name for names in groups.values() for name in names or ()}


def _withdraw(ret, files, groups, service, totp_dir):
    """
    Empty the groups, take the blocks away, and give back what was taken over.

    Keys leave the homes first: with them, and without the groups, a key alone would let in.
    """
    errors = {}

    def put_back():
        errors.update(__salt__["ssh_users.restore_home_keys"]())

    def hand_back():
        done = __salt__["google_authenticator.hand_back"](folder=totp_dir)
        errors.update({n: entry["comment"] for n, entry in done.items() if not entry["result"]})

    people = __salt__["ssh_users.recorded"]()
    keys = sorted(name for name, entry in people.items() if entry.get("home_keys"))
    _make(ret, {"keys in homes": {"put back": keys}} if keys else {}, put_back)
    changes = __salt__["guarded_change.plan"](files, groups)
    apply = __salt__["guarded_change.apply"]
    _make(ret, changes, lambda: apply(files, groups, service, leave=True))
    stored = __salt__["google_authenticator.list"](store="central", folder=totp_dir)
    secrets = sorted(name for name, entry in stored.items() if entry.get("adopted"))
    _make(ret, {"adopted secrets": {"handed back": secrets}} if secrets else {}, hand_back)
    _note_errors(ret, errors)


def _record(policy, totp_dir):
    """The step that lets the operator's functions know the policy."""
    wanted = {"policy": policy, "totp_dir": totp_dir}
    if __salt__["sshd_mfa.applied"]() == wanted:
        return {}, None
    return {"policy": "recorded"}, lambda: __salt__["sshd_mfa.record"](wanted)


def _factors(data, users, policy, totp_dir):
    """What google_authenticator still has to do, or to say, about each second factor."""
    roster = __salt__["ssh_users.recorded"]()
    adopt = [
        name
        for name in users
        if policy["totp"]["adopt"] and "adoption_over" not in roster.get(name, {})
    ]
    wanted = __salt__["mfa_policy.second_factors"](data, users, adopt)
    return __salt__["google_authenticator.managed"](
        wanted, settings=policy["totp"], test=True, folder=totp_dir
    )


def _single(factors, policy):
    """
    Those who enter by their key alone until they have a second factor.

    A file that is there and wrong is an error, and must not open the door to a key alone.
    """
    if policy["enforce"] != "enrolled":
        return []
    return sorted(n for n, entry in factors.items() if entry["result"] and entry["comment"])


def _ready(users, factors, policy, keys_dir):
    """
    Those who would get in: their account, keys and second factor are there.

    In test mode what ssh_users.managed would do is taken for done.
    """
    central = keys_dir if policy["authorized_keys"]["store"] == "central" else None
    planned = __salt__["ssh_users.plan"](users, central, named=list(users))
    ready = set()
    for name in users:
        account, factor = (
            planned[name],
            factors.get(name, {"result": True, "changes": {}, "comment": ""}),
        )
        wrong = account["error"] or not factor["result"]
        missing = factor["comment"] and policy["enforce"] is True
        pending = (account["changes"] or factor["changes"]) and not __opts__["test"]
        if not (wrong or missing or pending):
            ready.add(name)
    return ready


def _complete_adoption(ret, totp_dir):
    """
    Take away what lies in the homes of people whose secret was taken over.

    ssh_users.managed took it over and reported it; until just now the old PAM stack may have
    asked for it.
    """
    if not __opts__["test"]:
        done = __salt__["google_authenticator.complete_adoption"](folder=totp_dir)
        _note_errors(ret, {n: entry["comment"] for n, entry in done.items() if not entry["result"]})


def _groups(users, ready, single):
    """
    Who has to be in which group.

    Who is not ready stays as they are, named by ssh_users.managed: with the way in that they
    had when they never were in our groups, refused for want of a factor when they were. So
    does somebody who is no longer in the pillar.
    """
    unservable = __salt__["ssh_users.unservable"](users)
    current = __salt__["ssh_users.members"](list(__salt__["mfa_policy.groups"]({})))
    inside = _people_in(current)
    moved = {n: u for n, u in users.items() if n in ready or (n in inside and n not in unservable)}
    known = set(users) | set(__salt__["ssh_users.recorded"]())
    if not __salt__["sshd_mfa.applied"]() and inside - known:
        raise CommandExecutionError(
            f"{sorted(inside - known)[0]} is in a group whose name begins with sshd_mfa, and the"
            " formula was never applied here; rename or remove that group"
        )
    groups = __salt__["mfa_policy.groups"](moved, single)
    for group, names in current.items():
        stay = (set(names or []) & known) - set(moved)
        groups[group] = sorted({*groups[group], *stay})
    return groups


def _pam_file(pam_service, rules):
    """
    The PAM service's file with these rules at the top of its ``auth`` stack.

    Moved there, too: a rule above them that ends the stack would let in without a code.
    """
    begin, end = __salt__["mfa_policy.marks"]()
    block = {"block": "sshd_mfa", "rules": rules, "begin": begin, "end": end, "at": "top"}
    try:
        planned = __salt__["pam_stack.plan"](pam_service, [block])
    except SaltInvocationError as err:
        raise CommandExecutionError(str(err)) from None
    return {planned["path"]: planned["new"]}


def _sshd_files(drop_in, text):
    """The drop-in, and the main file where it must be changed for the drop-in to be read first."""
    files = __salt__["sshd_config.plan_drop_in"](drop_in, text)
    lines = __salt__["sshd_config.read"](files=files)
    ours = {line["name"] for line in lines if line["file"] == drop_in and line["match"]}
    for line in itertools.takewhile(lambda line: line["file"] != drop_in, lines):
        if line["match"] and line["name"] in ours - {"match"}:
            raise CommandExecutionError(
                f"{line['file']}:{line['line']}: this Match block comes before {drop_in} and would"
                " decide for whom it matches; move it below, or name the drop-in so that it sorts"
                " first (lookup:paths:drop_in). Nothing was changed."
            )
    return files


def _files_without_us(pam_service, drop_in, banner):
    """The files as they are to be without us, also those that had other names in the pillar."""
    ours = [path for path in __salt__["guarded_change.originals"]() if _is_ours(path)]
    services = {Path(path).name for path in ours if path.startswith(_PAM)} | {pam_service}
    drop_ins = {path for path in ours if not path.startswith(_PAM)} | {drop_in}
    files = {}
    for service in sorted(services):
        files.update(_pam_file(service, []))
    for path in sorted(drop_ins):
        files.update(__salt__["sshd_config.plan_drop_in"](path, None, files=files))
    whole = [*sorted(drop_ins), banner]
    return {**files, **{path: __salt__["guarded_change.original"](path) for path in whole}}


def _is_ours(path):
    """
    Whether our lines stand in a file. The main file of sshd has none but Includes, and those of
    the central store of keys, which have no end mark, are not the policy's.
    """
    text = __salt__["root_file.read"](path) or ""
    return all(mark in text for mark in __salt__["mfa_policy.marks"]())


def _refuse_ports_of_a_socket(policy, service, pillar):
    by_systemd = any(place["by"] != "sshd" for place in __salt__["sshd_config.ports"](service))
    if policy["sshd"]["port"] and by_systemd:
        raise CommandExecutionError(
            f"{pillar}:sshd:port: {service}.socket listens in sshd's place, so Port does nothing;"
            f" take the key out, or run: systemctl disable --now {service}.socket;"
            f" systemctl enable --now {service}.service"
        )


def _probes(policy, groups, keys_dir, drop_in, text):
    """What sshd has to answer for one person of each role, and for the host as a whole."""
    # What sshd makes of our text where nothing beats it, and of the host's own files, where HostKey
    # may stand, and more of what adds up. In those ours is not there: it would count twice.
    main = f"Include {_CANDIDATE}.first\nInclude /etc/ssh/sshd_config\n"
    files = {_CANDIDATE: main, f"{_CANDIDATE}.first": text, drop_in: None}
    alone = __salt__["sshd_config.effective"](_CANDIDATE, files=files)
    keywords = ["usepam", "permituserenvironment", *map(str.lower, policy["sshd"]["options"])]
    host = {keyword: alone[keyword] for keyword in keywords if keyword in alone}
    if policy["sshd"]["port"]:
        host["port"] = [str(port) for port in policy["sshd"]["port"]]
    probes = [{"user": "everybody", "address": None, "expected": host}]
    for group, names in groups.items():
        member = _first_account(names)
        role = group.removeprefix(f"{__salt__['mfa_policy.role_group']('')}")
        if member and role != group:
            settings = policy["roles"].get(role, policy["roles"]["user"])
            network = ipaddress.ip_network((settings["from"] or ["127.0.0.1"])[0])
            expected = __salt__["mfa_policy.expected"](policy, role, keys_dir)
            probes.append(
                {"user": member, "address": str(network.network_address), "expected": expected}
            )
    return probes


def _first_account(names):
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return None


def _keys_in_homes(ret, users, pillar):
    wrong = __salt__["ssh_users.unservable"](users)
    users = {name: user for name, user in users.items() if name not in wrong}
    outcome = __salt__["ssh_users.plan_home_keys"](users)
    changes = {
        name: entry["changes"]["keys"] for name, entry in outcome.items() if entry["changes"]
    }

    def write():
        outcome.update(__salt__["ssh_users.apply_home_keys"](users, outcome))

    changes = {"keys": {**ret["changes"].get("keys", {}), **changes}} if changes else {}
    _make(ret, changes, write)
    errors = {n: entry["error"] for n, entry in outcome.items() if entry["error"]}
    _note_errors(ret, {f"{pillar}:users:{n}:keys": error for n, error in errors.items()})
