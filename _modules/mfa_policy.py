"""
Validate the pillar and compile it to a PAM block and an sshd drop-in.

Everything here is pure: data in, data out. Nothing is read from the host and nothing
is written, so every function can be tried with ``salt-call --local`` on any machine.

Two rules shape what is compiled:

* **A group is the switch.** The PAM block and the ``Match`` blocks speak of the groups
  ``sshd_mfa`` and ``sshd_mfa_ROLE``. While nobody is in them, they change nothing.
* **Every role's Match block sets the whole set of keywords**, since a keyword that one
  block leaves out is taken from the next block that matches (sshd_config(5), "Match").
"""

import base64
import binascii
import difflib
import ipaddress
import re
from typing import NamedTuple

from salt.exceptions import SaltInvocationError

__virtualname__ = "mfa_policy"

#: Group of everybody whom the formula manages; each role has a group of its own.
MANAGED_GROUP = "sshd_mfa"

_BEGIN = "# BEGIN sshd_mfa: managed by Salt, change the pillar instead"
_END = "# END sshd_mfa"

#: With which authentication methods sshd asks for the factors of a group. A comma means "and"
#: in AuthenticationMethods; a space would mean "or" (sshd_config(5)). In ``single`` are people
#: of the role ``user`` who have no second factor yet, while ``enforce`` is ``enrolled``: were
#: they asked for keyboard-interactive, too, clients with BatchMode would not get in any more.
_METHODS = {
    "user": "publickey,keyboard-interactive:pam",
    "robot": "publickey",
    "single": "publickey",
}

#: What every role's Match block says alike. sshd looks nowhere else for keys of managed people.
_ALIKE = (
    ("PubkeyAuthentication", "yes"),
    ("PasswordAuthentication", "no"),
    ("AuthorizedKeysCommand", "none"),
    ("TrustedUserCAKeys", "none"),
    ("AllowTcpForwarding", "local"),
    ("AllowStreamLocalForwarding", "no"),
    ("AllowAgentForwarding", "no"),
    ("X11Forwarding", "no"),
    ("PermitTunnel", "no"),
)

#: Set by the policy itself; in ``sshd:options`` they would contradict it, or do nothing.
_OWN_KEYWORDS = frozenset(
    "authenticationmethods authorizedkeysfile banner challengeresponseauthentication include"
    " kbdinteractiveauthentication match permituserenvironment port usepam".split()
) | {keyword.lower() for keyword, _ in _ALIKE}

#: Options of an authorized_keys line (sshd(8)) that take something away, or give back after
#: ``restrict`` what the role has anyway.
_KEY_OPTIONS = frozenset(
    "agent-forwarding command expiry-time from no-agent-forwarding no-port-forwarding no-pty"
    " no-user-rc no-x11-forwarding port-forwarding pty restrict user-rc verify-required"
    " x11-forwarding".split()
)

#: Those that give more than the role does.
_WIDENING_KEY_OPTIONS = frozenset(
    "cert-authority environment no-touch-required permitlisten permitopen principals tunnel".split()
)

#: Types of keys that are accepted, and of how many strings each is made (RFC 4253, RFC 5656,
#: RFC 8709, OpenSSH's PROTOCOL.u2f).
_KEY_TYPES = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}

# One option of an authorized_keys line: name, name="value" with \" inside.
_KEY_OPTION = re.compile(r'([A-Za-z0-9-]+)(?:="((?:\\"|[^"])*)")?(,|[ \t]+)')

# shadow-utils takes names of up to 32 characters; a trailing $ is Samba's and not a person's.
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")


def __virtual__():
    return __virtualname__


def marks():
    """
    Return the comment lines ``[begin, end]`` between which our lines stand in others' files.

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.marks
    """
    return [_BEGIN, _END]


