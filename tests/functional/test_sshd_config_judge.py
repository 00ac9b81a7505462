"""
The judge is sshd itself: in generated trees of files, with Includes and Match blocks, our values
must be those of ``sshd -T -C``, and the line that ``source`` names must be the one that decides:
without it, sshd says something else.
"""

import itertools
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support import load

sshd_config = load("modules", "sshd_config")

TREES = 1000
RELEASE = sshd_config._release_of(sshd_config._version())
#: Without these sshd would refuse many a tree, and OpenSSH 10.0 crash.
HEAD = [
    "HostKey /etc/ssh/ssh_host_ed25519_key",
    "AuthorizedKeysCommandUser nobody",
    "Subsystem head /bin/head",
    "HostbasedAuthentication yes",
]

ACCOUNTS = {"judged_a": ["judged_ga", "judged_gb"], "judged_b": ["judged_gb"], "judged_c": []}


@pytest.fixture(scope="module", autouse=True)
def accounts():
    """People and groups that conditions speak of."""
    groups = sorted({group for names in ACCOUNTS.values() for group in names})
    for group in groups:
        subprocess.run(["groupadd", group], check=True)
    for name, names in ACCOUNTS.items():
        subprocess.run(["useradd", "-M", "-G", ",".join(names), name], check=True)
    yield
    for name in ACCOUNTS:
        subprocess.run(["userdel", name], check=True)
    for group in groups:
        subprocess.run(["groupdel", group], check=True)


# ---- What a line may say ---------------------------------------------------------------------
# An option is (keyword, text, [(value as read, value as `sshd -T` prints it), …], whether no other
# line of the tree says the same). {n} is another number in each line.


def numbered(keyword, text="{n}", *values):
    same = text.replace('"', "")
    return keyword, text, values or ((same, same),), True


def each(*values):
    return [(value, value) for value in values]


def plain(keyword, text, *values):
    return keyword, text, values or ((text, text),), False


def either(keyword, *values):
    """`written=printed`, or one text for both."""
    pairs = [value.split("=") for value in values]
    return [plain(keyword, pair[0], (pair[0].strip('"'), pair[-1])) for pair in pairs]


