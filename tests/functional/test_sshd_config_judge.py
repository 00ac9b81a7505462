"""
The judge is sshd itself: in trees of files that are drawn at random (the same in every run), with
Includes and Match blocks, our values must be those of ``sshd -T -C``, and the line that ``source``
names must be the one that decides: without it, sshd says something else.
"""

import itertools
import random
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError

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


pytestmark = pytest.mark.judge


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

WHO = {
    "user": ["judged_a", *USERS, None],
    "address": ["10.1.2.3", "10.1.9.9", "10.9.9.9", "fd00::1", None],
    "host": ["good.example", "bad.example", "Good.Example", None],
    "lport": [22, 2222, None],
    "laddress": ["192.0.2.1", "198.51.100.1", None],
    "rdomain": ["vrf1", "vrf9", None],
    **({"invalid_user": [True, None, None]} if RELEASE >= (9, 9) else {}),
}

# ---- Trees -----------------------------------------------------------------------------------
# Files of g and h begin outside of Match blocks, and may say everything there; those of m and n
# are also included inside. Each folder includes only those after it: there are no circles.

PATTERNS = ["{0}/*.conf", "{0}/0*.conf", "{0}/[!0]*.conf", "{0}/?b.conf", "{0}/1a.conf"]
PATTERNS += ["{0}/none*", "{0}/[01]b.conf {0}/0a.conf", '"{0}/0a.conf"', "{0}/[0-1]?.conf"]
STYLES = ["{k} {v}", "{k} {v}", "{k}\t{v}", "  {k} {v}  ", "{k}={v}", "{k} = {v}", "\t{k}  {v}\r"]
STYLES += ['"{k}" {v}', "{k}= {v}"]
CASES = [str, str, str.lower, str.upper]
NOISE = ["", "# a comment", "   ", "#Port 99", "\t# Match all", "\r"]
NAMES = ["0a.conf", "0b.conf", "1a.conf", "1b.conf", ".0a.conf", "0a.bak"]
UNIQUE = [option for option in MATCHABLE + GLOBAL if option[3]]
#: Folder: what its files may say, include outside of Match, include inside
FOLDERS = {
    "g": (MATCHABLE + SHARED, "hm", "mn"),
    "h": (MATCHABLE + SHARED, "mn", "n"),
    "m": (MATCHABLE, "n", "n"),
    "n": (MATCHABLE, "", ""),
}


class Tree:
    """A tree of files, drawn by a number, and what is known of each value in it."""

    def __init__(self, root, seed):
        self.root, self.printed, self.unique = root, {}, {}
        self.random = random.Random(seed)
        self.numbers = itertools.count(101)
        self.head = {(f"{root}/main", number) for number in range(1, len(HEAD) + 1)}
        for line in HEAD:
            keyword, value = line.split(" ", 1)
            self.printed[keyword.lower(), value] = value
        sure = self.setting(UNIQUE)
        main = self.file(MATCHABLE + GLOBAL, "ghm", "mn", lines=6, blocks=3)
        self.texts = {f"{root}/main": "\n".join([*HEAD, sure, main])}
        for folder, may in FOLDERS.items():
            for name in self.random.sample(NAMES, self.random.randint(0, 3)):
                self.texts[f"{root}/{folder}/{name}"] = self.file(*may, lines=3, blocks=2)
        self.who = {key: self.random.choice(values) for key, values in WHO.items()}

    def file(self, options, outside, inside, lines, blocks):
        drawn = [self.line(options, outside) for _ in range(self.random.randint(1, lines))]
        for _ in range(self.random.randint(0, blocks)):
            drawn.append(f"Match {self.random.choice(CONDITIONS)}")
            drawn += [self.line(MATCHABLE, inside) for _ in range(self.random.randint(1, 4))]
        return "".join(f"{line}\n" for line in drawn)

    def line(self, options, folders):
        kind = self.random.random()
        if kind < 0.1:
            return self.random.choice(NOISE)
        if kind < 0.4 and folders:
            folder = f"{self.root}/{self.random.choice(folders)}"
            return f"Include {self.random.choice(PATTERNS).format(folder)}"
        return self.setting(options)

    def setting(self, options):
        keyword, text, values, unique = self.random.choice(options)
        number = next(self.numbers)
        facts = {"n": number, "o": f"{256 + number % 255:o}", "mega": number * 2**20}
        facts |= {"minute": 60 + number, "hour": 3600 + number, "rekey": int(f"1{number}") * 1024}
        name = sshd_config._canonical(keyword)
        for read, printed in values:
            self.printed[name, read.format(**facts)] = printed.format(**facts)
        self.unique[name] = self.unique.get(name, True) and unique
        style, case = self.random.choice(STYLES), self.random.choice(CASES)
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


