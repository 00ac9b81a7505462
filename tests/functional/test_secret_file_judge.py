"""
The parser's judge is ``pam_google_authenticator`` itself: whatever a secret file says, and whatever
code is presented, our core must say what the module does.
"""

import os
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.functional.pam import Pam
from tests.support import load

ga = load("modules", "google_authenticator")

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
KEY = ga._key(SECRET)
FILES = 1000
KINDS = {"right", "spent", "wrong", "refused", "rate limited"}


@pytest.fixture(scope="session", autouse=True)
def pam_module():
    """Hosts begin without the PAM module; its package is in a repository of theirs."""
    install = ["apt-get", "-qq", "install", "libpam-google-authenticator"]
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=env)
    return next(Path("/usr/lib").glob("*/security/pam_google_authenticator.so"))


@pytest.fixture(scope="module")
def folder():
    """The folder of secret files, below folders that are only root's."""
    made = Path("/var/lib/judge")
    made.mkdir(mode=0o700)
    yield made
    subprocess.run(["rm", "-r", str(made)], check=True)


@pytest.fixture
def pam(folder, tmp_path):
    asked = Pam(folder, tmp_path / "pam.d")
    yield asked
    asked.close()


# ---- Files with every option and every kind of live state ------------------------------------

CODES = st.integers(10_000_000, 99_999_999)
SECRETS = st.sampled_from(
    [SECRET] * 12
    + [SECRET.lower(), "GEZD GNBV-GY3T\tQOJQ", "GEZDGNBVGY3T0OJ1", SECRET + "\r", "MZXW6", "AA"]
    + ["GEZDGNBVGY======", "GEZD9", "", "A", '" TOTP_AUTH', "GEZDGNBV\xe4"]
)
NONSENSE = st.sampled_from(
    ["", " ", "x", "0", "-1", "+3", "007", "3 x", "3x", "4294967299", "18446744073709551615"]
    + ["18446744073709551616", "99999999999999999999999", "-18446744073709551613", "\v3", "3\v"]
)


def mostly(*common, rare):
    return st.one_of(*common, *common, *common, rare)


def one_option(name, values):
    return st.tuples(st.just(name), values)


def joined(numbers):
    return numbers.map(lambda values: "".join(f" {value}" for value in values))


# Numbers below are relative to now (in seconds or steps) and made absolute when the file is written
STAMPS = st.lists(st.integers(-90, 5), max_size=6)
STEPS = st.lists(st.integers(-4, 4), max_size=5)
OPTIONS = st.one_of(
    one_option("STEP_SIZE", mostly(st.sampled_from(["30", "60", "20"]), rare=NONSENSE)),
    one_option("WINDOW_SIZE", mostly(st.integers(1, 8).map(str), rare=NONSENSE)),
    one_option("TIME_SKEW", mostly(st.integers(-3, 3).map(str), rare=NONSENSE)),
    one_option("HOTP_COUNTER", st.sampled_from(["0", "1", "-1", "", "x", "2147483648"])),
    one_option("TOTP_AUTH", st.sampled_from(["", "", "yes"])),
    one_option("DISALLOW_REUSE", mostly(STEPS, st.just(""), rare=NONSENSE)),
    one_option(
        "RATE_LIMIT",
        mostly(
            st.tuples(st.integers(1, 4), st.sampled_from([1, 30, 60, 3600]), STAMPS),
            rare=st.sampled_from(
                ["3 30 ", "3 30\t", "3 30 1700000000 ", "3 30  1700000000", "3", "3 x", "3 30x"]
                + ["0 30", "101 30", "3 0", "3 3601", "3 30 x", "3 30 18446744073709551616", ""]
            ),
        ),
    ),
    one_option("RESETTING_TIME_SKEW", st.sampled_from(["", "56666666+3 56666667+3", "x"])),
    one_option("LAST0", st.just("10.0.0.1 1700000000")),
    one_option("LAST9", st.just("::1 1700000000")),
    one_option(ga.ISSUED, st.just("0123456789 abcdef0123")),
    one_option(ga.ADOPTED, st.sampled_from(["", "pending"])),
    one_option("WINDOW_SIZES", st.just("99")),
    one_option("COLOUR", st.just('blue " WINDOW_SIZE 1')),
    one_option(" WINDOW_SIZE", st.just("1")),
)
# The first that is neither an option nor a scratch code ends the scratch codes
ODD_LINES = st.tuples(
    st.none(),
    st.sampled_from(
        ["12345678", " 12345678", "+12345678", "12345678 ", "012345678", "09999999", "100000000"]
        + ["-4282621618", "4307312974", "18446744073721897294", "\v12345678", "12345678x"]
        + ["12345678\r12345679", "1234567812345678", "remark", "", " ", '"', '"12345678']
    ),
)
LINES = st.one_of(OPTIONS, OPTIONS, OPTIONS, st.tuples(st.none(), CODES.map(str)), ODD_LINES)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\n"])
PRESENTED = st.one_of(
    st.tuples(st.just("step"), st.integers(-6, 6)),
    st.tuples(st.just("step"), st.integers(-1, 1)),
    st.tuples(st.just("scratch"), st.integers(0, 5)),
    st.tuples(
        st.just("text"),
        st.sampled_from(["12345678", "012345678", "", "000000", "1 2345", "12345", "2345678x"])
        | CODES.map(str),
    ),
)
SETTINGS = st.fixed_dictionaries(
    {
        "window": st.integers(1, 8),
        "step": st.sampled_from([30, 60]),
        "rate_limit": st.sampled_from([None, {"attempts": 2, "seconds": 60}]),
        "disallow_reuse": st.booleans(),
    }
)