MATCHABLE = [
    numbered("MaxAuthTries"),
    numbered("MaxSessions"),
    numbered("ClientAliveCountMax"),
    numbered("X11DisplayOffset"),
    numbered("ClientAliveInterval", "{n}s", ("{n}s", "{n}")),
    numbered("ClientAliveInterval", "{n}"),
    numbered("Banner", "/b/{n}"),
    numbered("Banner", '"/b b/{n}"'),
    numbered("ForceCommand", '"/x y" {n} # no comment', *each('"/x y" {n} # no comment')),
    numbered("ForceCommand", "sh -c 'echo {n}'"),
    numbered("AuthorizedKeysCommand", '/bin/k "%u" {n}', *each('/bin/k "%u" {n}')),
    numbered("AuthorizedKeysCommandUser", "u{n}"),
    numbered("AuthorizedKeysFile", ".ssh/a{n} /k/%u"),
    numbered("AuthorizedPrincipalsFile", "/p/{n}"),
    numbered("ChrootDirectory", "/c/{n}"),
    numbered("RevokedKeys", "/r/{n}"),
    numbered("TrustedUserCAKeys", "/t/{n}"),
    numbered("PermitOpen", "a:{n} b:*"),
    numbered("PermitListen", "{n} *:1", ("{n} *:1", "*:{n} *:1")),
    numbered("SetEnv", 'A={n} "B=x y" A=2', *each("A={n}", "B=x y")),
    numbered("AcceptEnv", "V{n} W{n}_*", *each("V{n}", "W{n}_*")),
    numbered("AllowUsers", "u{n} *@10.{n}.0.0/16", *each("u{n}", "*@10.{n}.0.0/16")),
    numbered("AllowUsers", '"u{n}" # why', *each("u{n}")),
    numbered("DenyUsers", "d{n}"),
    numbered("AllowGroups", "g{n} h{n}", *each("g{n}", "h{n}")),
    numbered("DenyGroups", "'x{n}'", *each("x{n}")),
    numbered("ChannelTimeout", "session=1h{n}s"),
    numbered("StreamLocalBindMask", "0{o}"),
    numbered("RequiredRSASize", "1{n}"),
    numbered("RekeyLimit", "1{n}K 1{n}", ("1{n}K", "{rekey}"), ("1{n}", "1{n}")),
    numbered("RekeyLimit", "{n}M", ("{n}M", "{mega}")),
    numbered("LogVerbose", "a.c:{n} b.c:*"),
    numbered("UnusedConnectionTimeout", "1m{n}", ("1m{n}", "{minute}")),
    plain("UnusedConnectionTimeout", "none"),
    plain("RekeyLimit", "default none", ("default", "0")),
    plain("IPQoS", "af21 cs1"),
    plain("IPQoS", "ef", ("ef", "ef ef")),
    *either("PermitRootLogin", "yes", "no", "prohibit-password=without-password", "NO=no"),
    *either("AllowTcpForwarding", "yes", "no", "local", "remote", "all=yes"),
    *either("GatewayPorts", "yes", "no", "clientspecified"),
    *either("PasswordAuthentication", "yes", "no", "Yes=yes"),
    *either("PubkeyAuthentication", "yes", "no"),
    *either("KbdInteractiveAuthentication", "yes", "no"),
    *either("ChallengeResponseAuthentication", "yes", "no"),
    *either("X11Forwarding", "yes", "no", '"no"=no'),
    *either("PermitTTY", "yes", "no"),
    *either("DisableForwarding", "yes", "no"),
    *either("IgnoreRhosts", "yes", "no", "shosts-only"),
    *either("PermitTunnel", "no", "point-to-point", "yes"),
    *either("LogLevel", "DEBUG1=DEBUG", "info=INFO", "QUIET=SILENT"),
    *either("PubkeyAuthOptions", "none", "verify-required", "touch-required verify-required"),
    plain("AuthenticationMethods", "publickey,password hostbased"),
    plain("AuthenticationMethods", "hostbased"),
]
GLOBAL = [
    numbered("Port", "2{n}"),
    numbered("ListenAddress", "10.0.0.{n}:22"),
    numbered("ListenAddress", "[fd00::{n}]:2022"),
    numbered("LoginGraceTime", "1h{n}", ("1h{n}", "{hour}")),
    numbered("HostKey", "/h/{n}"),
    numbered("HostCertificate", "/hc/{n}"),
    numbered("PidFile", "/run/{n}"),
    numbered("VersionAddendum", "v {n}"),
    numbered("MaxStartups", "1{n}:30:9000"),
    numbered("PerSourceMaxStartups", "{n}"),
    *either("PerSourceNetBlockSize", "24:64", "16:56"),
    numbered("XAuthLocation", "/x/{n}"),
    numbered("Subsystem", "s{n} /bin/x -y"),
    *either("UsePAM", "yes", "no"),
    *either("StrictModes", "yes", "no"),
    *either("PrintMotd", "yes", "no"),
    *either("UseDNS", "yes", "no"),
    *either("TCPKeepAlive", "yes", "no"),
    *either("KeepAlive", "yes", "no"),
    *either("Compression", "no", "yes=yes"),
    *either("SyslogFacility", "AUTH", "LOCAL3"),
    *either("FingerprintHash", "md5=MD5", "sha256=SHA256"),
    *either("PermitUserEnvironment", "no", "LANG,LC_*"),
]
if RELEASE >= (10, 0):
    MATCHABLE += [
        numbered("PAMServiceName", "p{n}"),
        numbered("Subsystem", "sftp /bin/x {n}"),
        *either("RefuseConnection", "yes", "no"),
    ]
    GLOBAL += [
        numbered("PerSourcePenalties", "crash:1{n}"),
        numbered(
            "PerSourcePenalties",
            "authfail:2{n} max:1m{n}",
            ("authfail:2{n}",) * 2,
            ("max:1m{n}", "max:{minute}"),
        ),
        plain("PerSourcePenalties", "no"),
        numbered("PerSourcePenaltyExemptList", "10.0.{n}.0/24"),
    ]