def validate(data, path="sshd_mfa"):
    """
    Check the pillar and fill in its defaults.

    Errors that make the policy as a whole impossible stand in ``errors``: nothing may be
    touched then. An error in one person's entry stands in ``user_errors`` under that
    person's name, and only that person is left out of ``users``.

    No secret is in what is returned; ``totp`` of a user becomes ``provisioned: true``.

    data
        The pillar below its key, a mapping.

    path
        Name of the pillar key, with which every error begins. Default: ``sshd_mfa``

    Returns a mapping of ``errors`` (list of str), ``user_errors`` (name to list of str),
    ``policy`` (everything but the people, with defaults) and ``users`` (name to entry).

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.validate '{users: {sean: {keys: [ssh-ed25519 AAAA…]}}}'
    """
    errors = []
    if not isinstance(data, dict) or not data:
        errors.append(f"{path}: no such pillar key, or it is empty; see pillar.example")
        return {"errors": errors, "user_errors": {}, "policy": {}, "users": {}}
    policy = _check_mapping(_POLICY, {k: v for k, v in data.items() if k != "users"}, path, errors)
    people = data.get("users")
    if not isinstance(people, dict) or not people:
        errors.append(f"{path}:users: nobody is listed, so nobody could log in; list the people")
        people = {}
    if errors:
        return {"errors": errors, "user_errors": {}, "policy": {}, "users": {}}
    users, user_errors = {}, {}
    for name, entry in people.items():
        wrong = []
        checked = _check_user(name, entry, policy, path, wrong)
        if wrong:
            user_errors[str(name)] = wrong
        else:
            users[name] = checked
    _refuse_shared_keys(users, user_errors, f"{path}:users")
    return {"errors": errors, "user_errors": user_errors, "policy": policy, "users": users}


def groups(users, single=()):
    """
    Return who has to be in which group, as ``{group: [name, …]}``, names sorted.

    users
        The ``users`` of :py:func:`validate`.

    single
        Those of the role ``user`` who are asked for their key alone. Default: nobody

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.groups '{sean: {role: user}, deploy: {role: robot}}'
    """
    members = {MANAGED_GROUP: sorted(users), **{role_group(role): [] for role in _METHODS}}
    for name in sorted(users):
        role = "single" if name in single else users[name]["role"]
        members[role_group(role)].append(name)
    return members


def role_group(role):
    """
    Return the name of a role's group.

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.role_group robot
    """
    return f"{MANAGED_GROUP}_{role}"


def second_factors(data, users, adopt):
    """
    Return what google_authenticator has to see to, ``{name: {"secret":, "scratch_codes":,
    "adopt":}}``.

    For states, in the process: what is in ``data`` comes out again.

    data
        The pillar below its key.

    users
        The ``users`` of :py:func:`validate` who are to be seen to. Robots are left out.

    adopt
        Names of those whose ``~/.google_authenticator`` may be taken over.

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.second_factors '{users: {sean: {}}}' "$users" '[]'
    """
    wanted = {}
    for name, user in users.items():
        if user["role"] != "robot":
            totp = (data["users"][name] or {}).get("totp") or {}
            wanted[name] = {key: totp.get(key) for key in ("secret", "scratch_codes")}
            wanted[name]["adopt"] = name in adopt
    return wanted


