"""
One person's secret file of ``pam_google_authenticator``, without the rest of the formula.

Secrets are not arguments here: ``pillar`` names the pillar key that has them, so that no secret
is in rendered SLS, in low data or in what a state returns.
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

__virtualname__ = "google_authenticator"


def __virtual__():
    return __virtualname__


def present(
    name,
    pillar=None,
    store="central",
    adopt=False,
    window=3,
    step=30,
    rate_limit=None,
    disallow_reuse=True,
    folder="/var/lib/sshd_mfa/totp",
):
    """
    Somebody has a secret file with our part as given; the PAM module's part is left as it is.

    name
        The user.

    pillar
        Name of a pillar key, with colons for nested ones: a mapping with ``secret`` (base32, at
        least 128 bits, no padding) and ``scratch_codes`` (a list, optional). A scratch code is
        issued once; a used one never comes back; one that is taken from the pillar goes. Default:
        the secret that is there stays

    store
        ``central``: ``folder``, which only root can read. ``home``: ``~/.google_authenticator``.
        Default: ``central``

    adopt
        Whether a valid ``~/.google_authenticator`` moves to the central store when that has none
        and the pillar gives no other secret. The PAM stack must ask the central store already:
        the file at home goes. Default: false

    window
        How many codes are taken, 1 to 100; an even number leans to the future. Default: 3

    step
        Seconds that a code lasts, 1 to 60. Default: 30

    rate_limit
        ``attempts`` (1 to 100) in ``seconds`` (1 to 3600), or false. Good attempts count, too.
        Default: 3 in 30 seconds

    disallow_reuse
        Whether a code lets in only once. Default: true

    folder
        The central store.

    .. code-block:: yaml

        sean's second factor:
          google_authenticator.present:
            - name: sean
            - pillar: totp:sean
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    wanted = traverse_dict_and_list(__pillar__, pillar) if pillar else {}
    if not isinstance(wanted, dict):
        ret["comment"] = f"{pillar}: no such pillar key, or it is no mapping with a secret"
        return {**ret, "result": False}
    settings = {
        "store": store,
        "adopt": adopt,
        "window": window,
        "step": step,
        "rate_limit": {"attempts": 3, "seconds": 30} if rate_limit is None else rate_limit,
        "disallow_reuse": disallow_reuse,
    }
    try:
        done = __salt__["google_authenticator.managed"](
            {name: wanted}, settings, test=__opts__["test"], folder=folder
        )[name]
        if adopt and store == "central" and not __opts__["test"]:
            moved = __salt__["google_authenticator.complete_adoption"]([name], folder).get(name)
            if moved and not moved["result"]:
                done = {**done, "result": False, "comment": moved["comment"]}
    except (CommandExecutionError, SaltInvocationError) as error:
        return {**ret, "result": False, "comment": str(error)}
    if not done["result"] or done["comment"]:
        where = f"{pillar}: " if pillar else ""
        comment = f"{where}{name}: {done['comment']}"
        return {**ret, "result": False, "changes": done["changes"], "comment": comment}
    return _finish(ret, done["changes"], "The secret file")


def absent(name, store="central", folder="/var/lib/sshd_mfa/totp"):
    """
    Somebody has no secret file, and cannot log in where a code is asked for.

    name
        The user.

    store, folder
        As for :py:func:`present`.

    .. code-block:: yaml

        sean has no second factor:
          google_authenticator.absent:
            - name: sean
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        there = __salt__["google_authenticator.list"]([name], store, folder)
        if there and not __opts__["test"]:
            __salt__["google_authenticator.reset"](name, store, folder)
    except (CommandExecutionError, SaltInvocationError) as error:
        return {**ret, "result": False, "comment": str(error)}
    return _finish(ret, {"secret": "removed"} if there else {}, "The secret file")


def _finish(ret, changes, what):
    if not changes:
        return {**ret, "comment": f"{what} is as it should be"}
    if __opts__["test"]:
        return {**ret, "result": None, "changes": changes, "comment": f"{what} would be changed"}
    return {**ret, "changes": changes, "comment": f"{what} was changed"}
