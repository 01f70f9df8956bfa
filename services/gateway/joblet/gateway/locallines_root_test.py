"""A socket that somebody else listens on is told nothing."""

import asyncio
import sys
from pathlib import Path

import pytest

from joblet.gateway.locallines_test import again, run
from joblet.gateway.localstream_root_test import LISTENER, NOBODY, listening
from joblet.gateway.testing import world

pytestmark = pytest.mark.root


def test_a_listener_of_another_uid_hears_nothing(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        async with world(tmp_path) as it:
            path, program = it.config.gateway.executor_socket, LISTENER.replace("SOCK_SEQPACKET", "SOCK_STREAM")
            with listening([sys.executable, "-c", program, str(path), str(NOBODY)]) as heard:
                await again(it)
                await run(it)
                assert set(it.node.followed) == {"call"}
                return heard.readline()

    assert asyncio.run(scenario()) == b"b''\n"
