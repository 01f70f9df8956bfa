"""A job whose output is random and known: a program that prints it over some time, and its digest."""

from __future__ import annotations

import hashlib
import random

MEBIBYTE = 1 << 20
SEED = 1

# python3 -c PROGRAM BYTES SECONDS: whole MiB, spread evenly over the seconds.
PROGRAM = f"""
import os, random, sys, time
count, seconds = int(sys.argv[1]) >> 20, float(sys.argv[2])
source, begin = random.Random({SEED}), time.monotonic()
for number in range(count):
    data = source.randbytes(1 << 20)
    while data:
        data = data[os.write(1, data):]
    time.sleep(max(0, begin + seconds * (number + 1) / count - time.monotonic()))
"""


def digest(size: int) -> str:
    """SHA-256 of what the program prints, in hexadecimal."""
    source, result = random.Random(SEED), hashlib.sha256()
    for _ in range(size // MEBIBYTE):
        result.update(source.randbytes(MEBIBYTE))
    return result.hexdigest()
