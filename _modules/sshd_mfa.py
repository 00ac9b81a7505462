"""
The operator's face of the formula.

The last applied policy, without secrets, lies root-only on the host, so that functions called
by hand need no arguments to repeat it.
"""

import json

__virtualname__ = "sshd_mfa"

#: Version of all modules of the formula; the formula synchronizes them when it needs another.
__version__ = "0.1.0"

POLICY = "/var/lib/sshd_mfa/policy.json"


def __virtual__():
    return __virtualname__


def version():
    """
    Return the version of the modules, which the formula compares with its own.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' sshd_mfa.version
    """
    return __version__


def applied():
    """
    Return the last applied policy: ``{"policy": …, "totp_dir": …}``, empty where none is applied.

    ``policy`` is that of :py:func:`mfa_policy.validate
    <saltext.sshd_mfa.modules.mfa_policy.validate>`: everything but the people.

    CLI Example:

    .. code-block:: bash

        salt 'jump*' sshd_mfa.applied
    """
    text = __salt__["root_file.read"](POLICY)
    return json.loads(text) if text else {}


def contradiction(policy, path="sshd_mfa"):
    """
    Return why a policy cannot follow the one that was applied last; empty where it can.

    policy
        The ``policy`` of :py:func:`mfa_policy.validate
        <saltext.sshd_mfa.modules.mfa_policy.validate>`.

    path
        Name of the pillar key, for the error. Default: ``sshd_mfa``

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_mfa.contradiction "$policy"
    """
    before = applied().get("policy", {}).get("totp", {}).get("store")
    if before in (None, policy["totp"]["store"]):
        return ""
    return (
        f"{path}:totp:store: was {before} when it was applied last; in the other store codes that"
        " are spent would be good again. Apply sshd_mfa.clean first, and give everybody new secrets"
    )


def record(applied):
    """
    Write what :py:func:`applied` returns.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_mfa.record "$applied"
    """
    text = json.dumps(applied, indent=1, sort_keys=True) + "\n"
    return __salt__["root_file.write"](POLICY, text, mode=0o600)


def forget():
    """
    Remove the record of :py:func:`applied`.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_mfa.forget
    """
    return __salt__["root_file.write"](POLICY, None)