# Before OpenSSH 9.5 a file with a Subsystem cannot be included twice
SHARED = [option for option in GLOBAL if option[0] != "Subsystem" or RELEASE >= (9, 5)]

USERS = ["judged_a", "judged_b", "judged_c", "nobody", "ghost"]
CONDITIONS = [
    *(
        "User judged_a",
        "User judged_*",
        "user *,!judged_a",
        "User !judged_b",
        "USER judged_b,ghost",
    ),
    *("User judged_?,!*_c", 'User "judged_a"', "User=judged_c", "User ghos*", "User ,judged_a,"),
    *(
        "Group judged_ga",
        "Group judged_*",
        "Group *,!judged_gb",
        "Group !judged_ga",
        "Group nogroup",
    ),
    *("Address 10.0.0.0/8", "Address 10.1.0.0/16,!10.1.2.0/24", "Address 10.1.*", "Address *"),
    *("Address !10.0.0.0/8", "Address *,!10.1.2.3", "Address fd00::/8", "Address fd00::1,10.9.9.9"),
    *("Host *.example", "Host !bad.example,*.example", "Host GOOD.example", "Host *,!*.example"),
    *("LocalPort 22", "LocalPort ssh", "LocalPort 2222", "LocalAddress 192.0.2.0/24"),
    *("LocalAddress 192.0.2.1", "RDomain vrf1,vrf2", "all", "ALL # everybody"),
    *("User judged_a Address 10.1.2.3", "Group judged_gb  Host *.example", "User * LocalPort 22"),
    *("User = judged_a", "User\tjudged_b\tAddress\t*", "User judged_a # why"),
]
if RELEASE < (9, 9):
    CONDITIONS += ['User="judged_a"', "Address=10.1.2.3 User=judged_a", 'User judged_"a"']
    CONDITIONS.remove("User = judged_a")
    CONDITIONS.append("User = judged_b")
else:
    CONDITIONS.remove("User = judged_a")
    CONDITIONS += ["invalid-user", "User * invalid-user", "User 'judged_b'", "user=judged_a"]
    CONDITIONS += ["version OpenSSH_10.*", "version *,!OpenSSH_10.*", "User=judged_a Host *"]

WHO = st.fixed_dictionaries(
    {
        "user": st.sampled_from(["judged_a", *USERS, ""]),
        "address": st.sampled_from(["10.1.2.3", "10.1.9.9", "10.9.9.9", "fd00::1", ""]),
        "host": st.sampled_from(["good.example", "bad.example", "Good.Example", ""]),
        "lport": st.sampled_from([22, 2222, ""]),
    },
    optional={
        "laddress": st.sampled_from(["192.0.2.1", "198.51.100.1"]),
        "rdomain": st.sampled_from(["vrf1", "vrf9"]),
        **({"invalid_user": st.just(True)} if RELEASE >= (9, 9) else {}),
    },
)

# ---- Trees -----------------------------------------------------------------------------------
# Files of g and h begin outside of Match blocks, and may say everything there; those of m and n
# are also included inside. Each folder includes only those after it: there are no circles.

PATTERNS = ["{0}/*.conf", "{0}/0*.conf", "{0}/[!0]*.conf", "{0}/?b.conf", "{0}/1a.conf"]
PATTERNS += ["{0}/none*", "{0}/[01]b.conf {0}/0a.conf", '"{0}/0a.conf"', "{0}/[0-1]?.conf"]
STYLES = ["{k} {v}", "{k} {v}", "{k}\t{v}", "  {k} {v}  ", "{k}={v}", "{k} = {v}", "\t{k}  {v}\r"]
STYLES += ['"{k}" {v}', "{k}= {v}"]
CASES = [str, str, str.lower, str.upper]
NOISE = st.sampled_from(["", "# a comment", "   ", "#Port 99", "\t# Match all", "\r"])


