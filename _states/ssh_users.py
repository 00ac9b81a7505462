"""
The whole roster of people: accounts, groups, authorized keys and given secrets.
"""

from salt.exceptions import CommandExecutionError
from salt.utils.data import traverse_dict_and_list

__virtualname__ = "ssh_users"


def __virtual__():
    return __virtualname__


def managed(
    name,
    pillar="sshd_mfa",
    keys_dir="/etc/ssh/authorized_keys.d",
    totp_dir="/var/lib/sshd_mfa/totp",
):
    """
    Converge everybody whom the pillar lists, in one pass.

    An error in one person's entry is named with its pillar path and harms nobody else:
    the others are served, and the state fails. An error in the policy itself fails the
    state before anything is touched.

    name
        Only a label.

    pillar
        Name of the pillar key, with colons for nested ones. The data is read from the
        pillar here, so that no secret is in rendered SLS. Default: ``sshd_mfa``

    keys_dir
        Folder of the central key store.

    totp_dir
        Folder of the central store of second factors.

    .. code-block:: yaml

        sshd_mfa people:
          ssh_users.managed:
            - pillar: sshd_mfa
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    data = traverse_dict_and_list(__pillar__, pillar, {})
    checked = __salt__["mfa_policy.validate"](data, pillar)
    if checked["errors"]:
        return {**ret, "result": False, "comment": "\n".join(checked["errors"])}
    users, policy = checked["users"], checked["policy"]
    errors = [error for wrong in checked["user_errors"].values() for error in wrong]
    if error := __salt__["sshd_mfa.contradiction"](policy, pillar):
        return {**ret, "result": False, "comment": error}
    # Keys in homes are written by sshd_mfa.enforced, once more than the key is asked for.
    central = keys_dir if policy["authorized_keys"]["store"] == "central" else None

    planned = __salt__["ssh_users.plan"](users, central, named=list(data["users"]))
    if not __opts__["test"]:
        planned = __salt__["ssh_users.apply"](users, planned, central)
    served = [n for n, entry in planned.items() if n in users and not entry["error"]]
    try:
        secrets = _second_factors(data, users, served, policy, totp_dir)
    except CommandExecutionError as err:
        errors.append(f"{pillar}:totp: {err}")
        secrets = {}

    for person, entry in planned.items():
        if entry["error"]:
            errors.append(f"{pillar}:users:{person}: {entry['error']}")
        changes = {**entry["changes"], **secrets.get(person, {}).get("changes", {})}
        if changes:
            ret["changes"][person] = changes
        factor = secrets.get(person, {"result": True, "comment": ""})
        if not factor["result"]:
            errors.append(f"{pillar}:users:{person}:totp: {factor['comment']}")
        elif factor["comment"] and policy["enforce"] is True:
            errors.append(
                f"{pillar}:users:{person}:totp: {factor['comment']}; give totp:secret. Until then"
                f" {person} is refused or, if never under this policy, gets in as before"
            )
    return _finish(ret, errors, len(users))


def _second_factors(data, users, served, policy, totp_dir):
    """See to the secret files of those who are asked for a code."""
    # Nothing is taken over where the host's own PAM stack goes on asking for it.
    adopt = policy["totp"]["adopt"] and bool(policy["enforce"])
    roster = __salt__["ssh_users.recorded"]()
    open_to = [n for n in served if adopt and "adoption_over" not in roster.get(n, {})]
    people = {name: users[name] for name in served}
    found = __salt__["google_authenticator.managed"](
        __salt__["mfa_policy.second_factors"](data, people, open_to),
        settings=policy["totp"],
        test=__opts__["test"],
        folder=totp_dir,
    )
    if adopt and not __opts__["test"]:
        seen = [person for person, entry in found.items() if entry["result"]]
        __salt__["ssh_users.end_adoption"](seen)
    return found


def _finish(ret, errors, number):
    if errors:
        ret["result"] = False
        ret["comment"] = "\n".join(errors)
    elif not ret["changes"]:
        ret["comment"] = f"All {number} people are as the pillar lists them"
    elif __opts__["test"]:
        ret["result"] = None
        ret["comment"] = f"{len(ret['changes'])} people would be changed"
    else:
        ret["comment"] = f"{len(ret['changes'])} people were changed"
    return ret
