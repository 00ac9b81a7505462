"""
The pure core of the secret file's module. Cases are files in ``google_authenticator/``: parse/
(text → what the PAM module reads), judge/ (text, time and code → what it says) and merge/
(before → after).
"""

import importlib.util
from pathlib import Path

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError, SaltInvocationError

HERE = Path(__file__).parent
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # RFC 6238, appendix B
OTHER_SECRET = "MZXW6YTBOJRXEZLUMZXW6YTBOJRXEZLU"


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ga = _load(HERE.parents[1] / "_modules" / "google_authenticator.py")


def cases(kind):
    paths = sorted((HERE / "google_authenticator" / kind).glob("*.yaml"))
    assert paths, f"no cases in {kind}"
    return pytest.mark.parametrize(
        "case", [pytest.param(yaml.safe_load(path.read_text()), id=path.stem) for path in paths]
    )


@cases("parse")
def test_parse(case):
    file = ga._parse(case["text"])
    read = {name: getattr(file, name) for name in case["expect"]}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in read.items()} == case["expect"]


@cases("judge")
def test_judge(case):
    file = ga._parse(case["text"])
    for said in case["says"]:
        assert ga._judge(file, said["code"], said["now"]) == said["word"], said


@cases("merge")
def test_merge(case):
    wanted = {key: case.get(key) for key in ("secret", "scratch_codes", "settings")}
    if "error" in case:
        with pytest.raises(CommandExecutionError, match="^" + ga.re.escape(case["error"]) + "$"):
            ga._merge(case["before"], **wanted)
        return
    after = ga._merge(case["before"], **wanted)
    assert after == case["after"]
    assert ga._changes(case["before"], after) == case["changes"]
    assert ga._merge(after, **wanted) == after


# ---- Properties of any file ------------------------------------------------------------------

CODES = st.integers(10_000_000, 99_999_999)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "window": st.integers(1, 100),
        "step": st.integers(1, 60),
        "disallow_reuse": st.booleans(),
        "rate_limit": st.none()
        | st.fixed_dictionaries({"attempts": st.integers(1, 100), "seconds": st.integers(1, 3600)}),
    },
)
NUMBERS = st.lists(st.integers(0, 2**32 - 1), max_size=4).map(lambda ns: " ".join(map(str, ns)))
LIVE_LINES = st.one_of(
    st.builds('" DISALLOW_REUSE {}'.format, NUMBERS),
    st.builds('" RATE_LIMIT {} {} {}'.format, st.integers(0, 101), st.integers(0, 3601), NUMBERS),
    st.builds('" WINDOW_SIZE {}'.format, st.integers(0, 101)),
    st.builds('" STEP_SIZE {}'.format, st.integers(0, 61)),
    st.builds('" TIME_SKEW {}'.format, st.integers(-1500, 1500)),
    st.builds('" RESETTING_TIME_SKEW {}+3'.format, st.integers(0, 2**31)),
    st.builds('" LAST{} 10.0.0.1 {}'.format, st.integers(0, 9), st.integers(0, 2**31)),
    st.builds('" HOTP_COUNTER {}'.format, st.integers(-1, 1)),
    st.just('" TOTP_AUTH'),
    CODES.map(str),
    st.builds('" {}'.format, st.text('ABC_ \t"12', max_size=12)),
    st.text('ab \t"+-12\v', max_size=10),
)
FILES = st.builds(
    lambda secret, end, lines, last: secret + end + end.join(lines) + last,
    st.sampled_from([SECRET, OTHER_SECRET]),
    st.sampled_from(["\n", "\r\n"]),
    st.lists(LIVE_LINES, max_size=10),
    st.sampled_from(["", "\n"]),
)


def merged(text, **wanted):
    try:
        return ga._merge(text, **wanted)
    except CommandExecutionError:
        assume(False)


@given(st.text(st.characters(max_codepoint=255)))
def test_no_text_breaks_the_parser(text):
    ga._parse(text)


