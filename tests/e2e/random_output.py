"""A job whose output is random and known: a program that prints it over some time, and its digest."""

from __future__ import annotations

import hashlib
import random

MEBIBYTE = 1 << 20
SEED = 1

# python3 -c PROGRAM BYTES SECONDS [PORT]: whole MiB, spread evenly over the seconds; the last one waits until the port
# of the loopback interface has accepted a connection and closed it.
PROGRAM = f"""
import os, random, socket, sys, time
count, seconds = int(sys.argv[1]) >> 20, float(sys.argv[2])
source, begin = random.Random({SEED}), time.monotonic()
for number in range(count):
    data = source.randbytes(1 << 20)
    if number == count - 1 and len(sys.argv) > 3:
        socket.create_connection(("127.0.0.1", int(sys.argv[3]))).recv(1)
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
