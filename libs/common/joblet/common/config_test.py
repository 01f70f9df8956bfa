"""The schema of the configuration file: the specification's keys and defaults, and refusal of everything else."""

from dataclasses import fields, is_dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

from joblet.common import config, yamlschema
from joblet.common.config import Config, GrpcConfig, JobletConfig, load
from joblet.common.errors import ConfigError

# As printed in the API reference, "Server Configuration".
PRINTED = """\
joblet:
  defaultCpuLimit: 100        # Default CPU percentage
  defaultMemoryLimit: 512     # Default memory in MB
  defaultIoLimit: 0           # Default I/O limit (0=unlimited)
  maxConcurrentJobs: 100      # Maximum concurrent jobs
  jobTimeout: "1h"            # Maximum job runtime
  cleanupTimeout: "5s"        # Resource cleanup timeout

grpc:
  maxRecvMsgSize: 524288      # 512KB max receive message
  maxSendMsgSize: 4194304     # 4MB max send message
  keepAliveTime: "30s"        # Connection keep-alive
"""


def write(directory: Path, text: str) -> Path:
    file = directory / "joblet-config.yml"
    file.write_text(text)
    return file


def problems(directory: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(write(directory, text))
    return caught.value.problems


def test_the_printed_file_holds_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, PRINTED)) == Config()


@pytest.mark.parametrize(
    ("key", "value", "field", "parsed"),
    [
        ("joblet.defaultCpuLimit", 50, "default_cpu_limit", 50),
        ("joblet.defaultMemoryLimit", 64, "default_memory_limit", 64),
        ("joblet.defaultIoLimit", 10**10, "default_io_limit", 10**10),
        ("joblet.defaultNetwork", "none", "default_network", "none"),
        ("joblet.maxConcurrentJobs", 8, "max_concurrent_jobs", 8),
        ("joblet.cpuOvercommit", 2.5, "cpu_overcommit", 2.5),
        ("joblet.memoryOvercommit", 2, "memory_overcommit", 2.0),
        ("joblet.jobTimeout", "2h", "job_timeout_seconds", 7200.0),
        ("joblet.jobRetention", "7d", "job_retention_seconds", 604_800.0),
        ("joblet.maxFinishedJobs", 50, "max_finished_jobs", 50),
        ("joblet.cleanupTimeout", "500ms", "cleanup_timeout_seconds", 0.5),
        ("joblet.maxProcesses", 64, "max_processes", 64),
        ("grpc.maxRecvMsgSize", 1_000_000, "max_recv_msg_size", 1_000_000),
        ("grpc.maxSendMsgSize", 1_000_000, "max_send_msg_size", 1_000_000),
        ("grpc.keepAliveTime", "1m", "keep_alive_time_seconds", 60.0),
        ("logging.level", "DEBUG", "level", "DEBUG"),
        ("logging.format", "json", "format", "json"),
        ("gateway.listen", "[::1]:1", "listen", "[::1]:1"),
        ("gateway.metricsListen", "localhost:0", "metrics_listen", "localhost:0"),
        ("gateway.database", "postgresql+psycopg://db/joblet", "database", "postgresql+psycopg://db/joblet"),
        ("gateway.nodeLeaseSeconds", 3, "node_lease_seconds", 3),
        ("gateway.readerTimeout", "5s", "reader_timeout_seconds", 5.0),
        ("gateway.logstoreSocket", "/s", "logstore_socket", Path("/s")),
        ("gateway.executorSocket", "/s", "executor_socket", Path("/s")),
        ("gateway.secretsKey", "/key", "secrets_key", Path("/key")),
        ("gateway.uploadDirectory", "/uploads", "upload_directory", Path("/uploads")),
        ("gateway.uploadMaxMb", 5, "upload_max_mb", 5),
        ("gateway.uploadTotalMb", 6, "upload_total_mb", 6),
        ("gateway.uploadAge", "2h", "upload_age_seconds", 7200.0),
        ("executor.gateways", ["a:1", "b:2"], "gateways", ("a:1", "b:2")),
        ("executor.advertise", "node-1:50052", "advertise", "node-1:50052"),
        ("executor.logstoreAddress", "node-1:1", "logstore_address", "node-1:1"),
        ("executor.runtimeAddress", "node-1:2", "runtime_address", "node-1:2"),
        ("executor.stateDir", "/state", "state_dir", Path("/state")),
        ("executor.logstoreSocket", "/s", "logstore_socket", Path("/s")),
        ("executor.jobinit", "/usr/bin/jobinit", "jobinit", Path("/usr/bin/jobinit")),
        ("executor.cgroupParent", "jbtest", "cgroup_parent", "jbtest"),
        ("executor.uidRangeStart", 100_000, "uid_range_start", 100_000),
        ("executor.uidRangeSize", 131_072, "uid_range_size", 131_072),
        ("executor.stopGrace", "1s", "stop_grace_seconds", 1.0),
        ("executor.logRateLimit", 1_000_000, "log_rate_limit", 1_000_000),
        ("executor.tmpSizeMb", 1, "tmp_size_mb", 1),
        ("executor.workSizeMb", 2, "work_size_mb", 2),
        ("executor.outputMaxMb", 7, "output_max_mb", 7),
        ("executor.outputMaxFiles", 7, "output_max_files", 7),
        ("executor.outputTimeout", "7s", "output_timeout_seconds", 7.0),
        ("executor.outputTotalMb", 7, "output_total_mb", 7),
        ("executor.outputAge", "7h", "output_age_seconds", 7 * 3600.0),
        ("executor.contentTotalMb", 7, "content_total_mb", 7),
        ("executor.contentAge", "5m", "content_age_seconds", 300.0),
        ("executor.labels", {"zone": "a"}, "labels", {"zone": "a"}),
        ("logstore.directory", "/logs", "directory", Path("/logs")),
        ("logstore.socket", "/s", "socket", Path("/s")),
        ("logstore.readerTimeout", "5s", "reader_timeout_seconds", 5.0),
        ("logstore.sealAfter", "1h", "seal_after_seconds", 3600.0),
        ("logstore.sealMinKb", 0, "seal_min_kb", 0),
        ("logstore.retention.maxAge", "7d", "max_age_seconds", 7 * 86_400.0),
        ("logstore.retention.maxJobSizeMb", 1, "max_job_size_mb", 1),
        ("logstore.retention.maxTotalMb", 2, "max_total_mb", 2),
        ("logstore.retention.minFreeMb", 3, "min_free_mb", 3),
        ("logstore.retention.readerHold", "1s", "reader_hold_seconds", 1.0),
        ("logstore.archive.url", "s3://bucket/a/b", "url", "s3://bucket/a/b"),
        ("logstore.archive.endpoint", "http://[::1]:9000", "endpoint", "http://[::1]:9000"),
        ("logstore.archive.region", "eu-central-1", "region", "eu-central-1"),
        ("logstore.archive.credentialsFile", "/secret", "credentials_file", Path("/secret")),
        ("runtime.directory", "/runtimes", "directory", Path("/runtimes")),
    ],
)
def test_every_key_is_read(tmp_path: Path, key: str, value: object, field: str, parsed: object) -> None:
    *sections, name = key.split(".")
    document: object = {name: value}
    for section in reversed(sections):
        document = {section: document}
    loaded = reduce(getattr, sections, load(write(tmp_path, yaml.safe_dump(document))))
    assert getattr(loaded, field) == parsed