def pam_rules(policy, totp_dir):
    """
    Compile the rules that belong at the top of the PAM service's ``auth`` stack.

    People outside ``sshd_mfa_user`` jump over it to whatever the host asked before. The jump is
    also taken on PAM_IGNORE, which is what pam_succeed_if answers to pam_setcred(3): so
    the host's own modules go on setting credentials as before.

    policy
        The ``policy`` of :py:func:`validate`.

    totp_dir
        Absolute path of the folder of the central store.

    Returns a list of rules, each a line of text.

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.pam_rules "$policy" /var/lib/sshd_mfa/totp
    """
    if policy["totp"]["store"] == "central":
        where = f"secret={totp_dir}/${{USER}} user=root"
    else:
        where = "secret=${HOME}/.google_authenticator"
    module = f"pam_google_authenticator.so {where} noskewadj"
    if policy["enforce"] == "enrolled":
        # nullok answers PAM_IGNORE, which denies unless another module says success
        # (pam_google_authenticator(8), "nullok"). A missing secret file is all it forgives.
        rules = [
            f"auth [success=done ignore=ignore default=die] {module} nullok",
            "auth [success=done default=die] pam_permit.so",
        ]
    else:
        rules = [f"auth [success=done default=die] {module}"]
    skip = len(rules)
    outsiders = (
        f"auth [success={skip} ignore={skip} default=ignore]"
        f" pam_succeed_if.so quiet user notingroup {role_group('user')}"
    )
    return [outsiders, *rules]


def sshd_drop_in(policy, keys_dir, banner_file):
    """
    Compile the drop-in for ``sshd_config.d``, as text.

    policy
        The ``policy`` of :py:func:`validate`.

    keys_dir
        Absolute path of the folder of the central key store.

    banner_file
        Absolute path of the file that holds the banner.

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.sshd_drop_in "$policy" /etc/ssh/authorized_keys.d /etc/issue
    """
    sshd = policy["sshd"]
    lines = [_BEGIN, "UsePAM yes", "PermitUserEnvironment no"]
    lines += [f"Port {port}" for port in sshd["port"]]
    if sshd["banner"]:
        lines.append(f"Banner {banner_file}")
    for keyword, values in sorted(sshd["options"].items()):
        lines += [f"{keyword} {value}" for value in values]
    for role in _METHODS:
        group = role_group(role)
        networks = policy["roles"]["user" if role == "single" else role]["from"]
        if networks:
            # A list of negations alone never matches, hence the star (ssh_config(5), PATTERNS).
            elsewhere = ",".join(["*", *(f"!{network}" for network in networks)])
            lines += ["", f"Match Group {group} Address {elsewhere}", "    DenyUsers *"]
        lines += ["", f"Match Group {group}"]
        lines += [
            f"    {keyword} {value}" for keyword, value in _role_keywords(policy, role, keys_dir)
        ]
    strays = ",".join([MANAGED_GROUP, *(f"!{role_group(role)}" for role in _METHODS)])
    lines += ["", "# Managed people whom no role took", f"Match Group {strays}", "    DenyUsers *"]
    return "\n".join([*lines, _END]) + "\n"


def expected(policy, role, keys_dir):
    """
    Return what ``sshd -T -C user=…`` has to print for a person of that role.

    A mapping of keyword to value, both in lower case where sshd prints them so.

    CLI Example:

    .. code-block:: bash

        salt-call --local mfa_policy.expected "$policy" robot /etc/ssh/authorized_keys.d
    """
    return {key.lower(): value for key, value in _role_keywords(policy, role, keys_dir)}


def _role_keywords(policy, role, keys_dir):
    """The whole set of keywords of one role's Match block."""
    methods = _METHODS[role]
    central = policy["authorized_keys"]["store"] == "central"
    return [
        ("AuthenticationMethods", methods),
        ("KbdInteractiveAuthentication", "yes" if "keyboard-interactive" in methods else "no"),
        ("AuthorizedKeysFile", f"{keys_dir}/%u" if central else ".ssh/authorized_keys"),
        *_ALIKE,
    ]


# What the pillar may hold. Each key has a check, which returns the value or raises, and a
# default; a key that the contract names but that is not built has no check. "*" stands for
# any other key.


class _Key(NamedTuple):
    check: object
    default: object = None


_LATER = _Key(None)


