"""Seeded damage to files: the same number gives the same damage anywhere."""

import random

NUMBERS = (
    "nan", "inf", "-inf", "1e999", "-1", "0", "1e308", "-1e308", "1e-320", "99999999999999999999", "0.5", "2147483648",
    "abc", '""', "true", "[]", "{}", "[[[]]]", "٣", "1_000", "0x1F", "1e", "--1", "1.2.3", '"nan"', '"1 parsec"',
    "100000000", "None", "\x00", "1979-05-27", "[1, 2, 3, 4]", "{ a = 1 }",
)  # fmt: skip
WORDS = (
    "",
    "\x00",
    "\ufeff",
    "é",
    "😀",
    "[" * 3000,
    "{" * 500,
    '"',
    "'''",
    "#",
    "=",
    "\r",
    "\t",
    "&a *a",
    "x" * 100000,
)


def damage_bytes(data: bytes, seed: int) -> bytes:
    """One damage of the kinds that disks, copies and people make."""
    rng = random.Random(seed)
    size = len(data)
    at = rng.randrange(size)
    length = min(rng.choice((1, 2, 8, 64, 512, 4096)), size - at)
    kind = rng.choice(("flip", "flip", "bit", "bit", "flips", "truncate", "tail", "insert", "delete", "repeat", "zero",
                       "ones", "huge", "swap", "append"))  # fmt: skip
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]
    if kind == "bit":
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == "flips":
        changed = bytearray(data)
        for _ in range(rng.randrange(2, 30)):
            changed[rng.randrange(size)] = rng.randrange(256)
        return bytes(changed)
    if kind == "truncate":
        return data[:at]
    if kind == "tail":
        return data[: size - rng.randrange(1, min(size, 64) + 1)]
    if kind == "insert":
        return data[:at] + rng.randbytes(length) + data[at:]
    if kind == "delete":
        return data[:at] + data[at + length :]
    if kind == "repeat":
        return data[: at + length] + data[at:]
    if kind in ("zero", "ones"):
        return data[:at] + (b"\0" if kind == "zero" else b"\xff") * length + data[at + length :]
    if kind == "huge":
        value = rng.choice((2**63 - 1, 2**62, 2**40, 2**31, 2**32 - 1, 10**12)).to_bytes(8, "little")
        return data[:at] + value[: size - at] + data[at + 8 :]
    if kind == "swap":
        other = rng.randrange(size - length + 1)
        first, second = sorted((at, other))
        if second < first + length:
            return data[:at] + data[at:][::-1]
        a, b = data[first : first + length], data[second : second + length]
        return data[:first] + b + data[first + length : second] + a + data[second + length :]
    return data + rng.randbytes(length)


def damage_text(data: bytes, seed: int) -> bytes:
    """Damage to lines, words and numbers; every fourth one is damage to bytes."""
    rng = random.Random(seed)
    if rng.random() < 0.25:
        return damage_bytes(data, seed)
    lines = data.decode("utf-8").split("\n")
    at = rng.randrange(len(lines))
    kind = rng.choice(("number", "number", "number", "word", "delete word", "repeat word", "swap words", "delete line",
                       "repeat line", "swap lines", "join", "crlf", "move"))  # fmt: skip
    words = lines[at].split(" ")
    k = rng.randrange(len(words))
    if kind == "number":
        places = [
            (i, j) for i, line in enumerate(lines) for j, w in enumerate(line.split(" ")) if any(c.isdigit() for c in w)
        ]
        if places:
            at, k = rng.choice(places)
            words = lines[at].split(" ")
            old = words[k].strip("[],}")
            words[k] = words[k].replace(old, rng.choice(NUMBERS), 1)
            lines[at] = " ".join(words)
    elif kind == "word":
        words[k] = rng.choice(WORDS)
        lines[at] = " ".join(words)
    elif kind == "delete word":
        lines[at] = " ".join(words[:k] + words[k + 1 :])
    elif kind == "repeat word":
        lines[at] = " ".join([*words[:k], words[k], *words[k:]])
    elif kind == "swap words":
        other = rng.randrange(len(words))
        words[k], words[other] = words[other], words[k]
        lines[at] = " ".join(words)
    elif kind == "delete line":
        del lines[at]
    elif kind == "repeat line":
        lines.insert(at, lines[at])
    elif kind == "swap lines":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
    elif kind == "join":
        lines[at : at + 2] = ["".join(lines[at : at + 2])]
    elif kind == "move":
        lines.insert(rng.randrange(len(lines)), lines.pop(at))
    else:
        lines = [line + "\r" for line in lines]
    return "\n".join(lines).encode("utf-8", "surrogatepass")