def compare(tree, config, defaults):
    """Our values and sshd's, for every keyword; returns both."""
    ours = sshd_config.values(config=config, **tree.who)
    theirs = sshd_config.effective(config=config, **tree.who)
    for name in set(ours) | set(theirs):
        wanted = defaults.get(name)
        if name in ours:
            wanted = as_printed(tree, name, ours[name], defaults)
        if name == "listenaddress" and name not in ours:
            continue  # every address, at each Port
        assert sorted(theirs.get(name) or []) == sorted(wanted or []), name
    return ours, theirs


def check_source(tree, config, ours, theirs):
    """Without a line that source names, sshd says something else."""
    found = [
        (name, entry)
        for name in sorted(ours)
        if tree.unique.get(name) and name != "persourcepenalties"
        for entry in ours[name]
        if (entry["file"], entry["line"]) not in tree.head
    ]
    if not found:
        return False
    name, entry = tree.random.choice(found)
    text = tree.texts[entry["file"]].split("\n")[entry["line"] - 1].strip()
    line = {"file": entry["file"], "line": entry["line"], "text": text}
    assert line in sshd_config.source(name, config=config, **tree.who)
    overlay = tree.without(line["file"], line["line"])
    without = sshd_config.effective(config=config, files=overlay, **tree.who)
    assert without.get(name) != theirs[name], line
    return True


def kinds(tree, config, ours):
    """What this tree was a test of."""
    read = {(line["file"], line["line"]): line for line in sshd_config.read(config)}
    decided = {(entry["file"], entry["line"]) for found in ours.values() for entry in found}
    included = {place for place in decided if place[0] != config}
    in_match = {place for place in decided if read[place]["match"]}
    yield "trees"
    if included:
        yield "decided in an included file"
    if in_match:
        yield "decided in a Match block"
    if included & in_match:
        yield "both at once"
    if any(len(read[place]["match"]) > 1 for place in in_match):
        yield "under several conditions"


def judge(seed, root, defaults):
    """Compare one tree; returns what it was a test of."""
    tree = Tree(f"{root}/{seed}", seed)
    tree.lay_out()
    config = f"{tree.root}/main"
    try:
        ours, theirs = compare(tree, config, defaults)
        checked = check_source(tree, config, ours, theirs)
    except (AssertionError, CommandExecutionError) as err:
        files = "".join(f"--- {path}\n{text}" for path, text in tree.texts.items())
        raise AssertionError(f"tree {seed}, {tree.who}: {err}\n{files}") from err
    return [*kinds(tree, config, ours), *(["a line of source taken away"] if checked else [])]


def test_sshd_agrees(tmp_path, defaults):
    counted = Counter()
    with ThreadPoolExecutor(2) as pool:  # mostly it waits for sshd
        for found in pool.map(lambda seed: judge(seed, tmp_path, defaults), range(TREES)):
            counted.update(found)
    print(*(f"{number} {kind}" for kind, number in counted.most_common()), sep=", ")
    assert counted["trees"] == TREES
    assert counted["a line of source taken away"] >= TREES * 0.95
    assert min(counted.values()) >= TREES // 10, counted
