"""
The policy: who is asked for which factors, by PAM and sshd together.
"""

import contextlib
import ipaddress
import pwd

from salt.exceptions import CommandExecutionError
from salt.utils.data import traverse_dict_and_list

__virtualname__ = "sshd_mfa"


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

    A person whose entry has an error stays where they are.

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
    try:
        if policy["enforce"]:
            groups = _groups(users, _without_factor(users, policy, totp_dir))
            files = {
                drop_in: __salt__["mfa_policy.sshd_drop_in"](policy, keys_dir, banner),
                banner: policy["sshd"]["banner"] or __salt__["guarded_change.original"](banner),
                **_pam_file(pam_service, __salt__["mfa_policy.pam_block"](policy, totp_dir)),
            }
            _converge(ret, files, groups, service, _probes(policy, groups, keys_dir))
            if policy["authorized_keys"]["store"] == "home":
                _keys_in_homes(ret, users, f"{pillar}:users")
            if policy["totp"]["store"] == "central" and not __opts__["test"]:
                # ssh_users.managed took these over and reported them; what lies in the homes was
                # of use until just now.
                done = __salt__["google_authenticator.complete_adoption"](folder=totp_dir)
                _note_errors(ret, {n: e["comment"] for n, e in done.items() if not e["result"]})
        else:
            files = _files_without_us(pam_service, drop_in, banner)
            _converge(ret, files, {group: [] for group in _groups({})}, service, leave=True)
    except CommandExecutionError as err:
        return {**ret, "result": False, "changes": {}, "comment": str(err)}
    return ret


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

    The groups are emptied first and removed, then the files are put back, then the
    central key files go, and adopted secrets are handed back to the homes they came
    from. Accounts, homes and provisioned secrets stay: a secret that came back with the
    next apply would bring spent codes back.

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
        groups = dict.fromkeys(_groups({}), None)
        files = _files_without_us(pam_service, drop_in, banner)
        people = sorted(__salt__["ssh_users.recorded"]())
        if people:
            ret["changes"]["people"] = {"no longer managed": people}
        _converge(ret, files, groups, service, leave=True)
        if people and not __opts__["test"]:
            done = __salt__["google_authenticator.hand_back"](folder=totp_dir)
            errors = {name: entry["comment"] for name, entry in done.items() if not entry["result"]}
            errors.update(__salt__["ssh_users.forget"](keys_dir))
            _note_errors(ret, errors)
            if not errors:
                __salt__["guarded_change.forget_originals"]()
    except CommandExecutionError as err:
        ret.update(result=False, changes={}, comment=str(err))
    return ret


def _without_factor(users, policy, totp_dir):
    """Those who enter by their key alone until they have a second factor."""
    if policy["enforce"] != "enrolled":
        return []
    people = {n: {} for n, user in users.items() if user["role"] == "user"}
    found = __salt__["google_authenticator.managed"](
        people, settings=policy["totp"], test=True, folder=totp_dir
    )
    # A file that is there and wrong is an error, and must not open the door to a key alone.
    missing = {n for n, entry in found.items() if entry["result"] and entry["comment"]}
    return sorted(n for n in missing if not users[n]["provisioned"])


def _groups(users, single=()):
    """
    Who has to be in which group.

    Someone whose account could not be served, whose entry has an error or is gone, stays
    in the groups that they are in.
    """
    wrong = __salt__["ssh_users.unservable"](users)
    served = {name: user for name, user in users.items() if name not in wrong}
    groups = __salt__["mfa_policy.groups"](served, single)
    for group, current in __salt__["ssh_users.members"](list(groups)).items():
        stay = set(current or []) - set(served)
        groups[group] = sorted({*groups[group], *stay})
    return groups


def _pam_file(pam_service, block):
    path = f"/etc/pam.d/{pam_service}"
    current = __salt__["guarded_change.read"](path)
    if current is None:
        raise CommandExecutionError(
            f"{path}: no such file; name sshd's PAM service in sshd_mfa:lookup:pam_service"
        )
    return {path: __salt__["mfa_policy.with_pam_block"](current, block)}


def _files_without_us(pam_service, drop_in, banner):
    return {
        **_pam_file(pam_service, ""),
        **{path: __salt__["guarded_change.original"](path) for path in (drop_in, banner)},
    }


def _probes(policy, groups, keys_dir):
    """What sshd has to answer for one person of each role, and for the host as a whole."""
    host = {"usepam": "yes", "permituserenvironment": "no"}
    if policy["sshd"]["port"]:
        host["port"] = [str(port) for port in policy["sshd"]["port"]]
    probes = [{"user": "everybody", "address": None, "expected": host}]
    for role, settings in policy["roles"].items():
        member = _first_account(groups[__salt__["mfa_policy.role_group"](role)])
        if member:
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


def _keys_in_homes(ret, users, path):
    wrong = __salt__["ssh_users.unservable"](users)
    users = {name: user for name, user in users.items() if name not in wrong}
    outcome = __salt__["ssh_users.plan_home_keys"](users)
    if not __opts__["test"]:
        outcome = __salt__["ssh_users.apply_home_keys"](users, outcome)
    changes = {
        name: entry["changes"]["keys"] for name, entry in outcome.items() if entry["changes"]
    }
    if changes:
        ret["changes"]["keys"] = changes
        ret["result"] = None if __opts__["test"] else True
    _note_errors(ret, {f"{path}:{n}:keys": e["error"] for n, e in outcome.items() if e["error"]})


def _note_errors(ret, errors):
    if errors:
        ret["result"] = False
        ret["comment"] += "".join(f"\n{where}: {words}" for where, words in errors.items())


def _converge(ret, files, groups, service, probes=(), leave=False):
    changes = __salt__["guarded_change.plan"](files, groups)
    ret["changes"].update(changes)
    if not ret["changes"]:
        __salt__["guarded_change.probe"](probes)
        ret["comment"] = "PAM and sshd are as the pillar asks"
    elif __opts__["test"]:
        ret["result"] = None
        ret["comment"] = "PAM, sshd and groups would be changed"
    else:
        if changes:
            __salt__["guarded_change.apply"](files, groups, service, probes, leave)
        ret["comment"] = "PAM, sshd and groups were changed; sshd is reloaded"