def files(secrets, lines, tails, modes, presented):
    return st.fixed_dictionaries(
        {
            "secret": secrets,
            "totp": mostly(st.just(True), rare=st.just(False)),
            "lines": lines,
            "end": ENDS,
            "tail": tails,
            "mode": modes,
            "presented": presented,
            "settings": SETTINGS,
        }
    )


ANY_FILE = files(
    secrets=SECRETS,
    lines=st.lists(LINES, max_size=8),
    tails=st.sampled_from([""] * 8 + ["\0", "\n", "x" * 65_600]),
    modes=st.sampled_from([0o600] * 12 + [0o400, 0o400, 0o640, 0o644, 0o1600, 0o000]),
    presented=PRESENTED,
)
# Of somebody who logs in all the time
BUSY_LINES = st.tuples(
    one_option("DISALLOW_REUSE", STEPS),
    st.one_of(
        one_option("RATE_LIMIT", st.tuples(st.integers(1, 5), st.sampled_from([30, 90]), STAMPS)),
        one_option("LAST0", st.just("10.0.0.1 1700000000")),
    ),
    st.one_of(
        one_option("TIME_SKEW", st.integers(-2, 2).map(str)),
        one_option("WINDOW_SIZE", st.integers(1, 5).map(str)),
    ),
    st.tuples(st.none(), CODES.map(str)),
)
BUSY_FILE = files(
    secrets=st.just(SECRET),
    lines=BUSY_LINES.flatmap(st.permutations),
    tails=st.just(""),
    modes=st.sampled_from([0o600, 0o400]),
    presented=st.tuples(st.just("step"), st.integers(-1, 2))
    | st.tuples(st.just("scratch"), st.just(0)),
)
# Of somebody who keeps scratch codes, and more, in it
CODE_FILE = files(
    secrets=st.just(SECRET),
    lines=st.lists(ODD_LINES | OPTIONS, min_size=1, max_size=4),
    tails=st.just(""),
    modes=st.just(0o600),
    presented=st.tuples(st.just("text"), st.sampled_from(["12345678", "12345679", "10000000"]))
    | st.tuples(st.just("scratch"), st.integers(0, 3)),
)


def written(case, now):
    """The text of a case at a time."""
    steps = now // 30

    def value(name, given):
        if name == "DISALLOW_REUSE" and isinstance(given, list):
            return " ".join(str(steps + step) for step in given)
        if name == "RATE_LIMIT" and isinstance(given, tuple):
            return f"{given[0]} {given[1]}" + "".join(f" {now + stamp}" for stamp in given[2])
        return given

    lines = [case["secret"]]
    for name, given_value in case["lines"]:
        given_text = value(name, given_value)
        lines.append(given_text if name is None else f'" {name} {given_text}')
    lines += ['" TOTP_AUTH'] if case["totp"] else []
    return case["end"].join(lines) + case["end"] + case["tail"]


