"""
The QR encoder against two others (segno, qrcode) and a decoder (zxing-cpp), none of which shares
code with it. segno puts a zero codeword before the padding where the standard has none, hence
qrcode for the modules; qrcode scores masks in a way of its own, hence segno for those.
"""

import re
import string

import pytest
import qrcode
import segno.encoder
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st
from salt.exceptions import SaltInvocationError

from tests.support import load

qr_code = load("modules", "qr_code")

URI = (
    "otpauth://totp/bastion.example.org:sean.o-casey%40example.org"
    "?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=bastion.example.org&period=60"
)
TEXTS = st.text(string.printable[:95], min_size=1, max_size=666)
#: The largest text of each version (table 7, level M, bytes)
CAPACITIES = (14, 26, 42, 62, 84, 106, 122, 152, 180, 213, 251, 287, 331, 362, 412, 450, 504, 560)
CAPACITIES += (624, 666)


def masks(text):
    version = qr_code._version(len(text))
    functions = qr_code._function_patterns(version)
    words = qr_code._interleaved(qr_code._codewords(text.encode(), version), version)
    plain = qr_code._with_data(functions, qr_code._bits(words))
    return [qr_code._masked(plain, functions, mask) for mask in range(8)]


def others_modules(text, mask):
    other = qrcode.QRCode(
        error_correction=qrcode.constants.ERROR_CORRECT_M, border=0, mask_pattern=mask
    )
    data = qrcode.util.QRData(text.encode(), mode=qrcode.util.MODE_8BIT_BYTE, check_data=False)
    other.add_data(data)
    other.make(fit=True)
    return [list(map(bool, row)) for row in other.modules]


@pytest.mark.parametrize("version", range(1, 21))
def test_every_version_and_mask(version):
    longest = (URI * 5)[: CAPACITIES[version - 1]]
    shortest = (URI * 5)[: CAPACITIES[version - 2] + 1 if version > 1 else 1]
    for text in (longest, shortest):
        made = masks(text)
        assert len(made[0]) == 17 + 4 * version
        for mask in range(8):
            assert made[mask] == others_modules(text, mask)


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_any_text(text):
    made = qr_code._matrix(text.encode())
    mask = masks(text).index(made)
    assert made == others_modules(text, mask)


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_the_mask_of_least_penalty_is_taken(text):
    scores = [
        segno.encoder.evaluate_mask([bytearray(row) for row in grid], len(grid), len(grid))
        for grid in masks(text)
    ]
    assert [qr_code._penalty(grid) for grid in masks(text)] == scores
    assert qr_code._matrix(text.encode()) == masks(text)[scores.index(min(scores))]


def pixels(drawn):
    """Paint what a terminal shows: characters are 1 wide and 2 high."""
    colours = {"30;107": (0, 255), "30;40": (0, 0), "97;107": (255, 255)}
    rows = []
    for line in drawn.splitlines():
        upper, lower = [], []
        for code, text in re.findall(r"\033\[([0-9;]+)m([^\033]*)", line):
            assert text == "" or code in colours, "every sign needs its colours"
            for sign in text:
                ink, paper = colours[code]
                assert sign in " ▀▄█#"
                upper.append(ink if sign in "▀█#" else paper)
                lower.append(ink if sign in "▄█#" else paper)
        rows += [upper, lower]
    return rows


def decoded(rows):
    big = [[pixel for pixel in row for _ in range(4)] for row in rows for _ in range(4)]
    image = memoryview(bytes(pixel for row in big for pixel in row))
    found = zxingcpp.read_barcodes(image.cast("B", (len(big), len(big[0]))))
    return [barcode.text for barcode in found]


@pytest.mark.parametrize("utf8", [True, False])
@pytest.mark.parametrize("text", [URI, "x", URI * 3])
def test_a_decoder_reads_what_is_drawn(text, utf8):
    drawn = qr_code.terminal(text, utf8)
    assert utf8 or drawn.isascii()
    assert decoded(pixels(drawn)) == [text]


@pytest.mark.parametrize(
    ("utf8", "size", "margin"),
    [(True, [30, 29], 4), (False, [58, 58], 8)],  # 21 + 2 · 4, and one to fill the last line
)
def test_there_is_a_quiet_zone_of_four_light_modules(utf8, size, margin):
    rows = pixels(qr_code.terminal("x", utf8))
    assert [len(rows), len(rows[0])] == size
    assert all(pixel == 255 for row in rows[:margin] + rows[-margin:] for pixel in row)
    assert all(pixel == 255 for row in rows for pixel in row[:margin] + row[-margin:])


def test_too_long():
    assert qr_code._matrix(b"x" * 666)
    with pytest.raises(SaltInvocationError, match="at most 666 bytes"):
        qr_code.terminal("x" * 667)