def _check_mapping(contract, data, path, errors):
    """Check one mapping of the pillar against its table; errors are collected, not raised."""
    values = {}
    if not isinstance(data, dict):
        errors.append(f"{path}: expected a mapping, got {_kind(data)}")
        return values
    for key in data:
        if isinstance(key, str) and key.startswith("x-"):
            continue
        rule = contract.get(key, contract.get("*"))
        if rule is None:
            errors.append(f"{path}:{_shown(key)}: no such key{_hint(key, contract)}")
        elif rule is _LATER:
            errors.append(f"{path}:{key}: this key is not built yet; take it out")
    for key, (check, default) in contract.items():
        if check is None:
            continue
        if isinstance(check, dict):
            values[key] = _check_mapping(check, data.get(key, {}), f"{path}:{key}", errors)
            continue
        if key not in data:
            values[key] = default
            continue
        try:
            values[key] = check(data[key])
        except SaltInvocationError as err:
            errors.append(f"{path}:{key}: {err}")
    return values


def _check_user(name, entry, policy, root, errors):
    path = f"{root}:users:{name}"
    if not isinstance(name, str):
        errors.append(f"{path}: YAML reads this name as {_kind(name)}; put it in quotes")
        return {}
    if not _NAME.fullmatch(name):
        errors.append(
            f"{path}: not a user name: up to 32 of a-z 0-9 _ . -, beginning with a letter or _"
        )
        return {}
    user = _check_mapping(_USER, entry if entry is not None else {}, path, errors)
    if errors:
        return {}
    user["provisioned"] = user.pop("totp") is not None
    if not user["keys"]:
        errors.append(f"{path}:keys: no key, so {name} could not log in; give at least one")
    if user["role"] == "robot":
        if user["provisioned"]:
            errors.append(f"{path}:totp: a robot logs in by key alone; take it out")
        if not policy["roles"]["robot"]["from"]:
            errors.append(
                f"{path}:role: robot needs the networks it may come from;"
                f" list them in {root}:roles:robot:from"
            )
    return user


def _refuse_shared_keys(users, user_errors, path):
    """One key for two people is refused for both: the log could not tell who came in."""
    owners = {}
    for name, user in users.items():
        for label, line in user["keys"].items():
            owners.setdefault(_key_blob(line), []).append((name, label))
    for uses in owners.values():
        names = sorted({name for name, _ in uses})
        if len(names) < 2:
            continue
        for name, label in uses:
            users.pop(name, None)
            others = ", ".join(other for other in names if other != name)
            user_errors.setdefault(name, []).append(
                f"{path}:{name}:keys:{label}: {others} has the same key; give each person their own"
            )


def _shown(key):
    """A key that is not known may be a secret: `secret:JBSW…` lacks the space after the colon."""
    plain = isinstance(key, str) and re.fullmatch("[a-z_]{1,20}", key)
    return key if plain else "(not shown; is the space after a colon missing?)"


def _hint(word, known):
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _kind(value):
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "yes or no", int: "a number"}
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _refuse(message):
    raise SaltInvocationError(message)


def _boolean(value):
    return (
        value if isinstance(value, bool) else _refuse(f"expected true or false, got {_kind(value)}")
    )


def _text(value):
    if not isinstance(value, str):
        _refuse(f"expected a text, got {_kind(value)}; put it in quotes")
    return value


def _line(value):
    if any(ord(char) < 32 or ord(char) == 127 for char in _text(value)):
        _refuse("must be one line without control characters")
    return value.strip()


def _one_of(*choices):
    def check(value):
        # 1 == True in Python, but not in a pillar.
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            words = ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in choices)
            _refuse(f"expected one of {words}")
        return value

    return check


def _number(low, high):
    def check(value):
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            _refuse(f"expected a whole number from {low} to {high}")
        return value

    return check


def _list_of(check):
    def check_list(value):
        if not isinstance(value, list):
            _refuse(f"expected a list, got {_kind(value)}")
        return [check(item) for item in value]

    return check_list


def _ports(value):
    ports = value if isinstance(value, list) else [value]
    return [_number(1, 65535)(port) for port in ports]