def lines(options, folders):
    setting = st.tuples(
        st.just("set"), st.sampled_from(options), st.sampled_from(STYLES), st.sampled_from(CASES)
    )
    include = st.tuples(
        st.just("include"), st.sampled_from(PATTERNS), st.sampled_from(folders or [""])
    )
    choices = [setting, setting, setting, st.tuples(st.just("noise"), NOISE)]
    return st.one_of(*choices, *([include, include] if folders else []))


def files(options, outside, inside, least, most):
    block = st.tuples(
        st.sampled_from(CONDITIONS), st.lists(lines(MATCHABLE, inside), min_size=1, max_size=4)
    )
    return st.tuples(
        st.lists(lines(options, outside), min_size=least, max_size=most),
        st.lists(block, min_size=least // 2, max_size=3),
    )


NAMES = st.sampled_from(["0a.conf", "0b.conf", "1a.conf", "1b.conf", ".0a.conf", "0a.bak"])
TREES_OF_FILES = st.fixed_dictionaries(
    {
        "sure": st.sampled_from([option for option in MATCHABLE + GLOBAL if option[3]]),
        "main": files(MATCHABLE + GLOBAL, ["g", "h", "m"], ["m", "n"], 3, 6),
        "g": st.dictionaries(NAMES, files(MATCHABLE + SHARED, ["h", "m"], ["m"], 1, 3), max_size=3),
        "h": st.dictionaries(NAMES, files(MATCHABLE + SHARED, ["n"], ["n"], 1, 3), max_size=2),
        "m": st.dictionaries(NAMES, files(MATCHABLE, ["n"], ["n"], 1, 3), max_size=3),
        "n": st.dictionaries(NAMES, files(MATCHABLE, [], [], 1, 3), max_size=2),
    }
)


class Tree:
    """A generated tree as texts, and what is known of each value."""

    def __init__(self, root, drawn):
        self.root, self.printed, self.unique = root, {}, {}
        self.numbers = itertools.count(101)
        head = [*HEAD, self.line("set", drawn["sure"], "{k} {v}", str)]
        self.texts = {f"{root}/main": "\n".join([*head, self.text(drawn["main"])])}
        self.head = {(f"{root}/main", number) for number in range(1, len(HEAD) + 1)}
        for line in HEAD:
            keyword, value = line.split(" ", 1)
            self.printed[keyword.lower(), value] = value
        for folder in "ghmn":
            for name, file in drawn[folder].items():
                self.texts[f"{root}/{folder}/{name}"] = self.text(file)

    def text(self, file):
        head, blocks = file
        written = [self.line(*line) for line in head]
        for condition, inside in blocks:
            written.append(f"Match {condition}")
            written += [self.line(*line) for line in inside]
        return "".join(f"{line}\n" for line in written)

    def line(self, kind, *what):
        if kind == "noise":
            return what[0]
        if kind == "include":
            pattern, folder = what
            return f"Include {pattern.format(f'{self.root}/{folder}')}"
        (keyword, text, values, unique), style, case = what
        number = next(self.numbers)
        facts = {"n": number, "o": f"{number % 511 + 1:o}", "mega": number * 2**20}
        facts |= {"minute": 60 + number, "hour": 3600 + number, "rekey": int(f"1{number}") * 1024}
        name = sshd_config._canonical(keyword)
        for read, printed in values:
            self.printed[name, read.format(**facts)] = printed.format(**facts)
        self.unique[name] = self.unique.get(name, True) and unique
        return style.format(k=case(keyword), v=text.format(**facts))

    def lay_out(self):
        for path, text in self.texts.items():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(text.encode())

    def without(self, file, number):
        pieces = self.texts[file].split("\n")
        pieces[number - 1] = ""
        return {**self.texts, file: "\n".join(pieces)}


# ---- The judgement ---------------------------------------------------------------------------

PENALTIES = dict.fromkeys(
    ("crash", "authfail", "noauth", "grace-exceeded", "refuseconnection", "max", "min")
)


def as_printed(tree, name, found, defaults):
    """What `sshd -T` has to print for the values that we found."""
    printed = [tree.printed[name, entry["value"]] for entry in found]
    if name == "rekeylimit":
        return [" ".join([*printed, "0"][:2])]
    if name == "persourcepenalties" and printed != ["no"]:
        parts = dict(part.rsplit(":", 1) for part in defaults[name][0].split())
        parts |= dict(part.split(":") for part in printed)
        return [" ".join(":".join(part) for part in parts.items())]
    return printed


@pytest.fixture(scope="module")
def defaults(tmp_path_factory):
    main = tmp_path_factory.mktemp("defaults") / "main"
    main.write_text("\n".join(HEAD))
    return sshd_config.effective(config=str(main))


def compare(tree, config, who, defaults, overlay=None):
    """Our values and sshd's, for every keyword; returns both."""
    ours = sshd_config.values(config=config, files=overlay, **who)
    theirs = sshd_config.effective(config=config, files=overlay, **who)
    for name in set(ours) | set(theirs):
        wanted = defaults.get(name)
        if name in ours:
            wanted = as_printed(tree, name, ours[name], defaults)
        if name == "listenaddress" and name not in ours:
            continue  # every address, at each Port
        assert sorted(theirs.get(name) or []) == sorted(wanted or []), name
    return ours, theirs


def check_source(tree, config, who, ours, theirs, choice):
    """Without a line that source names, sshd says something else. Returns that line."""
    found = [
        (name, entry)
        for name in sorted(ours)
        if tree.unique.get(name) and name != "persourcepenalties"
        for entry in ours[name]
        if (entry["file"], entry["line"]) not in tree.head
    ]
    if not found:
        return None
    name, entry = found[choice % len(found)]
    text = tree.texts[entry["file"]].split("\n")[entry["line"] - 1].strip()
    line = {"file": entry["file"], "line": entry["line"], "text": text}
    assert line in sshd_config.source(name, config=config, **who)
    overlay = tree.without(line["file"], line["line"])
    without = sshd_config.effective(config=config, files=overlay, **who)
    assert without.get(name) != theirs[name], line
    return line


def kinds(root, ours, line):
    """What this tree was a test of."""
    read = {(each["file"], each["line"]): each for each in sshd_config.read(f"{root}/main")}
    decided = {(entry["file"], entry["line"]) for found in ours.values() for entry in found}
    yield "trees"
    if any(file != f"{root}/main" for file, _ in decided):
        yield "decided in an included file"
    if any(read[place]["match"] for place in decided):
        yield "decided in a Match block"
    if any(len(read[place]["match"] or ()) > 1 for place in decided):
        yield "under several conditions"
    if any(read[place]["match"] and place[0] != f"{root}/main" for place in decided):
        yield "in an included file, in or below a Match"
    if line:
        yield "sources"


def test_sshd_agrees(tmp_path, defaults):
    counted = Counter()
    trees = itertools.count()

    @settings(
        phases=[Phase.generate, Phase.shrink],
        max_examples=TREES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(TREES_OF_FILES, WHO, st.integers(0, 99))
    def agrees(drawn, who, choice):
        root = str(tmp_path / str(next(trees)))
        tree = Tree(root, drawn)
        tree.lay_out()
        ours, theirs = compare(tree, f"{root}/main", who, defaults)
        line = check_source(tree, f"{root}/main", who, ours, theirs, choice)
        counted.update(kinds(root, ours, line))

    agrees()
    print(*(f"{number} {kind}" for kind, number in counted.items()), sep=", ")
    assert counted["trees"] >= TREES
    assert counted["sources"] >= TREES * 0.8
    assert min(counted.values()) >= TREES // 10, counted
