import re

from joblet.executor import procmasks
from joblet.executor.hardening_for_tests import JOBINIT_SOURCES


def test_the_names_are_those_of_jobinit() -> None:
    source = (JOBINIT_SOURCES / "rootfs.c").read_text()
    arrays = dict(re.findall(r"const (masked_files|masked_directories|read_only)\[\] = \{(.*?)\};", source, re.DOTALL))
    names = {array: tuple(re.findall(r'"([^"]+)"', text)) for array, text in arrays.items()}
    assert names == {
        "masked_files": procmasks.EMPTY_FILES, "masked_directories": procmasks.EMPTY_DIRECTORIES,
        "read_only": procmasks.READ_ONLY,
    }  # fmt: skip


def test_every_linux_has_some() -> None:
    assert "/proc/sys" in procmasks.present()