def _network(value):
    try:
        return str(ipaddress.ip_network(_line(value)))
    except ValueError as err:
        return _refuse(f"not a network such as 10.77.0.0/16: {err}")


def _path(value):
    if not re.fullmatch(r"(/[A-Za-z0-9_+@.-]+)+", _line(value)) or "/.." in value or "/./" in value:
        _refuse("expected an absolute path without .. or special characters")
    return value


def _gecos(value):
    if re.search(r"[:,]", _line(value)):
        _refuse("must not hold a colon or a comma (passwd(5))")
    return value.strip()


def _group_name(value):
    if not _NAME.fullmatch(_text(value)):
        _refuse("not a group name")
    if value == MANAGED_GROUP or value.startswith(f"{MANAGED_GROUP}_"):
        _refuse("this group is the formula's own; give a role instead")
    return value


def _sshd_options(value):
    if not isinstance(value, dict):
        _refuse(f"expected a mapping of keyword to value, got {_kind(value)}")
    return {_keyword(keyword): _values(keyword, found) for keyword, found in value.items()}


def _keyword(keyword):
    if not re.fullmatch(r"[A-Za-z0-9]+", str(keyword)):
        _refuse(f"{keyword}: not a keyword of sshd_config(5)")
    if str(keyword).lower() in _OWN_KEYWORDS:
        _refuse(f"{keyword}: the policy sets this keyword itself; take it out")
    return str(keyword)


def _values(keyword, value):
    """sshd_config values of one keyword; YAML's yes and no arrive as booleans."""
    values = value if isinstance(value, list) else [value]
    words = []
    for item in values:
        if isinstance(item, bool):
            words.append("yes" if item else "no")
        elif isinstance(item, (str, int)) and str(item).strip():
            words.append(_line(str(item)))
        else:
            _refuse(f"{keyword}: expected a text, a number or yes/no, got {_kind(item)}")
    return words


def _keys(value):
    if isinstance(value, list):
        value = {str(number): line for number, line in enumerate(value, 1)}
    if not isinstance(value, dict):
        _refuse(f"expected a mapping of label to key, or a list of keys, got {_kind(value)}")
    keys = {}
    for label, line in value.items():
        try:
            keys[str(label)] = _key_line(line)
        except SaltInvocationError as err:
            _refuse(f"{label}: {err}")
    return keys


def _key_line(line):
    """Check one authorized_keys line (sshd(8), AUTHORIZED_KEYS FILE FORMAT)."""
    line = _line(line)
    options, rest = _split_key_options(line)
    widening = sorted(_WIDENING_KEY_OPTIONS.intersection(options))
    if widening:
        _refuse(f"the option {widening[0]} would give more than the role does; take it out")
    kind, _, blob = rest.partition(" ")
    if kind not in _KEY_TYPES:
        _refuse(
            "not a public key of a type that is accepted (ed25519, ecdsa, rsa, sk-*);"
            " give the whole line of the .pub file"
        )
    if unknown := sorted(set(options) - _KEY_OPTIONS):
        # sshd ignores the whole line then, and says so in its log only.
        _refuse(f"{unknown[0]}: no such option{_hint(unknown[0], _KEY_OPTIONS)}")
    if not blob.strip():
        _refuse("the key itself is missing after its type; give the whole line of the .pub file")
    try:
        raw = base64.b64decode(blob.split()[0], validate=True)
    except (binascii.Error, ValueError):
        _refuse("the key is not valid base64; was it cut while copying?")
    fields = _fields(raw)
    if fields[:1] != [kind.encode()]:
        _refuse(f"the key is not of the type {kind} that stands before it; was it cut?")
    if len(fields) != _KEY_TYPES[kind]:
        _refuse("the key has no proper end; was it cut while copying?")
    return line


