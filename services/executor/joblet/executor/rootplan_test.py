from pathlib import Path

from joblet.executor import syscalls
from joblet.executor.rootplan import Directory, Host, Link, ReadOnlyBind, Seal, Tmpfs, bound_paths, inspect_host, plan

MERGED = Host((("bin", "usr/bin"), ("lib", "usr/lib")))
SEPARATE = Host((("bin", None), ("lib", "usr/lib")))


def test_links_of_a_merged_usr_are_kept() -> None:
    operations = plan(MERGED)
    assert Link("bin", "usr/bin") in operations
    assert bound_paths(operations) == ("/usr", "/sys/devices/system/cpu")


def test_directories_of_their_own_are_bound() -> None:
    operations = plan(SEPARATE)
    assert operations.index(Directory("bin")) < operations.index(ReadOnlyBind("/bin", "bin"))
    assert "/bin" in bound_paths(operations)


def test_nothing_of_the_host_is_bound_but_system_directories() -> None:
    sources = {operation.source for operation in plan(SEPARATE) if isinstance(operation, ReadOnlyBind)}
    assert sources == {"/usr", "/bin", "/sys/devices/system/cpu"}


def test_every_tmpfs_is_sealed_in_the_end_and_the_root_last() -> None:
    operations = plan(MERGED)
    made = {(operation.path, operation.flags) for operation in operations if isinstance(operation, Tmpfs)}
    sealed = [(operation.path, operation.flags) for operation in operations[-2:] if isinstance(operation, Seal)]
    assert set(sealed) == made
    assert sealed[-1] == (".", syscalls.MS_NOSUID | syscalls.MS_NODEV)


def test_mount_points_of_jobinit_exist() -> None:
    paths = {operation.path for operation in plan(MERGED) if isinstance(operation, Directory)}
    assert {"proc", "dev", "dev/pts", "dev/shm", "tmp", "work"} <= paths


def test_a_host_is_told_by_its_top_level(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib").write_text("a file is no system directory")
    assert inspect_host(tmp_path) == Host((("bin", "usr/bin"), ("lib64", None)))
