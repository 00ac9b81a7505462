"""
sshd_config and all that it includes: read it as sshd does, say which line decides, change it.

``sshd -T`` tells which values are in force, but not where they come from, and text tools know
neither ``Include`` nor ``Match``. Here the files are read by the rules of sshd's own parser:
included files in their order, the conditions of a ``Match`` block, the first value of a keyword,
the keywords that add up over lines. :py:func:`effective` asks the real sshd instead, also about
files that are not on the disk yet.

``files`` of a function is such an overlay: ``{absolute path: text}``, and ``None`` for a file that
is to be removed. Functions named ``plan_…`` return the same shape and write nothing, so that a
change can be judged before it is laid out::

    plan = sshd_config.plan_drop_in("/etc/ssh/sshd_config.d/00-mine.conf", "X11Forwarding no")
    sshd_config.effective(files=plan)

A connection is described by ``user``, ``address`` and ``host`` (of the client), ``laddress``,
``lport`` and ``rdomain`` (of the server) and ``invalid_user`` (true: there is no such account;
OpenSSH 9.9 and later). A Match block that asks for what is not given does not match.

What is said here about sshd comes from servconf.c, misc.c, match.c, addrmatch.c and auth2.c of
OpenSSH 9.2 and 10.0, and is checked against both by ``tests/functional/test_sshd_config_judge.py``.
"""

import functools
import grp
import ipaddress
import os
import pwd
import re
import socket
import subprocess
import tempfile
from dataclasses import dataclass

import salt.utils.path
from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.args import clean_kwargs

__virtualname__ = "sshd_config"

CONFIG = "/etc/ssh/sshd_config"

_SSHDIR = "/etc/ssh"  # what relative names of Include are relative to
_MOST_INCLUDES = 16  # SERVCONF_MAX_DEPTH
_CONNECTION = ("user", "host", "address", "laddress", "lport", "rdomain", "invalid_user")

# Names in the keyword table of servconf.c that stand for another one; ``sshd -T`` prints that one
_ALIASES = {
    "challengeresponseauthentication": "kbdinteractiveauthentication",
    "dsaauthentication": "pubkeyauthentication",
    "gssapicleanupcreds": "gssapicleanupcredentials",
    "hostbasedacceptedkeytypes": "hostbasedacceptedalgorithms",
    "hostdsakey": "hostkey",
    "keepalive": "tcpkeepalive",
    "pubkeyacceptedkeytypes": "pubkeyacceptedalgorithms",
    "skeyauthentication": "kbdinteractiveauthentication",
}
# sDeprecated and sIgnore: known, without effect
_WITHOUT_EFFECT = set(
    "authorizedkeysfile2 checkmail keyregenerationinterval pamauthenticationviakbdint"
    " permitblacklistedkeys protocol reversemappingcheck rhostsauthentication"
    " rhostsrsaauthentication rsaauthentication serverkeybits uselogin useprivilegeseparation"
    " verifyreversemapping".split()
)
# SSHCFG_GLOBAL: refused in a Match block
_GLOBAL = set(
    "addressfamily ciphers compression debianbanner fingerprinthash gssapicleanupcredentials"
    " gssapikexalgorithms gssapikeyexchange gssapistorecredentialsonrekey"
    " gssapistrictacceptorcheck hostcertificate hostkey hostkeyagent hostkeyalgorithms"
    " ignoreuserknownhosts kerberosgetafstoken kerberosorlocalpasswd kerberosticketcleanup"
    " kexalgorithms listenaddress logingracetime macs maxstartups modulifile"
    " permituserenvironment persourcemaxstartups persourcenetblocksize persourcepenalties"
    " persourcepenaltyexemptlist pidfile port printlastlog printmotd securitykeyprovider"
    " sshdauthpath sshdsessionpath strictmodes syslogfacility tcpkeepalive usedns usepam"
    " versionaddendum xauthlocation".split()
)
# The others that were ever there, for keywords()
_IN_MATCH = set(
    "acceptenv allowagentforwarding allowgroups allowstreamlocalforwarding allowtcpforwarding"
    " allowusers authenticationmethods authorizedkeyscommand authorizedkeyscommanduser"
    " authorizedkeysfile authorizedprincipalscommand authorizedprincipalscommanduser"
    " authorizedprincipalsfile banner casignaturealgorithms channeltimeout chrootdirectory"
    " clientalivecountmax clientaliveinterval denygroups denyusers disableforwarding"
    " exposeauthinfo forcecommand gatewayports gssapiauthentication hostbasedacceptedalgorithms"
    " hostbasedauthentication hostbasedusesnamefrompacketonly ignorerhosts include ipqos"
    " kbdinteractiveauthentication kerberosauthentication loglevel logverbose match maxauthtries"
    " maxsessions pamservicename passwordauthentication permitemptypasswords permitlisten"
    " permitopen permitrootlogin permittty permittunnel permituserrc pubkeyacceptedalgorithms"
    " pubkeyauthentication pubkeyauthoptions rdomain refuseconnection rekeylimit requiredrsasize"
    " revokedkeys setenv streamlocalbindmask streamlocalbindunlink subsystem trustedusercakeys"
    " unusedconnectiontimeout x11displayoffset x11forwarding x11uselocalhost".split()
)
# All lines count, each argument as a value of its own
_ADDS_UP = set(
    "acceptenv allowgroups allowusers denygroups denyusers hostcertificate hostkey listenaddress"
    " port".split()
)
# The rest of the line is the value, with quotes and `#`
_WHOLE_LINE = set(
    "authorizedkeyscommand authorizedprincipalscommand forcecommand versionaddendum".split()
)
# No look at what was set before
_LAST_WINS = set(
    "fingerprinthash ipqos maxstartups persourcenetblocksize streamlocalbindmask".split()
)


def __virtual__():
    return __virtualname__


# ---- The core: how sshd reads a line ---------------------------------------------------------

_SPACE = " \t\r\n"


class _BadLineError(Exception):
    """A line that sshd refuses before it looks at the values."""

    def __init__(self, file, number, message):
        super().__init__(f"{file}:{number}: {message}")
        self.place, self.message = (file, number), message


@dataclass(frozen=True)
class _Line:
    """A line with a keyword, and where it stands."""

    file: str
    number: int
    text: str
    keyword: str  # as written
    arguments: tuple
    match: tuple = ()  # ((criterion, patterns), …) that must all hold; (): outside of Match
    included: tuple = ()  # files that an Include names

    @property
    def name(self):
        """The keyword as ``sshd -T`` prints it."""
        return _canonical(self.keyword)


def _canonical(keyword):
    return _ALIASES.get(keyword.lower(), keyword.lower())


def _strdelim(text):
    """strdelim(): the first word, up to white space or one ``=``, and what follows (or None)."""
    end = re.search(r'[ \t\r\n"=]', text)
    if not end:
        return text, None
    at = end.start()
    if end[0] == '"':
        closing = text.find('"', at + 1)
        if closing < 0:
            raise ValueError("a quote is not closed")
        return text[:at] + text[at + 1 : closing], text[closing + 1 :].lstrip(_SPACE)
    rest = text[at + 1 :].lstrip(_SPACE)
    if end[0] != "=" and rest.startswith("="):
        rest = rest[1:].lstrip(_SPACE)
    return text[:at], rest


# A piece of an argument: an escape, a quoted piece (with its own escapes), anything else
_PIECE = re.compile(
    r"""\\(?P<escaped>['"\\ ])
    |"(?P<double>(?:\\['"\\]|[^"])*)"
    |'(?P<single>(?:\\['"\\]|[^'])*)'
    |(?P<plain>[^ \t"'])""",
    re.VERBOSE,
)