@given(FILES, CODES)
def test_options_are_put_where_they_are_read(text, number):
    assert ga._options(ga._put(text, "WINDOW_SIZE", number))["WINDOW_SIZE"] == str(number)


@given(st.lists(CODES, unique=True, max_size=5), SETTINGS)
def test_what_is_rendered_is_read(codes, settings):
    file = ga._parse(ga._render(SECRET, codes, settings))
    assert file.problems == ()
    assert list(file.scratch_codes) == codes
    assert file.rate_limit == settings.get("rate_limit")
    assert file.window == settings.get("window", 3)
    assert file.step == settings.get("step", 30)
    assert file.disallow_reuse == settings.get("disallow_reuse", False)


@given(FILES, st.none() | st.lists(CODES, unique=True, max_size=5), SETTINGS)
def test_merging_again_changes_nothing(text, codes, settings):
    once = merged(text, secret=SECRET, scratch_codes=codes, settings=settings)
    assert ga._merge(once, SECRET, codes, settings) == once
    assert ga._changes(text, once) or once == text


@given(
    FILES,
    st.fixed_dictionaries(
        {
            "window": st.integers(1, 100),
            "step": st.integers(1, 60),
            "disallow_reuse": st.booleans(),
            "rate_limit": st.sampled_from([None, False, {"attempts": 3, "seconds": 30}]),
        }
    ),
)
def test_a_merge_of_every_setting_leaves_a_file_that_lets_in(text, settings):
    assert ga._parse(merged(text, secret=SECRET, settings=settings)).problems == ()


@given(FILES, st.none() | st.lists(CODES, unique=True, max_size=5), SETTINGS)
def test_merging_changes_our_fields_only(text, codes, settings):
    assume(text.startswith(SECRET))
    before = ga._parse(text)
    assume(before.disallow_reuse or not settings.get("disallow_reuse"))
    after = ga._parse(merged(text, secret=SECRET, scratch_codes=codes, settings=settings))
    assert after.key == before.key
    assert after.time_skew == before.time_skew
    if settings.get("disallow_reuse", True):
        assert set(after.blocked) >= set(before.blocked or ())
    if settings.get("rate_limit", True):
        assert set(after.stamps) >= set(before.stamps or ())
    ours = ("SSHD_MFA", "WINDOW", "STEP", "RATE", "DISALLOW", "TOTP")

    def theirs(text):
        lines = [line for line in ga.re.split(r"[\r\n]+", text) if line]
        return [line for line in lines if not line.startswith(tuple(f'" {key}' for key in ours))]

    assert theirs(ga._merge(text, SECRET, None, settings)) == theirs(text)


@given(st.lists(CODES, unique=True, min_size=1, max_size=6), st.data())
def test_a_spent_scratch_code_never_comes_back(codes, data):
    text, spent = ga._render(SECRET, codes), set()
    for _ in range(4):
        used = data.draw(st.sets(st.sampled_from(codes))) & set(ga._parse(text).scratch_codes)
        text, spent = ga._drop_scratch_codes(text, used), spent | used
        wanted = data.draw(st.none() | st.lists(st.sampled_from(codes), unique=True))
        text = ga._merge(text, SECRET, wanted, data.draw(SETTINGS))
        unspent = set(ga._parse(text).scratch_codes)
        assert not spent & unspent
        if wanted is not None:
            assert unspent == set(wanted) - spent


@given(FILES, FILES)
def test_joined_files_count_as_spent_what_is_so_in_either(text, other):
    ours, theirs = ga._parse(text), ga._parse(other)
    joined = ga._parse(ga._join(text, other))
    assert not set(joined.scratch_codes) - set(ours.scratch_codes)
    if ours.key == theirs.key:
        assert not set(joined.scratch_codes) - set(theirs.scratch_codes)
        assert set(joined.blocked or ()) >= set(ours.blocked or ())
        if ours.blocked is not None and ours.disallow_reuse:
            assert set(joined.blocked) >= set(theirs.blocked or ())