@pytest.mark.parametrize(
    "url", ["bucket", "s3://", "s3://key:secret@bucket", "http://host/b", "file://relative", "s3://b?x=1"]
)
def test_an_archive_is_a_bucket_or_a_directory(tmp_path: Path, url: str) -> None:
    (problem,) = problems(tmp_path, yaml.safe_dump({"logstore": {"archive": {"url": url}}}))
    assert problem.startswith("logstore.archive.url: expected s3://BUCKET/PREFIX or file:///DIRECTORY, got ")


def keys(section: Any, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for item in fields(section):
        value, key = getattr(section, item.name), prefix + yamlschema.key_of(item)
        found |= keys(value, f"{key}.") if is_dataclass(value) else {key}
    return found


def test_every_key_is_in_the_table_above() -> None:
    mark = next(mark for mark in test_every_key_is_read.pytestmark if mark.name == "parametrize")  # type: ignore[attr-defined]
    tested = {row[0] for row in mark.args[1]}
    same_in_every_service = ("listen", "metricsListen", "tls.ca", "tls.cert", "tls.key")
    assert {key for key in keys(Config()) if not key.endswith(same_in_every_service)} <= tested
    assert tested <= keys(Config())


def test_all_problems_are_reported_by_name_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        """
joblet: {defaultCpuLimit: fast, maxConcurrentJobs: 0, jobTimeOut: 1h, cleanupTimeout: 5}
grpc: [1]
logging: {level: loud}
gateway: {listen: 50051, tls: {ca: 1, crt: x}, database: mysql://x}
executor: {gateways: [], labels: {a: 1}, cgroupParent: ../x, maxProcesses: true}
workflows: {}
""",
    )
    assert found == (
        "workflows: unknown key (allowed: joblet, grpc, logging, gateway, executor, logstore, runtime)",
        "joblet.jobTimeOut: unknown key (allowed: defaultCpuLimit, defaultMemoryLimit, defaultIoLimit, defaultNetwork,"
        " maxConcurrentJobs, cpuOvercommit, memoryOvercommit, jobTimeout, cleanupTimeout, jobRetention,"
        " maxFinishedJobs, maxProcesses)",
        'joblet.defaultCpuLimit: expected a whole number from 0 to 1000000, got "fast"',
        "joblet.maxConcurrentJobs: expected a whole number from 1 to 2147483647, got 0",
        'joblet.cleanupTimeout: expected a duration of at least 0.1s such as "30s", "1h30m" or "100ms", got 5',
        "grpc: expected a mapping of keys, got [1]",
        'logging.level: expected one of DEBUG, INFO, WARN, ERROR, got "loud"',
        'gateway.listen: expected an address "host:port" such as "0.0.0.0:50051" or "[::]:50051", got 50051',
        "gateway.tls.crt: unknown key (allowed: ca, cert, key)",
        "gateway.tls.ca: expected a path, got 1",
        'gateway.database: expected a database URL, sqlite:///FILE or postgresql://..., got "mysql://x"',
        "executor.maxProcesses: unknown key (allowed: listen, metricsListen, tls, gateways, advertise, logstoreAddress,"
        " runtimeAddress, stateDir, logstoreSocket, jobinit, cgroupParent, uidRangeStart, uidRangeSize, stopGrace,"
        " tmpSizeMb, workSizeMb, logRateLimit, outputMaxMb, outputMaxFiles, outputTimeout, outputTotalMb,"
        " outputAge, contentTotalMb, contentAge, labels)",
        'executor.gateways: expected a list of one or more, each an address "host:port" such as "0.0.0.0:50051" or'
        ' "[::]:50051", got []',
        'executor.cgroupParent: expected the name of one cgroup, without slashes, got "../x"',
        "executor.labels: expected a mapping of texts such as {zone: \"a\"}, got {'a': 1}",
    )


