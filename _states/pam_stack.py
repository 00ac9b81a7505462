"""
Single rules in a PAM stack; everything else in the file stays as it is, byte for byte.

libpam reads its files at every login: what these states change is in force at once. Keep a root
shell open while you try, and ask ``pam_stack.lint`` and ``pam_stack.evaluate`` before.
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "pam_stack"

_TYPES = ("auth", "account", "password", "session")


def __virtual__():
    return __virtualname__


def rule_present(
    name,
    service,
    type,  # noqa: A002 - PAM's word
    module,
    control="required",
    arguments=(),
    before=None,
    after=None,
    at=None,
    folder="/etc/pam.d",
):
    """
    There is exactly one rule of this type and module, with this control and these arguments.

    A rule that is there is changed in its place, and moved only if it does not stand as asked.
    Where the module has several rules of the type, the one with these arguments is meant; if none
    or more than one has them, the state fails and names their lines.

    name
        Free text.

    service
        The file in ``folder``, such as ``sshd``. Files that it includes are services, too:
        ``common-auth``.

    type
        ``auth``, ``account``, ``password`` or ``session``.

    module
        Such as ``pam_access.so``, in whatever folder, or its absolute path.

    control
        ``required``, ``requisite``, ``sufficient``, ``optional``, or a table such as
        ``[success=1 default=ignore]``. Default: ``required``

    arguments
        All of the module's arguments, a list; one may contain blanks. Default: none

    before, after
        A rule that it must stand anywhere above, or below: a module's name, ``@include NAME``, or
        a mapping as ``pam_stack.plan`` takes it.

    at
        ``top`` or ``bottom``: above or below all other rules of the type. Of ``before``, ``after``
        and ``at``, give one at most. Default: a new rule goes below the others

    folder
        Default: ``/etc/pam.d``

    .. code-block:: yaml

        only people in access.conf:
          pam_stack.rule_present:
            - service: sshd
            - type: account
            - module: pam_access.so
            - arguments: [nodefgroup]
            - after: pam_nologin.so
    """
    where = {"before": before, "after": after, "at": at}
    where = {key: value for key, value in where.items() if value is not None}
    rule = {"type": type, "module": module, "control": control, "arguments": arguments}

    def edits(rules):
        if not rules or not isinstance(arguments, (list, tuple)):
            return [{"add": rule, **where}]  # which refuses arguments that are no list
        same = [found for found in rules if found["arguments"] == list(map(str, arguments))]
        meant = rules if len(rules) == 1 else same
        if len(meant) != 1:
            lines = ", ".join(str(found["line"]) for found in rules)
            raise SaltInvocationError(
                f"{rules[0]['file']}: {module} has {len(rules)} {type} rules, at lines {lines}, and"
                f" {len(meant)} of them have these arguments; remove those that you do not want"
            )
        selector = {"line": meant[0]["line"], "module": module}
        change = {"change": selector, "control": control, "arguments": rule["arguments"]}
        return [change, *([{"move": selector, **where}] if where else [])]

    return _done(name, service, (type, module), edits, folder)


def rule_absent(
    name,
    service,
    type,  # noqa: A002 - PAM's word
    module,
    arguments=None,
    comment_out=False,
    folder="/etc/pam.d",
):
    """
    There is no rule of this type and module.

    name
        Free text.

    service, type, module, folder
        As for :py:func:`rule_present`.

    arguments
        Only rules that have all of these, and maybe more. Default: all rules

    comment_out
        Whether they stay as comments. Default: false, they are removed

    .. code-block:: yaml

        no message of the day:
          pam_stack.rule_absent:
            - service: sshd
            - type: session
            - module: pam_motd.so
            - comment_out: true
    """
    verb = "comment" if comment_out else "remove"

    def edits(rules):
        if arguments is not None and not isinstance(arguments, (list, tuple)):
            raise SaltInvocationError(f"arguments: {arguments!r} is no list; write [{arguments}]")
        wanted = set(map(str, arguments or ()))
        lines = [rule["line"] for rule in rules if wanted <= set(rule["arguments"])]
        return [{verb: {"line": line, "module": module}} for line in reversed(lines)]

    return _done(name, service, (type, module), edits, folder)


def _done(name, service, which, edits, folder):
    """Make the edits for the rules of a type and module; the state's return."""
    ret = {"name": name, "result": True, "changes": {}, "comment": "The stack is as it should be"}
    try:
        if which[0] not in _TYPES:
            raise SaltInvocationError(f"type: {which[0]!r} is none of {', '.join(_TYPES)}")
        found = __salt__["pam_stack.read"](service, folder)
        rules = [rule for rule in found if not rule.get("commented") and _is(rule, *which)]
        planned = __salt__["pam_stack.plan"](service, edits(rules), folder)
        if planned["new"] == planned["old"]:
            return ret
        ret["changes"] = {planned["path"]: planned["diff"]}
        if __opts__["test"]:
            return {**ret, "result": None, "comment": f"{planned['path']} would be changed"}
        # Planned again, other edits might be made than those that are reported
        __salt__["root_file.write"](planned["path"], planned["new"])
    except (CommandExecutionError, SaltInvocationError) as error:
        return {**ret, "result": False, "changes": {}, "comment": str(error)}
    return {**ret, "comment": f"{planned['path']} was changed"}


def _is(rule, rule_type, module):
    """Whether it is of this type and module; a name without a folder means any."""
    found = rule.get("module") or ""
    return rule.get("type") == rule_type and module in (found, found.rpartition("/")[2])