def _argv_split(text):
    """argv_split(): arguments with quotes and escapes resolved, up to a comment."""
    arguments, position = [], 0
    while True:
        position += len(text[position:]) - len(text[position:].lstrip(" \t"))
        if position == len(text) or text[position] == "#":
            return arguments
        argument = ""
        while position < len(text) and text[position] not in " \t":
            piece = _PIECE.match(text, position)
            if not piece:
                raise ValueError("a quote is not closed")
            quoted = piece["double"] if piece["double"] is not None else piece["single"]
            if quoted is not None:
                argument += re.sub(r"""\\(['"\\])""", r"\1", quoted)
            else:
                argument += piece["escaped"] or piece["plain"]
            position = piece.end()
        arguments.append(argument)


def _split(text):
    """``(keyword, the rest as text)`` of a line, or None where there is no keyword."""
    text = text.lstrip(" \t\r")  # load_server_config()
    text = text[:1] + text[1:].rstrip(_SPACE + "\f")
    if not text or text in _SPACE:
        return None
    keyword, rest = _strdelim(text)
    if not keyword and rest is not None:
        keyword, rest = _strdelim(rest)
    if not keyword or keyword.startswith("#"):
        return None
    if not rest:
        raise ValueError(f"{keyword} needs a value")
    return keyword, rest


def _parse(text, release):
    """``(keyword, arguments, criteria)`` of a line, or None where there is no keyword."""
    found = _split(text)
    if found is None:
        return None
    keyword, rest = found
    arguments = _argv_split(rest)
    if _canonical(keyword) == "match":
        criteria = tuple(_criteria(rest, release))
        return keyword, tuple(filter(None, (word for pair in criteria for word in pair))), criteria
    return keyword, (rest,) if _canonical(keyword) in _WHOLE_LINE else tuple(arguments), ()


def _criteria(text, release):
    """The ``(criterion, patterns)`` of a Match line; ``all`` and ``invalid-user`` have none."""
    words = _match_words(text, release)
    criteria = []
    for word in words:
        if word.lower() == "all" or (word.lower() == "invalid-user" and release >= (9, 9)):
            criteria.append((word.lower(), None))
            continue
        name, equals, patterns = word.partition("=")
        patterns = patterns if equals else next(words, None)
        if not patterns or patterns.startswith("#"):
            raise ValueError(f"Match {name} needs a pattern")
        criteria.append((name.lower(), _checked(name, patterns, release)))
    if not criteria:
        raise ValueError("Match needs a criterion, such as User, Group, Address or all")
    if len(criteria) > 1 and ("all", None) in criteria:
        raise ValueError("Match all stands alone")
    return criteria


def _checked(criterion, patterns, release):
    """The patterns of a condition, unless sshd refuses them."""
    known = ["user", "group", "host", "address", "localaddress", "localport", "rdomain"]
    known += ["version"] if release >= (10, 0) else []
    if criterion.lower() not in known:
        raise ValueError(f"Match {criterion}: this sshd knows {', '.join(known)} and all")
    try:
        if criterion.lower().endswith("address"):
            _address_list(None, patterns)
        elif criterion.lower() == "localport":
            _port(patterns)
    except (OSError, ValueError) as err:
        raise ValueError(f"Match {criterion} {patterns}: {err}") from None
    return patterns


def _match_words(text, release):
    if release >= (9, 9):
        yield from _argv_split(text)
        return
    while text:  # match_cfg_line() used strdelim(), to which a single quote is nothing special
        word, text = _strdelim(text)
        if not word or word.startswith("#"):
            return
        yield word


# ---- The core: files and Include -------------------------------------------------------------


class _Files:
    """The files of the host below an overlay."""

    def __init__(self, overlay=None):
        if not isinstance(overlay or {}, dict) or not all(
            isinstance(path, str) and isinstance(text, (str, type(None)))
            for path, text in (overlay or {}).items()
        ):
            raise SaltInvocationError("files: expected {absolute path: text, or None}")
        for path in overlay or {}:
            if not os.path.isabs(path):
                raise SaltInvocationError(f"files: {path}: expected an absolute path")
        self.overlay = {os.path.normpath(path): text for path, text in (overlay or {}).items()}

    def text(self, path):
        """The text of a file; a folder is empty, as for sshd."""
        text = self.overlay.get(path)
        if text is not None:
            return text
        if path in self.overlay:
            raise CommandExecutionError(f"{path}: the file is to be removed")
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as source:
                return source.read()
        except IsADirectoryError:
            return ""
        except OSError as err:
            raise CommandExecutionError(f"{path}: {err.strerror}") from None

    def exists(self, path):
        if path in self.overlay:
            return self.overlay[path] is not None
        return os.path.lexists(path) or any(
            text is not None and name.startswith(f"{path}/") for name, text in self.overlay.items()
        )

    def names(self, folder):
        """Names in a folder."""
        try:
            found = set(os.listdir(folder or "/"))
        except OSError:
            found = set()
        inside = [name for name in self.overlay if name.startswith(f"{folder}/")]
        found |= {name[len(folder) + 1 :].split("/")[0] for name in inside}
        return [name for name in found if self.exists(f"{folder}/{name}")]

    def glob(self, pattern):
        """The files that an argument of Include names, in sshd's order: by bytes, per argument."""
        if pattern.startswith("~"):
            return []  # sshd's glob(3) is asked without GLOB_TILDE
        if not pattern.startswith("/"):
            pattern = f"{_SSHDIR}/{pattern}"
        paths = [""]
        for part in filter(None, pattern.split("/")):
            if not re.search(r"[*?[]", part):
                name = re.sub(r"\\(.)", r"\1", part)
                paths = [f"{path}/{name}" for path in paths]
                continue
            wanted = re.compile(_glob_expression(part), re.DOTALL)
            paths = [
                f"{path}/{name}"
                for path in paths
                for name in self.names(path)
                if wanted.fullmatch(name) and (name[0] != "." or part[0] == ".")
            ]
        return sorted(filter(self.exists, map(os.path.normpath, paths)), key=os.fsencode)


def _glob_expression(part):
    """A regular expression for what a pattern of glob(3) names in one folder."""
    expression, position = "", 0
    special = re.compile(r"\*+|\?|\\.|\[(!?)([^/]+?)\]|.", re.DOTALL)
    while position < len(part):
        piece = special.match(part, position)
        text = piece[0]
        if text.startswith("*"):
            expression += ".*"
        elif text == "?":
            expression += "."
        elif text.startswith("[") and len(text) > 1:
            inside = re.sub(r"([\\\[\]^&|~])", r"\\\1", piece[2])
            expression += f"[{'^' if piece[1] else ''}{inside}]"
        else:
            expression += re.escape(text[-1])
        position = piece.end()
    return expression


def _lines(path, files, release, outer=(), depth=0):
    """
    Every line with a keyword, in the order in which sshd reads them.

    A Match block ends with its file. What an included file says holds where all the conditions
    hold: those of its own Match and those around the Include (SSHCFG_NEVERMATCH in servconf.c).
    """
    if depth > _MOST_INCLUDES:
        raise CommandExecutionError(f"{path}: files include each other more than 16 deep")
    match = outer
    for number, text in enumerate(files.text(path).split("\n"), 1):
        try:
            if "\0" in text:  # load_server_config() would join what is before it to the next line
                raise ValueError("a NUL byte, at which sshd cuts the line off")
            found = _parse(text, release)
            if found is None:
                continue
            keyword, arguments, criteria = found
        except ValueError as err:
            raise _BadLineError(path, number, str(err)) from None
        match = (*outer, *criteria) if criteria else match
        included = ()
        if _canonical(keyword) == "include":
            included = tuple(found for pattern in arguments for found in files.glob(pattern))
        yield _Line(path, number, text, keyword, arguments, match, included)
        for inner in included:
            yield from _lines(inner, files, release, match, depth + 1)


# ---- The core: conditions of Match -----------------------------------------------------------


def _pattern(text, pattern):
    """match_pattern(): ``*`` and ``?``."""
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(re.sub(r"(\.\*)+", ".*", expression), text, re.DOTALL) is not None


def _pattern_list(text, patterns):
    """match_pattern_list(): 1 for a match, 0 for none, -1 for a match of a negated pattern."""
    found = 0
    for pattern in patterns.removesuffix(",").split(","):
        if _pattern(text, pattern.removeprefix("!")):
            if pattern.startswith("!"):
                return -1
            found = 1
    return found