# ---- New secrets, and what is refused from the caller ----------------------------------------


def test_generated_secrets_have_160_bits():
    made = {ga._generate_secret() for _ in range(50)}
    assert len(made) == 50
    assert {len(ga._key(secret)) for secret in made} == {20}
    assert {ga._checked_secret(secret) for secret in made} == made


def test_generated_scratch_codes_are_different_and_have_eight_digits():
    codes = ga._generate_scratch_codes(500)
    assert len(set(codes)) == 500
    assert ga._checked_scratch_codes(codes) == codes
    assert codes != sorted(codes)


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ("**********", "Salt 3008 masks"),
        ("MZXW6YTBOJRXEZLUMZXW6YT====", "padding"),
        ("MZXW6YTBOJRXEZLUMZXW6YT1B0", "only A-Z and 2-7"),
        ("MZXW 6YTB OJRX EZLU MZXW 6YTB OJ", "only A-Z and 2-7"),
        ("", "only A-Z and 2-7"),
        ("MZXW6YTBOJRXEZLU", "has 80 bits, fewer than 128"),
        (23456723456723456723456723456723, "must be text"),
    ],
)
def test_refused_secrets(secret, words):
    with pytest.raises(SaltInvocationError) as error:
        ga._checked_secret(secret)
    assert words in str(error.value)
    assert not secret or str(secret) not in str(error.value)


def test_lower_case_secrets_are_taken():
    assert ga._checked_secret(OTHER_SECRET.lower()) == OTHER_SECRET


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ([12345678, 1234567], "scratch_codes:1: must be a number"),
        (["09999999"], "scratch_codes:0: must be a number"),
        ([True], "scratch_codes:0: must be a number"),
        ([12345678, "12345678"], "twice"),
        ("12345678", "must be a list"),
    ],
)
def test_refused_scratch_codes(codes, words):
    with pytest.raises(SaltInvocationError) as error:
        ga._checked_scratch_codes(codes)
    assert words in str(error.value)
    assert "12345678" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"windows": 3}, "no such key: windows"),
        ({"window": 101}, "window: must be a whole number from 1 to 100"),
        ({"window": True}, "window: must be"),
        ({"disallow_reuse": "yes"}, "disallow_reuse: must be true or false"),
        ({"store": "both"}, "store: must be central or home"),
        ({"step": "30"}, "step: must be a whole number from 1 to 60"),
        ({"rate_limit": {"attempts": 3}}, "rate_limit: needs attempts and seconds"),
        ({"rate_limit": {"attempts": 0, "seconds": 30}}, "rate_limit:attempts: must be"),
    ],
)
def test_refused_settings(settings, words):
    with pytest.raises(SaltInvocationError) as error:
        ga._checked_settings(settings)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("account", "issuer", "step", "uri"),
    [
        ("sean", "bastion", 30, "otpauth://totp/bastion:sean?secret=S&issuer=bastion"),
        ("sean", "bastion", 60, "otpauth://totp/bastion:sean?secret=S&issuer=bastion&period=60"),
        ("a@b:c", "R & D", 30, "otpauth://totp/R%20%26%20D:a%40b%3Ac?secret=S&issuer=R%20%26%20D"),
        ("ä/?", "x", 30, "otpauth://totp/x:%C3%A4%2F%3F?secret=S&issuer=x"),
    ],
)
def test_uri(account, issuer, step, uri):
    assert ga._uri("S", account, issuer, step) == uri


def test_no_repr_shows_a_secret():
    assert SECRET not in repr(ga._parse(f"{SECRET}\n"))
    assert "1234" not in repr(ga._parse(f"{SECRET}\n12345678\n"))


def test_a_hostile_file_is_read_in_no_time():
    """Nested quotes once made the search for scratch codes exponential."""
    began = ga.time.perf_counter()
    for filler in ('"', '"\r', " ", "\n", "1", '" A '):
        ga._parse(f"{SECRET}\n" + filler * (60_000 // len(filler)))
    assert ga.time.perf_counter() - began < 2
