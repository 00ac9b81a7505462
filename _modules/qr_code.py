"""
QR codes for a terminal, in pure Python: bytes, error correction level M, versions 1 to 20
(up to 666 bytes), after ISO/IEC 18004. The tests compare every module with other encoders' and
have a decoder read what is drawn.
"""

import itertools
import locale
import re

from salt.exceptions import SaltInvocationError

__virtualname__ = "qr_code"

# By version, level M: codewords for error correction in a block, and how many blocks (table 9)
_CORRECTION = (
    *(10, 16, 26, 18, 24, 16, 18, 22, 22, 26),
    *(30, 22, 22, 24, 24, 28, 28, 26, 26, 26),
)
_BLOCKS = (1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16)
_LEVEL_M = 0b00
_QUIET = 4  # modules of margin on each side

_MASKS = (
    lambda y, x: (y + x) % 2 == 0,
    lambda y, x: y % 2 == 0,
    lambda y, x: x % 3 == 0,
    lambda y, x: (y + x) % 3 == 0,
    lambda y, x: (y // 2 + x // 3) % 2 == 0,
    lambda y, x: y * x % 2 + y * x % 3 == 0,
    lambda y, x: (y * x % 2 + y * x % 3) % 2 == 0,
    lambda y, x: ((y + x) % 2 + y * x % 3) % 2 == 0,
)


def __virtual__():
    return __virtualname__


def terminal(text, utf8=None):
    """
    Draw a text as a QR code for a terminal. The colours are set, so that it is black on white on
    dark terminals as well.

    text
        What a scanner shall read, at most 666 bytes in UTF-8.

    utf8
        Whether half blocks may be used; without them it is twice as high and wide. Default: what
        the locale says.

    Returns the lines, each with its line end.

    CLI Example:

    .. code-block:: bash

        salt-call --local --out=newline_values_only qr_code.terminal https://saltproject.io
    """
    if utf8 is None:
        utf8 = "UTF-8" in locale.getlocale()
    side = _matrix(text.encode())
    blank = [False] * _QUIET
    rows = [blank + row + blank for row in side]
    margin = [[False] * len(rows[0]) for _ in range(_QUIET)]
    rows = margin + rows + margin
    return "".join(_half_blocks(rows) if utf8 else _ascii(rows))


def _half_blocks(rows):
    rows = rows if len(rows) % 2 == 0 else [*rows, [False] * len(rows[0])]
    signs = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        drawn = "".join(signs[pair] for pair in zip(upper, lower, strict=True))
        yield f"\033[30;107m{drawn}\033[0m\n"


def _ascii(rows):
    for row in rows:
        drawn = "".join("\033[30;40m##" if dark else "\033[97;107m  " for dark in row)
        yield f"{drawn}\033[0m\n"


# ---- From bytes to modules -------------------------------------------------------------------


def _matrix(data):
    """Rows of modules, True for dark ones, masked with the mask of least penalty."""
    version = _version(len(data))
    functions = _function_patterns(version)
    bits = _bits(_interleaved(_codewords(data, version), version))
    plain = _with_data(functions, bits)
    masked = (_masked(plain, functions, mask) for mask in range(len(_MASKS)))
    return min(masked, key=_penalty)


def _total_codewords(version):
    """How many codewords fit between the function patterns (7.1 of the standard)."""
    modules = (16 * version + 128) * version + 64
    if version > 1:
        positions = version // 7 + 2
        modules -= (25 * positions - 10) * positions - 55
    return (modules - (36 if version > 6 else 0)) // 8


def _data_codewords(version):
    return _total_codewords(version) - _CORRECTION[version - 1] * _BLOCKS[version - 1]


def _length_bits(version):
    return 8 if version < 10 else 16


def _version(length):
    for version in range(1, len(_BLOCKS) + 1):
        if 4 + _length_bits(version) + 8 * length <= 8 * _data_codewords(version):
            return version
    raise SaltInvocationError("too long for a QR code of this module: at most 666 bytes")


def _codewords(data, version):
    bits = f"0100{len(data):0{_length_bits(version)}b}" + "".join(f"{byte:08b}" for byte in data)
    capacity = 8 * _data_codewords(version)
    bits += "0000"[: capacity - len(bits)]
    bits += "0" * (-len(bits) % 8)
    words = [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]
    padding = [0xEC, 0x11] * capacity
    return words + padding[: capacity // 8 - len(words)]


def _interleaved(words, version):
    """Data in blocks, each with its error correction, taken in turns."""
    blocks, correction = _BLOCKS[version - 1], _CORRECTION[version - 1]
    short, longer = divmod(len(words), blocks)
    parts, position = [], 0
    for block in range(blocks):
        size = short + (block >= blocks - longer)
        parts.append(words[position : position + size])
        position += size
    checks = [_remainder(part, correction) for part in parts]
    taken = [part[i] for i in range(short + 1) for part in parts if i < len(part)]
    return taken + [check[i] for i in range(correction) for check in checks]


def _times(a, b):
    """Product in GF(256) modulo x⁸ + x⁴ + x³ + x² + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def _generator(degree):
    """Coefficients of (x - 1)(x - 2)(x - 4)…, without the leading 1."""
    coefficients, root = [1], 1
    for _ in range(degree):
        shifted = [*coefficients, 0]
        scaled = [0, *(_times(c, root) for c in coefficients)]
        coefficients = [a ^ b for a, b in zip(shifted, scaled, strict=True)]
        root = _times(root, 2)
    return coefficients[1:]


def _remainder(words, degree):
    """Reed-Solomon: what is left of the words times x^degree, divided by the generator."""
    generator = _generator(degree)
    rest = [0] * degree
    for word in words:
        factor = word ^ rest[0]
        rest = [a ^ _times(g, factor) for a, g in zip([*rest[1:], 0], generator, strict=True)]
    return rest


def _bits(words):
    return [bool(word >> shift & 1) for word in words for shift in range(7, -1, -1)]


# ---- Modules ---------------------------------------------------------------------------------


def _function_patterns(version):
    """Finders, timing, alignment and version; the format's place is kept free. None: for data."""
    size = 17 + 4 * version
    grid = [[None] * size for _ in range(size)]
    for i in range(size):
        grid[6][i] = grid[i][6] = i % 2 == 0
    for y, x in ((3, 3), (3, size - 4), (size - 4, 3)):
        _draw_square(grid, y, x, 4, light=(2, 4))
    positions = _alignment_positions(version)
    for y in positions:
        for x in positions:
            if (y, x) not in ((6, 6), (6, positions[-1]), (positions[-1], 6)):
                _draw_square(grid, y, x, 2, light=(1,))
    _draw_format(grid, 0)
    if version > 6:
        _draw_version(grid, version)
    return grid


def _draw_square(grid, center_y, center_x, radius, light):
    for y in range(-radius, radius + 1):
        for x in range(-radius, radius + 1):
            if 0 <= center_y + y < len(grid) and 0 <= center_x + x < len(grid):
                grid[center_y + y][center_x + x] = max(abs(y), abs(x)) not in light


def _alignment_positions(version):
    """Annex E: evenly spaced from the far end, with the odd rest behind the first."""
    if version == 1:
        return []
    count, last = version // 7 + 2, 10 + 4 * version
    gap = -((6 - last) // (2 * (count - 1))) * 2
    return [6, *(last - gap * i for i in range(count - 2, -1, -1))]


def _checked_bits(value, bits, generator):
    """A BCH code: the value with its remainder behind it."""
    degree = generator.bit_length() - 1
    rest = value << degree
    for shift in range(bits - 1, -1, -1):
        if rest >> (shift + degree) & 1:
            rest ^= generator << shift
    return value << degree | rest


def _draw_format(grid, mask):
    word = _checked_bits(_LEVEL_M << 3 | mask, 5, 0x537) ^ 0x5412
    bits = [bool(word >> i & 1) for i in range(15)]
    size = len(grid)
    around = [(i, 8) for i in (*range(6), 7, 8)] + [(8, 7), *((8, i) for i in range(5, -1, -1))]
    apart = [(8, size - 1 - i) for i in range(8)] + [(size - 7 + i, 8) for i in range(7)]
    for places in (around, apart):
        for (y, x), bit in zip(places, bits, strict=True):
            grid[y][x] = bit
    grid[size - 8][8] = True


def _draw_version(grid, version):
    word = _checked_bits(version, 6, 0x1F25)
    for i in range(18):
        bit, far, near = bool(word >> i & 1), len(grid) - 11 + i % 3, i // 3
        grid[far][near] = grid[near][far] = bit


def _with_data(functions, bits):
    """Two columns at a time from the right, upwards and downwards in turn."""
    grid = [list(row) for row in functions]
    size, bits = len(grid), iter(bits)
    columns = [x if x > 6 else x - 1 for x in range(size - 1, 0, -2)]
    for turn, right in enumerate(columns):
        for step in range(size):
            y = step if turn % 2 else size - 1 - step
            for x in (right, right - 1):
                if grid[y][x] is None:
                    grid[y][x] = next(bits, False)
    return grid


def _masked(plain, functions, mask):
    grid = [
        [module ^ (functions[y][x] is None and _MASKS[mask](y, x)) for x, module in enumerate(row)]
        for y, row in enumerate(plain)
    ]
    _draw_format(grid, mask)
    return grid


def _penalty(grid):
    """How hard to scan (7.8.3.1): long runs, squares, what looks like a finder, imbalance."""
    lines = ["".join("#" if module else "." for module in row) for row in grid]
    lines += ["".join(column) for column in zip(*lines, strict=True)]
    points = sum(_line_penalty(line) for line in lines)
    for upper, lower in itertools.pairwise(grid):
        squares = zip(upper, upper[1:], lower, lower[1:], strict=False)
        points += 3 * sum(len(set(square)) == 1 for square in squares)
    dark = sum(map(sum, grid))
    return points + 10 * int(abs(dark * 20 - len(grid) ** 2 * 10) / len(grid) ** 2)


def _line_penalty(line):
    runs = line.replace(".#", ". #").replace("#.", "# .").split()
    points = sum(len(run) - 2 for run in runs if len(run) > 4)
    # the quiet zone makes a finder, too
    finders = re.findall(r"(?<=\.{4})#\.###\.#|#\.###\.#(?=\.{4})", f"....{line}....")
    return points + 40 * len(finders)