def _ip(text):
    """A numeric address in any form that getaddrinfo(3) takes, or None."""
    try:
        found = socket.getaddrinfo(text, None, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return ipaddress.ip_address(found[0][4][0].partition("%")[0])


def _network(text):
    """addr_pton_cidr(): a network, None where it is none; ValueError for a mask that cannot be."""
    address, slash, length = text.partition("/")
    ip = _ip(address)
    if ip is None or (slash and not re.fullmatch("[0-9]+", length)):
        return None
    return ipaddress.ip_network((ip, int(length) if slash else ip.max_prefixlen))


def _address_list(address, patterns):
    """addr_match_list(): as _pattern_list(); ValueError for what sshd refuses."""
    ip = _ip(address) if address else None
    found = 0
    for pattern in patterns.split(","):
        plain = pattern.removeprefix("!")
        if not plain:
            raise ValueError("an empty pattern")
        network = _network(plain)
        if ip is None:
            continue
        if ip in network if network else _pattern(address, plain):
            if pattern.startswith("!"):
                return -1
            found = 1
    return found


def _in_group(user, patterns):
    """match_cfg_line_group(), with the groups that the name service tells."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return False
    answers = []
    for gid in os.getgrouplist(user, account.pw_gid):
        try:
            answers.append(_pattern_list(grp.getgrgid(gid).gr_name, patterns))
        except KeyError:
            continue
    return 1 in answers and -1 not in answers


def _port(text):
    """a2port(): a number, or a service's name."""
    return int(text) if text.isdecimal() else socket.getservbyname(text, "tcp")


def _holds(criterion, patterns, who, version):
    """Whether one condition of a Match line holds for a connection; ``{}``: for none."""
    if criterion == "all":
        return True
    if criterion == "version":
        return _pattern_list(version, patterns) == 1
    if criterion == "invalid-user":
        return bool(who.get("invalid_user"))
    asked = {"localaddress": "laddress", "localport": "lport", "group": "user"}
    value = who.get(asked.get(criterion, criterion))
    if value is None:
        return False
    tests = {
        "user": lambda: _pattern_list(value, patterns) == 1,
        "group": lambda: _in_group(value, patterns),
        "host": lambda: _pattern_list(value.lower(), patterns.lower()) == 1,
        "address": lambda: _address_list(value, patterns) == 1,
        "localaddress": lambda: _address_list(value, patterns) == 1,
        "localport": lambda: int(value) == _port(patterns),
        "rdomain": lambda: _pattern_list(value, patterns) == 1,
    }
    return criterion in tests and tests[criterion]()


# ---- The core: which lines decide ------------------------------------------------------------


def _settings(line):
    """
    What a line sets: ``(part, [value, …])``. Keywords whose lines set several things, each of
    which is decided for itself, have parts.
    """
    name, arguments = line.name, line.arguments
    if name in ("match", "include") or name in _WITHOUT_EFFECT or not arguments:
        return []
    if name == "rekeylimit":
        interval = [("interval", [value]) for value in arguments[1:2] if value != "none"]
        return [("size", [arguments[0]]), *interval]
    if name == "persourcepenalties":
        return [(re.split("[:]", value)[0], [value]) for value in arguments]
    if name == "subsystem":
        return [(arguments[0], [" ".join(arguments)])]
    if name == "setenv":
        first = {}
        for value in arguments:
            first.setdefault(value.partition("=")[0], value)
        return [("", list(first.values()))]
    if name in _ADDS_UP and name != "listenaddress":
        return [("", list(arguments))]
    return [("", [" ".join(arguments)])]


def _only_global(release):
    """Keywords that are refused in a Match block."""
    return _GLOBAL | ({"subsystem"} if release < (9, 5) else set())


def _last_wins(release):
    return _LAST_WINS | ({"persourcemaxstartups"} if release < (9, 5) else set())


def _decide(lines, release):
    """``{(keyword, part): [(line, value), …]}`` of what is set by lines that are in force."""
    last_wins = _last_wins(release)
    decided = {}
    for line in lines:
        for part, values in _settings(line):
            key = (line.name, part)
            new = [(line, value) for value in values]
            if line.name in _ADDS_UP:
                decided.setdefault(key, []).extend(new)
            elif key not in decided or line.name in last_wins or _resets(line):
                decided[key] = new
    penalties = [key for key in decided if key[0] == "persourcepenalties"]
    if any(part not in ("no", "yes") for _, part in penalties):  # any of them switches it on
        decided.pop(("persourcepenalties", "no"), None)
    return decided


def _resets(line):
    """UnusedConnectionTimeout none is assigned whatever came before."""
    return line.name == "unusedconnectiontimeout" and line.arguments[0].lower() == "none"


def _evaluate(lines, who, version):
    """
    The lines in force for a connection, ``{keyword: [(line, value), …]}``.

    sshd reads everything twice: once for what stands outside of Match blocks (and in those that
    hold for every connection), and per connection for what stands in blocks that match, which
    then replaces the former, also where keywords add up (copy_set_server_options()).
    """
    release = _release_of(version)

    def holding(connection):
        return [
            line
            for line in lines
            if all(_holds(*criterion, connection, version) for criterion in line.match)
        ]

    decided = _decide(holding({}), release)
    only_global = _only_global(release)
    inside = [line for line in holding(who) if line.match and line.name not in only_global]
    for (name, part), values in _decide(inside, release).items():
        if part and name == "subsystem":
            decided = {key: value for key, value in decided.items() if key[0] != name}
        decided[name, part] = values
    found = {}
    for (name, _), values in decided.items():
        found.setdefault(name, []).extend(values)
    return found


def _release_of(version):
    """``(9, 2)`` of ``OpenSSH_9.2p1 Debian-2``."""
    major, minor = re.match(r"OpenSSH_(\d+)\.(\d+)", version).groups()
    return int(major), int(minor)


# ---- The core: what sshd takes, and does not mean what it says ---------------------------------


@dataclass(frozen=True)
class _Host:
    """What lint has to know of a host beside the files."""

    version: str
    known: frozenset  # keywords that this sshd knows
    socket: bool = False  # systemd listens in its place
    is_user: object = lambda name: True
    is_group: object = lambda name: True

    @property
    def release(self):
        return _release_of(self.version)


#: error: somebody is let in or refused who should not be, or sshd refuses the files
_SEVERITIES = {
    "any-refuses": "error",
    "global-in-match": "error",
    "one-factor": "error",
    "refused": "error",
    "shut-out": "error",
    "subsystem-crash": "error",
    "unknown-keyword": "error",
    "unsatisfiable": "error",
    "forwarding-open": "warning",
    "method-off": "warning",
    "never-holds": "warning",
    "never-met": "warning",
    "not-read": "warning",
    "shadowed": "warning",
    "socket": "warning",
    "swallowed": "warning",
    "unknown-group": "warning",
    "unknown-user": "warning",
    "obsolete": "info",
}


def _finding(line, code, message, mend):
    return _finding_at(line.file, line.number, code, message, mend)


def _finding_at(file, number, code, message, mend):
    return {
        "file": file,
        "line": number,
        "severity": _SEVERITIES[code],
        "code": code,
        "message": message,
        "mend": mend,
    }


def _conditions(match):
    """As sshd_config(5) writes them: ``User sean LocalPort 22``."""
    spelled = {"localaddress": "LocalAddress", "localport": "LocalPort", "rdomain": "RDomain"}
    return " ".join(
        f"{spelled.get(name, name.capitalize())} {_quoted(patterns)}" if patterns else name
        for name, patterns in match
    )


def _quoted(patterns):
    return f'"{patterns}"' if " " in patterns or "\t" in patterns else patterns


def _blocks(lines, release):
    """
    ``(conditions, {keyword: [(line, value), …]})`` of the global part and of each Match block: what
    is in force for a connection for which these conditions hold, and no others.
    """
    for match in dict.fromkeys([(), *(line.match for line in lines)]):
        inside = [line for line in lines if line.match and set(line.match) <= set(match)]
        outside = [line for line in lines if not line.match]
        decided = {**_decide(outside, release), **_decide(inside, release)}
        yield match, {name: values for (name, _), values in decided.items()}


def _words_of(block, name, default):
    return block[name][0][1].split() if name in block else [default]


def _says(block, name, default):
    return _words_of(block, name, default)[0].lower()


def _lint_keywords(lines, host):
    """Keywords that this sshd does not know, that do nothing, or that may not stand there."""
    only_global = _only_global(host.release)
    for line in lines:
        if line.name in _WITHOUT_EFFECT:
            message = f"{line.keyword} has had no effect for years"
            yield _finding(line, "obsolete", message, "take the line away")
        elif line.name not in host.known:
            message = (
                f"{line.keyword}: {host.version} does not know this keyword and will not start"
            )
            yield _finding(line, "unknown-keyword", message, "correct it, or take the line away")
        elif line.name in only_global and line.match:
            message = (
                f"{line.keyword} is not allowed in a Match block, and this one"
                f" ({_conditions(line.match)}) goes on to the end of its file; sshd will not start"
            )
            yield _finding(line, "global-in-match", message, "move it above the first Match")


def _lint_shadowed(lines, host):
    """Settings that another line beats: sshd takes the first."""
    for line, winner in _losing(lines, None, host.release):
        alias = "" if line.keyword.lower() == winner.keyword.lower() else f", as {winner.keyword}"
        yield _finding(
            line,
            "shadowed",
            f"{line.keyword} has no effect: {winner.file}:{winner.number} decides it{alias}",
            "take one of the two away; in a drop-in, choose a name that sorts before",
        )


def _lint_swallowed(lines, host):
    """Lines that look global and stand in a Match block, which goes on to the end of the file."""
    indented = {}  # of the block in each file: whether its first line is
    for line in lines:
        moved_in = line.text[:1] in " \t"
        if line.name == "match":
            indented[line.file] = None
        elif line.match and indented.get(line.file) is None and line.file in indented:
            indented[line.file] = moved_in
        elif line.name in _only_global(host.release):
            continue  # refused there, and said so
        elif line.match and indented.get(line.file) and not moved_in:
            yield _finding(
                line,
                "swallowed",
                f"{line.keyword} belongs to the Match block above ({_conditions(line.match)}),"
                " whatever its indentation says: for others it is not set",
                "move it above the first Match, or write Match all above it",
            )


def _lint_conditions(lines, host):
    """Match blocks that hold for nobody."""
    exists = {"user": host.is_user, "group": host.is_group}
    for line in (line for line in lines if line.name == "match"):
        for name, patterns in line.match:
            if patterns is None:
                continue
            condition = f"Match {_conditions([(name, patterns)])}"
            positive = [each for each in patterns.split(",") if not each.startswith("!")]
            if name not in ("localport", "version") and not positive:
                message = (
                    f"Match {name} {patterns} holds for nobody: there is only what is excluded"
                )
                yield _finding(line, "never-holds", message, f"write Match {name} *,{patterns}")
            if (
                name in exists
                and positive
                and not any(re.search("[*?]", each) or exists[name](each) for each in positive)
            ):
                message = f"{condition} holds for nobody: there is no such {name}"
                mend = f"correct the name, or create the {name} first"
                yield _finding(line, f"unknown-{name}", message, mend)


_SWITCHES = {
    "gssapi-with-mic": ("gssapiauthentication", "no"),
    "hostbased": ("hostbasedauthentication", "no"),
    "keyboard-interactive": ("kbdinteractiveauthentication", "yes"),
    "password": ("passwordauthentication", "yes"),
    "publickey": ("pubkeyauthentication", "yes"),
}


def _switched_off(block, methods):
    """What keeps a list of methods from ever being completed, as ``KEYWORD VALUE``."""
    for method in methods.split(","):
        name, _, device = method.partition(":")
        keyword, default = _SWITCHES.get(name, ("", "yes"))
        if _says(block, keyword, default) == "no":
            return f"{keyword} no"
        # auth2_pam is the only device of keyboard-interactive that Linux has
        pam = device == "pam" or name == "keyboard-interactive"
        if pam and _says(block, "usepam", "no") == "no":
            return "usepam no"
    return None


def _lint_methods(lines, host):
    """AuthenticationMethods that ask for less, or for more, than they seem to."""
    told = set()
    for match, block in _blocks(lines, host.release):
        if "authenticationmethods" not in block:
            continue
        line, value = block["authenticationmethods"][0]
        lists = value.split()
        where = f" in Match {_conditions(match)}" if match else ""
        if len(lists) > 1 and any("," not in each for each in lists) and line.match == match:
            alone = " or ".join(each for each in lists if "," not in each)
            message = f"a space means or: {alone} alone lets in"
            yield _finding(line, "one-factor", message, f"write {','.join(lists)}, with a comma")
        off = [None if each == "any" else _switched_off(block, each) for each in lists]
        if (line, *off) in told:
            continue  # as in the global part, which was first
        told.add((line, *off))
        if all(off):
            message = f"nobody can log in{where}: {value} needs what {off[0]} switches off"
            mend = f"write {off[0].removesuffix('no')}yes there, or other methods"
            yield _finding(line, "unsatisfiable", message, mend)
        elif any(off):
            each, why = next(pair for pair in zip(lists, off, strict=True) if pair[1])
            message = f"{each} cannot be completed{where}: {why}"
            yield _finding(line, "method-off", message, "take that list away")


def _lint_crashes(lines, host):
    """What makes sshd end a connection of its own accord (both tried)."""
    if host.release < (9, 7):
        asked = [line for line in lines if line.name == "authenticationmethods" and line.match]
        for line in asked:
            if line.arguments[:1] == ("any",) and line is not asked[0]:
                yield _finding(
                    line,
                    "any-refuses",
                    f"sshd before 9.7 ends the connections to which {asked[0].file}:"
                    f"{asked[0].number} applies, since it sees any after another list",
                    "write the methods themselves for any",
                )
    if host.release >= (9, 5):
        outside = {part for line in lines if not line.match for part, _ in _subsystems(line)}
        for line in lines:
            if line.match and _subsystems(line) and not outside:
                yield _finding(
                    line,
                    "subsystem-crash",
                    "sshd crashes for those to whom the block applies, since there is no Subsystem"
                    " outside of Match blocks",
                    "write a Subsystem above the first Match, too",
                )


def _subsystems(line):
    return _settings(line) if line.name == "subsystem" else []


#: What DisableForwarding closes, and what else closes it (session.c, serverloop.c)
_FORWARDING = {
    "TCP": lambda block: (
        _says(block, "allowtcpforwarding", "yes") != "no"
        and ("permitopen" not in block or "permitlisten" not in block)
    ),
    "sockets": lambda block: _says(block, "allowstreamlocalforwarding", "yes") != "no",
    "the agent": lambda block: _says(block, "allowagentforwarding", "yes") != "no",
    "X11": lambda block: _says(block, "x11forwarding", "no") != "no",
    "tunnels": lambda block: _says(block, "permittunnel", "no") != "no",
}


def _lint_forwarding(lines, host):
    """A forced command stops commands, not what goes through the connection."""
    for match, block in _blocks(lines, host.release):
        forced = block.get("forcecommand", [(None, "none")])[0]
        if forced[1].lower() == "none" or forced[0].match != match:
            continue
        if _says(block, "disableforwarding", "no") == "yes":
            continue
        open_ = [name for name, is_open in _FORWARDING.items() if is_open(block)]
        if open_:
            message = f"whoever is forced to this command can still forward {', '.join(open_)}"
            mend = "add DisableForwarding yes, or PermitOpen and PermitListen with what is wanted"
            yield _finding(forced[0], "forwarding-open", message, mend)


def _lint_places(lines, host):
    """PermitOpen and PermitListen take a name literally, or ``*`` for all."""
    for line in lines:
        for place in line.arguments if line.name in ("permitopen", "permitlisten") else ():
            name = place.rpartition(":")[0]
            if name != "*" and re.search("[*?]", name):
                message = f"{line.keyword} {place} is never met: {name} is taken literally"
                yield _finding(line, "never-met", message, "name each host, or write * for all")


def _lint_socket(lines, host):
    """systemd listens where its socket unit says."""
    for line in lines:
        if host.socket and line.name in ("port", "listenaddress", "addressfamily"):
            message = f"{line.keyword} has no effect: systemd listens in sshd's place"
            mend = "set ListenStream= of the socket unit, or disable it for ssh.service"
            yield _finding(line, "socket", message, mend)


def _shut_out(user, who, decided):
    """The line that refuses a user, in the order of allowed_user() in auth.c, or None."""
    account = {"host": who.get("host"), "address": who.get("address")}

    def named(values):
        return next((line for line, value in values if _user_matches(user, value, account)), None)

    def grouped(values):
        return next((line for line, value in values if _in_group(user, value)), None)

    for name, test in (("users", named), ("groups", grouped)):
        denied = test(decided.get(f"deny{name}", []))
        if denied:
            return denied
        allowed = decided.get(f"allow{name}")
        if allowed and not test(allowed):
            return allowed[0][0]
    return None


def _user_matches(user, pattern, who):
    """match_user()."""
    name, at, place = pattern.rpartition("@")
    if not at:
        return _pattern(user, pattern)
    if not _pattern(user, name) or not who["address"]:
        return False
    address, host = _address_list(who["address"], place), who["host"] or who["address"]
    named = _pattern_list(host.lower(), place.lower())
    return -1 not in (address, named) and 1 in (address, named)


def _lint_people(lines, host, people, who):
    """Those who are to get in, and do not."""
    for user in people:
        decided = _evaluate(lines, {**who, "user": user}, host.version)
        line = _shut_out(user, who, decided)
        if line:
            message = f"{user} is shut out by {line.keyword}"
            mend = "add the user or one of their groups" if "allow" in line.name else "name others"
            yield _finding(line, "shut-out", message, mend)


_LINTS = (
    _lint_keywords,
    _lint_shadowed,
    _lint_swallowed,
    _lint_conditions,
    _lint_methods,
    _lint_crashes,
    _lint_forwarding,
    _lint_places,
    _lint_socket,
)


def _lint(config, files, host, people=(), who=None):
    """Findings, in the order of the lines."""
    try:
        lines = list(_lines(config, files, host.release))
    except _BadLineError as err:
        mend = "correct the line: sshd will not start with it"
        return [_finding_at(*err.place, "refused", err.message, mend)]
    found = [finding for rule in _LINTS for finding in rule(lines, host)]
    found += _lint_people(lines, host, people, who or {})
    read = {line.file: at for at, line in reversed(list(enumerate(lines)))}
    found += _lint_not_read(config, files, set(read).union(*(line.included for line in lines)))
    unique = {tuple(finding.values()): finding for finding in found}
    return sorted(unique.values(), key=lambda each: (read.get(each["file"], -1), each["line"]))


def _lint_not_read(config, files, read):
    """Files that lie where drop-ins lie, and that no Include names."""
    for path in files.glob(f"{config}.d/*.conf"):
        if path not in read:
            message = f"no Include names this file: {config} has none for {config}.d"
            mend = f"write Include {config}.d/*.conf above the first keyword of {config}"
            yield _finding_at(path, 1, "not-read", message, mend)


# ---- The core: changes -----------------------------------------------------------------------

_MARK = "# The next line lets {} count; both go with it."
_MOVED = "# Moved up to let {} count: "


def _pieces(text):
    """Lines with their ends."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _first(text, release):
    """Index of the first line with a keyword; where there is none, of the end."""
    pieces = _pieces(text)
    return next((at for at, piece in enumerate(pieces) if _parse(piece, release)), len(pieces))


def _with_lines(text, at, new):
    """A text with lines put before the line of an index, ended as its own are."""
    pieces = _pieces(text)
    end = "\r\n" if pieces and pieces[0].endswith("\r\n") else "\n"
    if at == len(pieces) and pieces and not pieces[-1].endswith("\n"):
        return text + "".join(f"{end}{line}" for line in new)
    return "".join([*pieces[:at], *(f"{line}{end}" for line in new), *pieces[at:]])


def _losing(lines, path, release):
    """
    ``[(line, line that decides instead), …]`` among lines under the same conditions; with a path,
    of that file's lines and against other files' only.
    """
    last_wins = _last_wins(release)
    winners, others = {}, []
    for line in lines:
        for part, values in _settings(line):
            if line.name in _ADDS_UP:
                continue
            key = (line.match, line.name, part)
            if key not in winners or line.name in last_wins:
                winners[key] = (line, values)
            others.append((key, line, values))
    return [
        (line, winners[key][0])
        for key, line, values in others
        if winners[key][1] != values
        and (path is None or (line.file == path and winners[key][0].file != path))
    ]


def _refuse_losing(lines, path, release, names=None):
    """Refuse lines of a file that another file's beat; with names, of these keywords only."""
    for line, winner in _losing(lines, path, release):
        if names is None or line.name in names:
            raise CommandExecutionError(
                f"{path}:{line.number}: {line.keyword} has no effect: {winner.file}:{winner.number}"
                f" ({winner.text.strip()}) is read before it. Take that line away, or use a"
                " drop-in with a name that sorts before"
            )


def _counting(lines, without, release):
    """Lines that are not beaten, and under which conditions, but for those of some files."""
    dead = {line for line, _ in _losing(lines, None, release)}
    return {
        (line.file, line.number, line.text.strip(), line.match)
        for line in lines
        if _settings(line) and line not in dead and line.file not in without
    }


def _plan_present(path, text, config, overlay, release):
    """The overlay's new texts so that a drop-in is read, outside of Match, before what beats it."""
    files = _Files({**overlay, path: text})
    main = files.text(config)

    def read():
        return list(_lines(config, files, release))

    before = read()
    ways = [line for line in before if path in line.included]
    if not ways:
        new = [_MARK.format(path), f"Include {path}"]
        main = _with_lines(main, _first(main, release), new)
    elif ways[0].file == config and (ways[0].match or _losing(before, path, release)):
        pieces = _pieces(main)
        moved = pieces[ways[0].number - 1]
        pieces[ways[0].number - 1] = _MOVED.format(path) + moved
        rest = "".join(pieces)
        main = _with_lines(rest, _first(rest, release), [_MARK.format(path), moved.strip()])
    files.overlay[config] = main
    after = read()
    if all(line.match for line in after if path in line.included):
        raise CommandExecutionError(
            f"{path}: {ways[0].file}:{ways[0].number} includes it inside a Match block; move that"
            " Include above the Match"
        )
    _refuse_losing(after, path, release)
    known = (path, config)
    woken = _counting(after, known, release) - _counting(before, known, release)
    for revived in sorted(woken, key=lambda line: line[:2]):
        raise CommandExecutionError(
            f"{path} counts only when {ways[0].file}:{ways[0].number} ({ways[0].text.strip()}) goes"
            f" above the first keyword, and then {revived[0]}:{revived[1]} ({revived[2]}) would"
            " begin to hold. Take that line away, or move the Include yourself"
        )
    return main


def _plan_absent(path, config, overlay, release):
    """
    The main file without our Include for a drop-in; one that we moved is where it was.

    Somebody may have edited the file since: only what is ours goes, wherever it stands.
    """
    main, mark, moved = _Files(overlay).text(config), _MARK.format(path), _MOVED.format(path)
    pieces = _pieces(main)
    marks = [at for at, piece in enumerate(pieces) if piece.strip() == mark]
    ours = {piece.removeprefix(moved).strip() for piece in pieces if piece.startswith(moved)}
    ours = [at for at, piece in enumerate(pieces) if piece.strip() in ours | {f"Include {path}"}]
    gone = {*marks, *([at for at in ours if at - 1 in marks] or ours[:1] if marks else [])}
    if ours and not marks:  # somebody took the mark away: the Include is theirs now
        gone = {at for at, piece in enumerate(pieces) if piece.startswith(moved)}
    rest = "".join(piece.removeprefix(moved) for at, piece in enumerate(pieces) if at not in gone)
    if len(pieces) - 1 in gone and not main.endswith("\n"):
        rest = re.sub(r"\r?\n\Z", "", rest)

    def counting(text):
        files = _Files({**overlay, config: text, path: None})
        return _counting(list(_lines(config, files, release)), [config], release)

    # A drop-in that came later may count by that Include only: then the marks become its own
    heirs = counting(main) - counting(rest) if rest != main else ()
    for heir, *_ in sorted(heirs):
        return main.replace(mark, _MARK.format(heir)).replace(moved, _MOVED.format(heir))
    return rest


def _is_word(value):
    return isinstance(value, (str, int, float)) and bool(str(value).strip())


def _wanted_lines(keyword, value):
    """The lines of a keyword; ``None`` for none. A list is one line a value where they add up."""
    if value is None:
        return []
    given = value if isinstance(value, (list, tuple)) else [value]
    named = isinstance(keyword, str) and re.fullmatch("[A-Za-z0-9]+", keyword)
    if not named or not given or not all(map(_is_word, given)):
        raise SaltInvocationError(f"{keyword}: {value}: expected a keyword, and what it is to be")
    if keyword.lower() in ("include", "match"):
        raise SaltInvocationError(
            f"{keyword}: {value}: no option; Match is the argument match, Include the state drop_in"
        )
    words = [
        {"True": "yes", "False": "no"}[str(each)] if isinstance(each, bool) else str(each)
        for each in given
    ]
    if any(re.search(r"[\n\r\0]", word) for word in words):
        raise SaltInvocationError(f"{keyword}: a value cannot contain a line break")
    if _canonical(keyword) not in _ADDS_UP | {"subsystem"}:
        words = [" ".join(words)]
    return [f"{keyword} {word}" for word in words]


def _set(path, text, keyword, wanted, match, release, on_top=False):
    """
    A text in which a keyword has just the wanted lines, in the global part or in the Match block
    of the given conditions: changed in place, else put where they win in their file.
    """
    own = _own(path, text, release)
    if match and match not in [line.match for line in own]:
        end = "" if not text or text.endswith("\n") else "\n"
        block = "".join(f"    {line}\n" for line in wanted)
        return f"{text}{end}Match {_conditions(match)}\n{block}" if wanted else text
    there = [line for line in own if line.match == match]
    old = [line for line in there if line.name == _canonical(keyword)]
    new = _own("/options", "\n".join(wanted), release)
    same = [(each.name, each.arguments) for each in old] == [
        (each.name, each.arguments) for each in new
    ]
    if same and not (on_top and old):
        return text
    pieces = _pieces(text)
    for line in reversed(old):
        pieces.pop(line.number - 1)
    if old and not on_top:
        at, model = old[0].number - 1, old[0].text
    elif match:
        at, model = there[-1].number, there[-1].text if len(there) > 1 else "    "
    else:
        at, model = _first("".join(pieces), release), ""
    indentation = re.match(r"[ \t]*", model)[0]
    return _with_lines("".join(pieces), at, [f"{indentation}{line}" for line in wanted])


def _own(path, text, release):
    """The lines of one text, no Include followed."""
    return list(_lines(path, _OneFile({path: text}), release))


class _OneFile(_Files):
    def glob(self, pattern):
        return []


# ---- The shell: ask the host -----------------------------------------------------------------


def _program():
    found = salt.utils.path.which("sshd") or "/usr/sbin/sshd"
    if not os.path.exists(found):
        raise CommandExecutionError("there is no sshd here; install the SSH server")
    return found


def _version():
    """``OpenSSH_9.2p1 Debian-2``."""
    program = _program()
    return _version_of(program, os.stat(program).st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _version_of(program, _modified):
    # Before 9.3 -V is an unknown option, and the usage names the version
    answer = subprocess.run([program, "-V"], capture_output=True, text=True, check=False)
    found = re.search(r"OpenSSH_\d+\.\d+[^,\n]*", answer.stderr)
    if not found:
        raise CommandExecutionError(f"{program} is not OpenSSH's sshd")
    return found[0]


def _sshd(arguments):
    """What sshd prints; a CommandExecutionError in its own words where it refuses."""
    for _ in range(2):
        answer = subprocess.run(
            [_program(), *arguments], capture_output=True, text=True, errors="replace", check=False
        )
        missing = re.search(r"Missing privilege separation directory: (\S+)", answer.stderr)
        if not missing:
            break
        os.makedirs(missing[1], 0o755, exist_ok=True)  # RuntimeDirectory= of a stopped ssh.service
    if answer.returncode < 0:
        raise CommandExecutionError(f"sshd crashed, by signal {-answer.returncode}")
    if answer.returncode:
        raise CommandExecutionError(answer.stderr.replace("\r", "").strip())
    return answer.stdout


def _stage(folder, config, files):
    """
    Copy the files that sshd would read, with every Include naming the copies of what it includes.
    Returns the real names; a copy is called as the index of its name.
    """
    release, names = _release_of(_version()), []

    def copy(path):
        if path in names:
            return
        names.append(path)
        lines = files.text(path).split("\n")
        for at, line in enumerate(lines):
            try:
                found = _parse(line, release)
            except ValueError:
                continue  # sshd will say it
            # An empty argument stays, for sshd to refuse it
            if found and _canonical(found[0]) == "include" and all(found[1]):
                included = [name for pattern in found[1] for name in files.glob(pattern)]
                for name in included:
                    copy(name)
                copies = [f"{folder}/{names.index(name)}" for name in included]
                lines[at] = " ".join(["Include", *copies]) if copies else ""
        with open(
            f"{folder}/{names.index(path)}",
            "w",
            encoding="utf-8",
            errors="surrogateescape",
            newline="",
        ) as target:
            target.write("\n".join(lines))

    copy(config)
    return names


def _ask(options, config, files):
    """Have sshd read a configuration, with an overlay as it would be on the disk."""
    if not files:
        return _sshd([*options, "-f", config])
    with tempfile.TemporaryDirectory(prefix="sshd_config-") as folder:  # mode 0700
        names = _stage(folder, config, _Files(files))
        try:
            return _sshd([*options, "-f", f"{folder}/0"])
        except CommandExecutionError as err:
            copies = rf"{re.escape(folder)}/(\d+)"
            words = re.sub(copies, lambda found: names[int(found[1])], str(err))
            raise CommandExecutionError(words) from None


def _tree(config, files):
    """All lines of a configuration, and the version of sshd."""
    version = _version()
    try:
        return list(_lines(config, _Files(files), _release_of(version))), version
    except _BadLineError as err:
        raise CommandExecutionError(f"{err}; sshd refuses the file") from None


def _readable(config, files):
    """The lines above the first that sshd cannot read."""
    try:
        yield from _lines(config, _Files(files), _release_of(_version()))
    except _BadLineError:
        return


def _who(connection):
    """The connection that a caller describes."""
    who = {
        key: value for key, value in clean_kwargs(**connection).items() if value not in (None, "")
    }
    for key, value in who.items():
        if key not in _CONNECTION:
            raise SaltInvocationError(f"{key}: expected one of {', '.join(_CONNECTION)}")
        if "," in str(value) or not isinstance(value, (str, int)):
            raise SaltInvocationError(f"{key}: {value}: expected one value, without a comma")
    try:
        who.update({key: _port(str(who[key])) for key in who if key == "lport"})
    except OSError:
        raise SaltInvocationError(f"lport: {who['lport']}: expected a port") from None
    return {key: value if key == "invalid_user" else str(value) for key, value in who.items()}


# ---- Functions -------------------------------------------------------------------------------


def read(config=CONFIG, files=None):
    """
    Return every line with a keyword, in the order in which sshd reads them, Includes followed.

    config
        The main file. Default: ``/etc/ssh/sshd_config``

    files
        Overlay of texts that are not on the disk yet: ``{absolute path: text, or None}``

    Each is ``{"file", "line", "keyword", "name", "arguments", "match"}``: the keyword as written
    and as ``sshd -T`` prints it (in lower case, of two names the one in use), the arguments without
    quotes, ``match`` the conditions that must all hold (those around an Include, too),
    ``[[criterion, patterns], …]``, or ``None`` outside of Match blocks. A CommandExecutionError
    names the line that sshd cannot read.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.read
    """
    return [
        {
            "file": line.file,
            "line": line.number,
            "keyword": line.keyword,
            "name": line.name,
            "arguments": list(line.arguments),
            "match": [list(criterion) for criterion in line.match] or None,
        }
        for line in _tree(config, files)[0]
    ]


def values(config=CONFIG, files=None, **connection):
    """
    Return what the files set for a connection, and where: ``{keyword: [{"value", "file",
    "line"}, …]}``. Keywords are in lower case, by the name that ``sshd -T`` prints; values stand as
    written, without quotes. What no file sets is not in it: that is sshd's default.

    config, files
        As for :py:func:`read`.

    connection
        ``user``, ``address``, ``host``, ``laddress``, ``lport``, ``rdomain``, ``invalid_user``.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.values user=sean address=10.1.0.9
    """
    lines, version = _tree(config, files)
    return {
        keyword: [{"value": value, "file": line.file, "line": line.number} for line, value in found]
        for keyword, found in _evaluate(lines, _who(connection), version).items()
    }


def source(keyword, config=CONFIG, files=None, **connection):
    """
    Return the lines that decide a keyword for a connection: ``[{"file", "line", "text"}, …]``;
    none where it has sshd's default, several where the keyword adds up.

    config, files, connection
        As for :py:func:`values`.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.source PasswordAuthentication user=sean
    """
    lines, version = _tree(config, files)
    name = _canonical(str(keyword))
    if name not in _GLOBAL | _IN_MATCH and name not in [line.name for line in lines]:
        raise SaltInvocationError(f"{keyword}: no keyword of sshd_config(5)")
    found = _evaluate(lines, _who(connection), version).get(name, [])
    return [
        {"file": line.file, "line": line.number, "text": line.text.strip()}
        for line in dict.fromkeys(line for line, _ in found)
    ]


def effective(config=CONFIG, files=None, **connection):
    """
    Ask the real sshd for the values in force for a connection: ``{keyword: [value, …]}``, keywords
    in lower case, as ``sshd -T`` prints them.

    config, files, connection
        As for :py:func:`values`. Without ``user`` and the others, Match blocks do not match.

    A CommandExecutionError says in sshd's own words, with the real file names, why it would refuse
    the files.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.effective user=sean address=10.1.0.9
    """
    names = {"address": "addr", "laddress": "laddr"}
    # sshd stops at a Match LocalPort when it is not told a port: here it is told one of no sshd
    who = {"lport": "65535", **_who(connection)}
    spec = [f"{names.get(key, key)}={value}" for key, value in who.items() if key != "invalid_user"]
    spec += ["invalid-user"] if who.get("invalid_user") else []
    found = {}
    for line in _ask(["-T", "-C", ",".join(spec)], config, files).splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def keywords():
    """
    Return the keywords that the installed sshd knows, in lower case, without obsolete aliases.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.keywords
    """
    return sorted(_known(_GLOBAL | _IN_MATCH))


def _known(names):
    """Those of some keywords that the installed sshd knows."""
    # process_server_config_line() names an unknown keyword, then stumbles over the quote and goes
    # on: one run tells them all, whatever values they want
    text = "".join(f'{name} "\n' for name in sorted(names))
    try:
        _ask(["-t"], CONFIG, {CONFIG: text})
    except CommandExecutionError as err:
        return names - set(re.findall(r"Bad configuration option: (\S+)", str(err)))
    raise CommandExecutionError("sshd -t took a file of broken lines")


def ports(service="ssh", config=CONFIG, files=None):
    """
    Return where sshd listens, or would: ``[{"address", "port", "by"}, …]``.

    Under ``ssh.socket`` systemd listens (``by`` is the unit's name), and ``Port`` and
    ``ListenAddress`` are without effect; else ``by`` is ``sshd``.

    service
        sshd's service, without ``.service``. Default: ``ssh``

    config, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.ports
    """
    unit = f"{service}.socket"
    listening = _listening(unit)
    by = unit if listening else "sshd"
    found = []
    for place in listening or effective(config, files)["listenaddress"]:
        address, _, port = place.split(" ")[0].rpartition(":")
        found.append({"address": address.strip("[]") or "::", "port": int(port), "by": by})
    return found


def _listening(unit):
    """Where systemd listens for a socket unit that is active or will be at boot."""
    ask = ["systemctl", "show", "--property=Listen,ActiveState,UnitFileState", unit]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return []
    if not re.search(r"^(ActiveState=active|UnitFileState=enabled)$", answer, re.MULTILINE):
        return []
    return re.findall(r"^Listen=(\S+:[0-9]+) \(Stream\)$", answer, re.MULTILINE)


def lint(config=CONFIG, files=None, users=None, service="ssh", **connection):
    """
    Return what is wrong or does not mean what it seems to: ``[{"file", "line", "severity", "code",
    "message", "mend"}, …]``, none where all is well.

    ``severity`` is ``error`` where somebody is let in or refused who should not be, or sshd refuses
    the files, ``warning`` where a line has less effect or leaves more open than it seems to, else
    ``info``. Codes are those of the table in the guide, and ``socket``: systemd listens in sshd's
    place, so that Port and the like have no effect.

    config, files
        As for :py:func:`read`.

    users
        Accounts that are to get in, a name or a list of them: named where AllowUsers, DenyUsers,
        AllowGroups or DenyGroups shut them out. Default: none

    service
        As for :py:func:`ports`.

    connection
        Where ``users`` come from: ``address``, ``host`` and so on, as for :py:func:`values`, but
        for ``user``.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.lint users='[sean]'
    """
    who = _who(connection)
    if "user" in who:
        raise SaltInvocationError(f"user: write users=[{who['user']}]")
    used = {line.name for line in _readable(config, files) if line.name.isalnum()}
    host = _Host(
        _version(),
        frozenset(_known(_GLOBAL | _IN_MATCH | used)),
        bool(_listening(f"{service}.socket")),
        _is_user,
        _is_group,
    )
    users = [users] if isinstance(users, str) else users or []
    found = _lint(config, _Files(files), host, users, who)
    try:
        _ask(["-t"], config, files)
    except CommandExecutionError as err:
        unsatisfiable = "AuthenticationMethods cannot be satisfied" in str(err)
        if not unsatisfiable and not any(finding["code"] in _REFUSED for finding in found):
            place = re.search(r"(?P<file>/[^\s:]+)(?: line |:)(?P<line>[0-9]+)", str(err))
            file, number = place.groups() if place else (config, 1)
            mend = "correct it: sshd will not start"
            found.append(_finding_at(file, int(number), "refused", str(err), mend))
    return found


#: Findings for which sshd refuses the files
_REFUSED = ("refused", "unknown-keyword", "global-in-match")


def _is_user(name):
    try:
        return bool(pwd.getpwnam(name))
    except KeyError:
        return False


def _is_group(name):
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False


def _refuse_path(path, config):
    """Refuse what is no drop-in, or what an Include would have to quote."""
    plain = isinstance(path, str) and re.fullmatch(r"""(/[^/\s"'\\*?[]+)+""", path)
    if not plain or os.path.normpath(path) != path or path == config or os.path.isdir(path):
        raise SaltInvocationError(
            f"{path}: expected the absolute path of a drop-in, without white space, quotes,"
            " wildcards, // and .."
        )
    __salt__["root_file.target"](path)  # before a word of the file can get into a diff or an error


def plan_options(path, options, match=None, config=CONFIG, files=None):
    """
    Return what must be written so that keywords have these values: ``{path: text}``, as
    :py:func:`plan_drop_in`. Lines that are there are changed in place; new ones go above the first
    keyword of the file, where they win, or to the end of the Match block. A CommandExecutionError
    names the line of another file that says otherwise, or adds a value (``Port``, ``AllowUsers``).

    path
        The file for the lines: the main file, or a drop-in, which need not be there yet.

    options
        ``{keyword: value}``: text as sshd_config(5) has it, a number, true or false, a list of
        these. ``None``: no such line in the file, so that sshd's default holds unless another
        file says otherwise.

    match
        Conditions of the Match block that the lines are for, such as ``Group sftp``; it is made at
        the end of the file where there is none with these conditions. A block above with other
        conditions, which hold for the same connection, still wins: ask ``effective(user=…)``.
        Default: none, the global part

    config, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.plan_options /etc/ssh/sshd_config '{X11Forwarding: false}'
    """
    release = _release_of(_version())
    if not isinstance(options, dict):
        raise SaltInvocationError(f"options: {options}: expected keywords, each with its value")
    if match is not None and (not isinstance(match, str) or re.search(r"[\n\r\0]", match)):
        raise SaltInvocationError(f"match: {match}: expected one line, such as Group sftp")
    if path != config:
        _refuse_path(path, config)
    try:
        criteria = tuple(_criteria(match, release)) if match else ()
        if criteria and tuple(_criteria(_conditions(criteria), release)) != criteria:
            raise ValueError(f"Match {match}: such quotes cannot be written")
        return _plan_options(path, options, criteria, config, files, release)
    except _BadLineError as err:
        raise CommandExecutionError(f"{err}; sshd refuses the file. Nothing was changed") from None
    except ValueError as err:
        raise SaltInvocationError(f"{path}: {err}. Nothing was changed") from None


def _plan_options(path, options, criteria, config, files, release):
    before = _Files(files)
    old = before.text(path) if before.exists(path) else ""
    new = old
    for keyword, value in options.items():
        new = _set(path, new, keyword, _wanted_lines(keyword, value), criteria, release)
    if path == config:
        new = _won(config, new, options, criteria, files, release)
        plan = {config: new} if new != old else {}
    else:
        plan = plan_drop_in(path, new, config, files) if new or old else {}
    lines = list(_lines(config, _Files({**(files or {}), **plan}), release))
    _refuse_added(path, [line for line in lines if line.match == criteria], options, release)
    return plan


def _won(config, text, options, criteria, files, release):
    """The main file with options above the Includes that say otherwise."""
    wanted = {_canonical(keyword): keyword for keyword in options}

    def read():
        return list(_lines(config, _Files({**(files or {}), config: text}), release))

    for line, _ in _losing(read(), config, release):
        if line.name in wanted and not line.match:
            keyword = wanted[line.name]
            lines = _wanted_lines(keyword, options[keyword])
            text = _set(config, text, keyword, lines, (), release, on_top=True)
    _refuse_losing([line for line in read() if line.match == criteria], config, release, wanted)
    return text


def _refuse_added(path, lines, options, release):
    """Refuse lines of other files that add values to those of the options."""
    wanted = {}
    for keyword, value in options.items():
        for line in _own("/options", "\n".join(_wanted_lines(keyword, value)), release):
            wanted.setdefault(line.name, set()).update(_added(line))
    for line in lines:
        if line.file != path and line.name in wanted and _added(line) - wanted[line.name]:
            raise CommandExecutionError(
                f"{line.file}:{line.number} ({line.text.strip()}) adds to what {path} says. Take"
                " that line away, or name its values in the options, too"
            )


def _added(line):
    """The values of a keyword that adds up."""
    settings = _settings(line) if line.name in _ADDS_UP else []
    return {value for _, values in settings for value in values}


def apply(plan, config=CONFIG):
    """
    Write a plan, and return how the files change: ``{path: unified diff}``.

    The real sshd judges the plan before anything is written, and the files after; when it refuses
    them, or a file cannot be written, all are as they were and a CommandExecutionError says why.
    Files are removed last, since owner and mode of a removed one cannot be put back. sshd is not
    reloaded.

    plan
        ``{path: text, or None to remove the file}``, from a function that plans.

    config
        The main file. Default: ``/etc/ssh/sshd_config``

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.apply '{/etc/ssh/sshd_config.d/x.conf: "UsePAM yes"}'
    """
    _Files(plan)  # refuses what is none
    old = {path: __salt__["root_file.read"](path) for path in plan}
    changes = differences(plan)
    effective(config, plan)
    removed = {path: None for path, text in plan.items() if text is None}
    done = []
    try:
        for path, text in plan.items():
            if text is not None:
                __salt__["root_file.write"](path, text)
                done.append(path)
        effective(config, removed)
        for path in removed:
            __salt__["root_file.write"](path, None)
            done.append(path)
    except (CommandExecutionError, OSError) as err:
        raise CommandExecutionError(f"{err}. {_put_back(done, plan, old)}") from None
    return changes


def _put_back(done, plan, old):
    """Write the old texts of files; returns what became of them."""
    outcome = ["Everything was put back"]
    for path in reversed(done):
        try:
            __salt__["root_file.write"](path, old[path])
        except (CommandExecutionError, OSError) as err:
            outcome[0] = "Not everything was put back"
            outcome.append(f"{path}: {err}")
        else:
            if plan[path] is None and old[path] is not None:
                outcome.append(f"{path} is made anew, with root as its owner and mode 0644")
    return "; ".join(outcome)


def differences(plan):
    """
    Return how the files would change: ``{path: unified diff}``.

    plan
        ``{path: text, or None}``.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.differences '{/etc/ssh/sshd_config.d/x.conf: "UsePAM yes"}'
    """
    return {
        path: __salt__["root_file.diff"](path, __salt__["root_file.read"](path), text)
        for path, text in plan.items()
    }


def plan_drop_in(path, text, config=CONFIG, files=None):
    """
    Return what must be written so that a drop-in is there and wins: ``{path: text}``, in an order
    in which a run may be cut off. Nothing is written; :py:func:`effective` judges the plan.

    The main file is among it where it does not include the drop-in (a marked ``Include`` of just
    this file is put above the first keyword: other files of the folder stay as dead as they are),
    or only inside a Match block, or below a line that decides otherwise (that ``Include`` moves
    above the first keyword, and leaves a comment where it stood). Where a line still beats the
    drop-in's, or another file's line would come into force by that move, a CommandExecutionError
    names it. Lines that add up, as ``Port``, beat nothing.

    path
        The drop-in, an absolute path.

    text
        Its text; ``None`` for no drop-in, no marked ``Include``, and a moved one where it was;
        what was edited since stays. A drop-in that counts by the moved one only takes it over.

    config, files
        As for :py:func:`read`.

    CLI Example:

    .. code-block:: bash

        salt-call --local sshd_config.plan_drop_in /etc/ssh/sshd_config.d/00-x.conf 'UsePAM yes'
    """
    _refuse_path(path, config)
    if not isinstance(text, (str, type(None))):
        raise SaltInvocationError(f"{path}: expected its contents as text, not {text}")
    overlay, release = files or {}, _release_of(_version())
    before = _Files(overlay)
    try:
        if text is None:
            main = _plan_absent(path, config, overlay, release)
        else:
            main = _plan_present(path, text, config, overlay, release)
    except _BadLineError as err:
        raise CommandExecutionError(f"{err}; sshd refuses the file. Nothing was changed") from None
    except ValueError as err:
        raise CommandExecutionError(f"{config}: {err}. Nothing was changed") from None
    # The drop-in first: nobody reads it before the main file names it, and an Include of a file
    # that is not there names nothing
    plan = {}
    if text != (before.text(path) if before.exists(path) else None):
        plan[path] = text
    if main != before.text(config):
        plan[config] = main
    return plan
