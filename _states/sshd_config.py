"""
Settings of sshd that are in force, with or without the rest of the formula.

Before anything is put in place, the real sshd has read the files as they are to be; when it refuses
them, or they would have no effect, the state fails and nothing is written.

sshd is not reloaded: let its service watch the state.

.. code-block:: yaml

    no passwords:
      sshd_config.drop_in:
        - name: /etc/ssh/sshd_config.d/10-no-passwords.conf
        - contents: PasswordAuthentication no

    ssh:
      service.running:
        - reload: true
        - watch:
          - sshd_config: no passwords
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "sshd_config"

CONFIG = "/etc/ssh/sshd_config"


def __virtual__():
    return __virtualname__


def options(name, options, match=None, path=CONFIG, config=CONFIG):
    """
    Keywords have these values: changed in place in one file, or put there where they win.

    Where a line of another file says otherwise, or adds a value (as of ``Port``, ``AllowUsers``),
    the state fails and names it.

    name
        What it is about; not used otherwise.

    options
        ``{keyword: value}``: text as sshd_config(5) has it, a number, true or false, a list of
        these (one line each for keywords that add up, such as ``Port`` and ``AllowUsers``).
        ``null``: no such line.

    match
        Conditions of the Match block that the lines are for, such as ``Group sftp``; made at the
        end of the file where there is none. A block above with other conditions, such as
        ``User mary``, still wins for those who meet both: ask ``sshd_config.effective user=mary``.
        Default: none, the global part

    path
        The file for the lines. Default: ``/etc/ssh/sshd_config``

    config
        The main file, which includes it. Default: ``/etc/ssh/sshd_config``

    .. code-block:: yaml

        no forwarding for sftp:
          sshd_config.options:
            - match: Group sftp
            - options:
                ForceCommand: internal-sftp
                DisableForwarding: true
    """

    def plan():
        return __salt__["sshd_config.plan_options"](path, options, match, config)

    return _done(name, plan, config)


def drop_in(name, contents, config=CONFIG):
    """
    A drop-in is there, the main file includes it, and what it says is in force.

    Where the main file does not include it, or only below a line that says otherwise or inside a
    Match block, it gets an ``Include`` above its first keyword. Where another drop-in beats it,
    the state fails and names the line.

    name
        The file, an absolute path.

    contents
        Its text.

    config
        The main file. Default: ``/etc/ssh/sshd_config``

    .. code-block:: yaml

        /etc/ssh/sshd_config.d/10-hardening.conf:
          sshd_config.drop_in:
            - contents: |
                X11Forwarding no
                MaxAuthTries 3
    """

    def plan():
        if not isinstance(contents, str):
            raise SaltInvocationError(f"contents: {contents}: expected the text of the file")
        text = contents if contents.endswith("\n") else f"{contents}\n"
        return __salt__["sshd_config.plan_drop_in"](name, text, config)

    return _done(name, plan, config)


def drop_in_absent(name, config=CONFIG):
    """
    There is no such drop-in, and no ``Include`` that was made for it.

    name, config
        As for :py:func:`drop_in`.

    .. code-block:: yaml

        /etc/ssh/sshd_config.d/10-hardening.conf:
          sshd_config.drop_in_absent: []
    """
    return _done(name, lambda: __salt__["sshd_config.plan_drop_in"](name, None, config), config)


def _done(name, make_plan, config):
    """What a state returns, once its plan is carried out."""
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        plan = make_plan()
        if not plan:
            return {**ret, "comment": "sshd's files are as they should be"}
        if __opts__["test"]:
            __salt__["sshd_config.effective"](config, plan)
            changes = __salt__["sshd_config.differences"](plan)
            return {
                **ret,
                "result": None,
                "changes": changes,
                "comment": "sshd's files would be changed",
            }
        changes = __salt__["sshd_config.apply"](plan, config)
    except (CommandExecutionError, SaltInvocationError, OSError) as err:
        return {**ret, "result": False, "comment": str(err)}
    return {**ret, "changes": changes, "comment": "sshd's files were changed"}