def _fields(raw):
    """The strings of which a public key is made (RFC 4253, 6.6), the first alone if one is cut."""
    fields = []
    while raw:
        length = int.from_bytes(raw[:4], "big")
        fields.append(raw[4 : 4 + length])
        if len(raw) < 4 + length:
            return fields[:1] if len(fields) > 1 else []
        raw = raw[4 + length :]
    return fields


def _split_key_options(line):
    """Split an authorized_keys line into the names of its options and the rest."""
    names = []
    if line.split(" ", 1)[0] in _KEY_TYPES:
        return names, line
    position = 0
    while match := _KEY_OPTION.match(line, position):
        names.append(match[1].lower())
        position = match.end()
        if match[3] != ",":
            return names, line[position:]
    return _refuse("the options before the key could not be read; check quotes and commas")


def _key_blob(line):
    _, rest = _split_key_options(line)
    return rest.split()[1]


def _totp_entry(value):
    """The shape of a person's second factor; google_authenticator judges the secret itself."""
    if not isinstance(value, dict):
        _refuse(f"expected a mapping with secret, got {_kind(value)}")
    unknown = [key for key in value if key not in ("secret", "scratch_codes")]
    if unknown:
        _refuse(f"{_shown(unknown[0])}: no such key; known are secret and scratch_codes")
    if not isinstance(value.get("secret"), str):
        _refuse("secret: expected the secret as a text in base32")
    if not isinstance(value.get("scratch_codes", []), list):
        _refuse(f"scratch_codes: expected a list, got {_kind(value['scratch_codes'])}")
    return True


_ROLE = {
    "from": _Key(_list_of(_network), []),
    **dict.fromkeys(
        "factors factors_from shell forward listen allow command sudo options record".split(),
        _LATER,
    ),
}

_POLICY = {
    "enforce": _Key(_one_of(True, False, "enrolled"), True),
    "lookup": _Key(
        {
            "packages": _Key(_list_of(_line)),
            "service": _Key(_line),
            "pam_service": _Key(_line),
            "paths": _Key(
                {
                    "drop_in": _Key(_path),
                    "keys_dir": _Key(_path),
                    "banner": _Key(_path),
                }
            ),
        }
    ),
    "sshd": _Key(
        {
            "port": _Key(_ports, []),
            "options": _Key(_sshd_options, {}),
            "banner": _Key(_text, ""),
        }
    ),
    "authorized_keys": _Key(
        {"store": _Key(_one_of("central", "home"), "central"), "source": _LATER}
    ),
    "totp": _Key(
        {
            "store": _Key(_one_of("central", "home"), "central"),
            "adopt": _Key(_boolean, True),
            "issuer": _Key(_line, "bastion"),
            "window": _Key(_number(1, 100), 3),
            "step": _Key(_number(1, 60), 30),
            "rate_limit": _Key(
                {"attempts": _Key(_number(1, 100), 3), "seconds": _Key(_number(1, 3600), 30)}
            ),
            "disallow_reuse": _Key(_boolean, True),
            "scratch_codes": _Key(_number(0, 10), 5),
        }
    ),
    "enrolment": _LATER,
    "unlisted": _LATER,
    "roles": _Key({"user": _Key(_ROLE), "robot": _Key(_ROLE), "*": _LATER}),
    "offboarding": _LATER,
    "safety": _LATER,
    "ca_keys": _LATER,
    "client": _LATER,
}

_USER = {
    "role": _Key(_one_of("user", "robot"), "user"),
    "keys": _Key(_keys, {}),
    "totp": _Key(_totp_entry),
    "fullname": _Key(_gecos),
    "login_shell": _Key(_path),
    "home": _Key(_path),
    # Debian gives people uids from 1000 on, and 65534 is nobody's (Debian Policy 9.2.2).
    "uid": _Key(_number(1000, 65533)),
    "gid": _Key(_number(1000, 65533)),
    "groups": _Key(_list_of(_group_name), []),
    "existing": _Key(_boolean, False),
    "password": _LATER,
    "expires": _LATER,
    "state": _LATER,
}