def presented(case, text, now):
    kind, what = case["presented"]
    file = ga._parse(text)
    if kind == "step":
        step = (now // (file.step or 30)) + file.time_skew + what
        return ga._totp(file.key or KEY, step)
    if kind == "scratch" and file.scratch_codes:
        return str(file.scratch_codes[what % len(file.scratch_codes)])
    return str(what)


def says(text, code, mode, now):
    """What our core says that the module does."""
    file = ga._parse(text)
    if mode & 0o3777 & ~0o600 or file.refuses_all:
        return "refused"
    if ga._rate_limited(file, now):
        return "rate limited"
    return ga._judge(file, code, now)


class Judge:
    """Compares, and counts what was compared."""

    def __init__(self, pam, folder):
        self.pam = pam
        self.path = folder / "somebody"
        self.counted = Counter()

    def compare(self, text, mode, code_of):
        """Have the module judge a code; returns the file as it left it, and what was said."""
        for _ in range(20):
            now = int(time.time())
            code = code_of(now)
            self.path.unlink(missing_ok=True)
            self.path.write_bytes(text.encode("latin-1"))
            self.path.chmod(mode)
            let_in, asked = self.pam.login("somebody", code)
            if int(time.time()) == now:  # else the answer may be to another question
                break
        else:
            raise AssertionError("the clock is too fast for this machine")
        said = says(text, code, mode, now)
        self.counted[said] += 1
        assert let_in == (said == "right"), said
        if said == "rate limited":
            assert not asked
        return self.path.read_bytes().decode("latin-1"), said, code


@pytest.mark.judge
def test_the_module_agrees(pam, folder):
    judge = Judge(pam, folder)

    @settings(
        max_examples=FILES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(ANY_FILE | BUSY_FILE | CODE_FILE)
    def agrees(case):
        began = int(time.time())
        text = written(case, began)
        after, said, code = judge.compare(
            text, case["mode"], lambda now: presented(case, text, now)
        )
        check_what_was_written_back(text, after, said, code)
        check_a_merge(judge, case, after)

    agrees()
    assert sum(judge.counted.values()) >= FILES
    assert set(judge.counted) == KINDS
    assert min(judge.counted.values()) >= 20, judge.counted


def check_what_was_written_back(text, after, said, code):
    """Our parser reads what the module wrote, and finds there what the module changed."""
    before, file = ga._parse(text), ga._parse(after)
    assert file.key == before.key
    assert (file.issued, file.adopted) == (before.issued, before.adopted)
    if "\r" in text.replace("\r\n", ""):
        pass  # what it writes ends with LF, where a lone CR had hidden scratch codes
    elif before.refuses_all or said in ("refused", "wrong", "spent"):
        assert file.scratch_codes == before.scratch_codes
    elif said == "right" and len(code) == 8:
        assert Counter(before.scratch_codes) - Counter(file.scratch_codes) == {int(code): 1}
    elif said == "right" and before.disallow_reuse:
        assert set(file.blocked) - set(before.blocked)
    assert set(file.problems) <= set(before.problems)


def check_a_merge(judge, case, text):
    """A merge into what the module wrote changes our fields only, and the module agrees with it."""
    file = ga._parse(text)
    if file.beyond_mending:
        return
    merged = ga._merge(text, settings=case["settings"])
    new = ga._parse(merged)
    assert not new.problems
    for ours in ("window", "step", "rate_limit", "disallow_reuse"):
        assert getattr(new, ours) == case["settings"][ours]
    assert (new.key, new.time_skew, new.scratch_codes) == (
        *(file.key, file.time_skew, file.scratch_codes),
    )
    if new.disallow_reuse and file.blocked is not None:
        assert new.blocked == file.blocked
    if new.rate_limit and file.stamps:
        assert new.stamps == file.stamps
    judge.compare(merged, 0o600, lambda now: presented(case, merged, now))


# ---- Single facts ----------------------------------------------------------------------------


def lay_out(folder, user, text, mode=0o600):
    path = folder / user
    path.unlink(missing_ok=True)
    path.write_bytes(text.encode("latin-1"))
    path.chmod(mode)
    return path


def code_now(path, offset=0):
    file = ga._parse(path.read_bytes().decode("latin-1"))
    return ga._totp(file.key, int(time.time()) // file.step + offset)


def test_our_records_outlive_logins(pam, folder):
    text = ga._render(SECRET, [12345678, 23456789], {"rate_limit": {"attempts": 9, "seconds": 30}})
    path = lay_out(folder, "sean", ga._put(text, ga.ADOPTED, "pending"))
    before = ga._parse(path.read_text())
    for code in ("12345678", code_now(path), "23456789", "12345678"):
        pam.login("sean", code)
    after = ga._parse(path.read_text())
    assert (after.issued, after.adopted) == (before.issued, "pending")
    assert (len(after.stamps), after.scratch_codes) == (4, ())
    again = ga._merge(path.read_text(), SECRET, [12345678, 23456789])
    assert again == path.read_text()
    assert pam.login("sean", "12345678") == (False, 1)


def test_the_module_leaves_mode_0400_which_is_no_drift(pam, folder):
    path = lay_out(folder, "sean", ga._render(SECRET, [12345678], {"disallow_reuse": True}))
    assert pam.login("sean", "12345678") == (True, 1)
    assert path.stat().st_mode & 0o7777 == 0o400
    done = ga.managed({"sean": {"secret": SECRET, "scratch_codes": [12345678]}}, folder=str(folder))
    assert done == {"sean": {"result": True, "changes": {}, "comment": ""}}
    assert path.stat().st_mode & 0o7777 == 0o400


def test_a_code_lets_in_once(pam, folder):
    path = lay_out(folder, "sean", ga._render(SECRET, (), {"disallow_reuse": True}))
    code = code_now(path)
    assert pam.login("sean", code) == (True, 1)
    assert pam.login("sean", code) == (False, 1)
    assert ga._judge(ga._parse(path.read_text()), code, int(time.time())) == "spent"


def test_left_over_temporary_files_are_swept(pam, folder):
    """Release 1.08 gives its own a random name; a fixed one in its way does not stop it."""
    lay_out(folder, "sean", ga._render(SECRET, [12345678]))
    for name in ("sean~", "sean~Ab12Cd"):
        (folder / name).write_text("half a file")
        subprocess.run(["touch", "--date", "2 minutes ago", str(folder / name)], check=True)
    (folder / "sean~fresh1").write_text("a login is writing this")
    assert pam.login("sean", "12345678") == (True, 1)
    ga.managed({"sean": {}}, folder=str(folder))
    assert sorted(path.name for path in folder.glob("sean*")) == ["sean", "sean~fresh1"]
    (folder / "sean~fresh1").unlink()


# ---- Logins and merges at the same time ------------------------------------------------------


@pytest.fixture
def slow_merges(monkeypatch):
    """Hold every merge between reading and writing, and count the logins that came in between."""
    met = Counter()
    flush, put = ga._flush, ga._put_in_place

    def slow_flush(folders):
        time.sleep(0.02)
        return flush(folders)

    def counting(*arguments):
        try:
            return put(*arguments)
        except ga._OtherWriterError:
            met["in between"] += 1
            raise

    monkeypatch.setattr(ga, "_flush", slow_flush)
    monkeypatch.setattr(ga, "_put_in_place", counting)
    return met


def race(folder, confdir):
    """
    Four people use up their scratch codes while a setting of theirs changes all the time.
    Returns the codes that let them in, and those of them that would do so again.
    """
    people = {f"p{i}": [10_000_000 + 1000 * i + j for j in range(30)] for i in range(4)}
    wanted = {name: {"secret": SECRET, "scratch_codes": codes} for name, codes in people.items()}
    ga.managed(wanted, folder=str(folder))
    accepted = {name: set() for name in people}
    done = threading.Event()

    def log_in(name):
        pam = Pam(folder, confdir / name)
        accepted[name] |= {code for code in people[name] if pam.login(name, str(code))[0]}
        pam.close()

    def merge():
        window = 3
        while not done.is_set():
            window = 7 - window
            ga.managed(wanted, {"window": window}, folder=str(folder))

    logins = [threading.Thread(target=log_in, args=(name,)) for name in people]
    merges = threading.Thread(target=merge)
    for thread in (*logins, merges):
        thread.start()
    for thread in logins:
        thread.join()
    done.set()
    merges.join()

    assert not [path.name for path in folder.glob("*~*")]
    pam = Pam(folder, confdir / "again")
    again = [c for name in people for c in accepted[name] if pam.login(name, str(c))[0]]
    pam.close()
    for name in people:
        (folder / name).unlink()
    return set().union(*accepted.values()), again


def test_no_spent_code_comes_back_while_people_log_in(folder, tmp_path, slow_merges):
    accepted, again = race(folder, tmp_path)
    assert len(accepted) >= 20
    assert slow_merges["in between"] >= 2, "no login met a merge: this tested nothing"
    assert again == []


def test_a_careless_merge_loses_the_same_race(folder, tmp_path, slow_merges, monkeypatch):
    """What the test above is worth: where the file is just replaced, spent codes come back."""

    def careless(place, staged, inode, found):
        ga.os.rename(staged, place.name, src_dir_fd=place.folder, dst_dir_fd=place.folder)

    monkeypatch.setattr(ga, "_put_in_place", careless)
    monkeypatch.setattr(ga, "_overwritten", lambda written: set())
    _, again = race(folder, tmp_path)
    assert again