@pytest.mark.parametrize("value", ["true", "1.5", "'1'", "-1", "[1]", "99999999999", ".inf"])
def test_numbers_are_whole_numbers_in_range(tmp_path: Path, value: str) -> None:
    (problem,) = problems(tmp_path, f"joblet: {{maxConcurrentJobs: {value}}}")
    assert problem.startswith("joblet.maxConcurrentJobs: expected a whole number from 1")


@pytest.mark.parametrize("value", ["true", "'1'", "0", "-1", "1001", "[1]", ".inf", ".nan"])
def test_factors_are_numbers_in_range(tmp_path: Path, value: str) -> None:
    (problem,) = problems(tmp_path, f"joblet: {{cpuOvercommit: {value}}}")
    assert problem.startswith("joblet.cpuOvercommit: expected a number from 0.1 to 1000, got ")


@pytest.mark.parametrize(
    "address", ["host", "host:", ":1", "host:65536", "host:1:2", "::1:50051", "ho st:1", "host:1\\n"]
)
def test_addresses(tmp_path: Path, address: str) -> None:
    (problem,) = problems(tmp_path, f'gateway: {{listen: "{address}"}}')
    assert problem.startswith("gateway.listen: expected an address")


def test_relative_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "gateway: {tls: {ca: certs/ca.pem}, database: 'sqlite:///gateway.db'}\nexecutor: {stateDir: state}"
    file = write(tmp_path, text)
    monkeypatch.chdir(tmp_path.parent)
    for path in (file, file.relative_to(tmp_path.parent)):
        loaded = load(path)
        assert loaded.gateway.tls.ca == tmp_path / "certs/ca.pem"
        assert loaded.gateway.tls.cert == Config().gateway.tls.cert
        assert loaded.gateway.database == f"sqlite:///{tmp_path}/gateway.db"
        assert loaded.executor.state_dir == tmp_path / "state"


def test_a_missing_default_file_is_all_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "none.yml")
    assert load(None) == Config()
    monkeypatch.setattr(config, "DEFAULT_PATH", write(tmp_path, "joblet: {maxProcesses: 7}"))
    assert load(None).joblet == JobletConfig(max_processes=7)


def test_a_missing_named_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.yml: No such file or directory"):
        load(tmp_path / "none.yml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "joblet:\n", "joblet: {jobTimeout: }", "grpc: {}"])
def test_nothing_given_is_the_default(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, text)) == Config()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("joblet: {", "not YAML"),
        ("joblet: {}\njoblet: {}", "key joblet given twice"),
        ("joblet: {maxProcesses: 1, maxProcesses: 2}", "key maxProcesses given twice"),
        ("1: 2", "key 1 is not a text"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
        ("- joblet", "the file: expected a mapping of keys"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str, says: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert says in problem


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_bytes(b"joblet: \xff\xfe\xfa")
    with pytest.raises(ConfigError, match="not YAML"):
        load(tmp_path / "c.yml")


def test_uid_ranges_of_all_jobs_must_fit(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "joblet: {maxConcurrentJobs: 100000}")
    assert problem.startswith("executor.uidRangeStart: 100000 jobs of 65536 ids each do not fit")


def test_an_upload_chunk_fits_into_the_smallest_message(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "grpc: {maxRecvMsgSize: 262144}")
    assert problem.startswith("grpc.maxRecvMsgSize: expected a whole number from 300000")
    assert GrpcConfig().max_recv_msg_size > 300_000
