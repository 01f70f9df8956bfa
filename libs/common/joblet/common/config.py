# ruff: noqa: RUF009 - the calls return dataclass fields, whose names the linter does not know
"""The configuration of every service: one YAML file, one section per concern, parsed once at start.

The keys of `joblet:` and `grpc:` are the specification's, with its defaults. A file may leave out whatever it does not
change; unknown keys and bad values are refused by name, all at once (`joblet.common.yamlschema`). Sizes in the file
carry the unit the specification gave them (MB, bytes); times are durations in the file and seconds here. Relative paths
are relative to the file's directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from joblet.common import yamlschema as schema
from joblet.common.errors import ConfigError

DEFAULT_PATH = Path("/opt/joblet/joblet-config.yml")

_CERTS = "/opt/joblet/certs"
_NETWORK_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_ARCHIVE = "s3://BUCKET/PREFIX or file:///DIRECTORY"
_CGROUP_NAME = r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,64}"


@dataclass(frozen=True, slots=True)
class JobletConfig:
    """What a job gets that does not ask, and what it may have at most. 0 as a limit means: no limit."""

    default_cpu_limit: int = schema.integer(100, minimum=0, maximum=1_000_000)  # percent of one core
    default_memory_limit: int = schema.integer(512)  # MB (MiB)
    default_io_limit: int = schema.integer(0, maximum=2**63 - 1)  # bytes per second
    default_network: str = schema.text("host", pattern=_NETWORK_NAME, expected="the name of a network")
    max_concurrent_jobs: int = schema.integer(100, minimum=1)  # per node
    # How often a node's cores and memory are given away: its jobs' limits together may be this times what it has.
    cpu_overcommit: float = schema.number(16.0, minimum=0.1, maximum=1000.0)
    memory_overcommit: float = schema.number(1.0, minimum=0.1, maximum=1000.0)
    job_timeout_seconds: float = schema.duration(3600.0)  # 0: none
    cleanup_timeout_seconds: float = schema.duration(5.0, minimum=0.1)
    # Jobs that have ended are deleted, with their output, after so long, or when there are more; 0: kept for ever.
    job_retention_seconds: float = schema.duration(30 * 86_400.0)
    max_finished_jobs: int = schema.integer(100_000)
    max_processes: int = schema.integer(1024, minimum=1, maximum=4_194_304)  # per job; kernel.pid_max at most


@dataclass(frozen=True, slots=True)
class GrpcConfig:
    """The public API's limits. They are above the largest chunk of an upload (256 KiB) and of output (512 KiB and the
    times of its bytes)."""

    max_recv_msg_size: int = schema.integer(524_288, minimum=300_000)  # bytes
    max_send_msg_size: int = schema.integer(4_194_304, minimum=600_000)  # bytes
    keep_alive_time_seconds: float = schema.duration(30.0, minimum=1.0)


@dataclass(frozen=True, slots=True)
class LoggingConfig:
    level: str = schema.choice("INFO", ("DEBUG", "INFO", "WARN", "ERROR"))
    format: str = schema.choice("text", ("text", "json"))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of one service: the CA that signed everybody, this service's certificate and its private key."""

    ca: Path = schema.path(f"{_CERTS}/ca-cert.pem")
    cert: Path = schema.path(f"{_CERTS}/node-cert.pem")
    key: Path = schema.path(f"{_CERTS}/node-key.pem")


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    listen: str = schema.address("0.0.0.0:50051")
    metrics_listen: str = schema.address("127.0.0.1:9151")
    tls: TlsFiles = schema.section(
        TlsFiles, cert=Path(f"{_CERTS}/gateway-cert.pem"), key=Path(f"{_CERTS}/gateway-key.pem")
    )
    database: str = schema.database("sqlite:////var/lib/joblet/gateway/gateway.db")
    node_lease_seconds: int = schema.integer(15, minimum=1, maximum=3600)  # a node silent for longer is lost
    reader_timeout_seconds: float = schema.duration(
        60.0, minimum=0.1
    )  # a reader of a log that takes nothing for longer
    # Of a node on the same machine, if there is one.
    logstore_socket: Path = schema.path("/run/joblet/logstore.sock")
    executor_socket: Path = schema.path("/var/lib/joblet/executor/executor.sock")
    secrets_key: Path | None = schema.optional_path()  # unset: secrets.key beside the database
    upload_directory: Path | None = schema.optional_path()  # unset: uploads, beside the database's file
    upload_max_mb: int = schema.integer(4096, minimum=1)  # MiB of one upload
    upload_total_mb: int = schema.integer(16_384, minimum=1)  # MiB of all that are kept
    upload_age_seconds: float = schema.duration(3600.0, minimum=1.0)  # one that no job needs is removed after


@dataclass(frozen=True, slots=True)
class ExecutorConfig:
    listen: str = schema.address("0.0.0.0:50052")
    metrics_listen: str = schema.address("127.0.0.1:9152")
    tls: TlsFiles = schema.section(TlsFiles)
    gateways: tuple[str, ...] = schema.addresses(("localhost:50051",))
    # What the gateway is told to dial for this node's services; advertise unset: the port listened on, at localhost.
    advertise: str | None = schema.optional_address()
    logstore_address: str = schema.address("localhost:50053")
    runtime_address: str = schema.address("localhost:50054")
    state_dir: Path = schema.path("/var/lib/joblet/executor")
    logstore_socket: Path = schema.path("/run/joblet/logstore.sock")
    jobinit: Path | None = schema.optional_path()  # unset: the one packed with the executor
    cgroup_parent: str = schema.text("joblet", pattern=_CGROUP_NAME, expected="the name of one cgroup, without slashes")
    # Host uids that jobs run as, one range per running job. systemd hands out 524288-1879048191 to containers
    # (systemd.io/UIDS-GIDS), 0x70000000 is the first id above; 4096 ranges fit below 2^31.
    uid_range_start: int = schema.integer(0x7000_0000, minimum=65_536, maximum=2**32 - 2)
    uid_range_size: int = schema.integer(65_536, minimum=65_536, maximum=2**24)
    stop_grace_seconds: float = schema.duration(0.1)  # between TERM and KILL
    tmp_size_mb: int = schema.integer(512, minimum=1)  # MiB of /tmp, counted in the job's memory
    work_size_mb: int = schema.integer(1024, minimum=1)  # MiB of /work, counted in the job's memory
    # Bytes of output per second that each job may write, the job waits; 0: no limit.
    log_rate_limit: int = schema.integer(0, maximum=2**32 - 1)
    output_max_mb: int = schema.integer(4096, minimum=1)  # MiB kept of one job's /work
    output_max_files: int = schema.integer(100_000, minimum=1)  # and files, directories, links of it
    output_timeout_seconds: float = schema.duration(120.0, minimum=1.0)  # to copy them at a job's end
    output_total_mb: int = schema.integer(16_384, minimum=1)  # MiB kept of all jobs; the oldest go first
    output_age_seconds: float = schema.duration(7 * 24 * 3600.0, minimum=1.0)  # older ones are removed
    content_total_mb: int = schema.integer(16_384, minimum=1)  # MiB of uploads kept for jobs about to start
    content_age_seconds: float = schema.duration(600.0, minimum=60.0)  # one that no job has got for longer is removed
    labels: Mapping[str, str] = schema.labels()


@dataclass(frozen=True, slots=True)
class LogRetentionConfig:
    """What is removed from a node's disk. 0: no limit. Logs that still have to be copied to the archive are spared."""

    max_age_seconds: float = schema.duration(30 * 86_400.0)  # since the end of the output
    max_job_size_mb: int = schema.integer(0)  # MiB of one job's output, also while it runs: the oldest goes
    max_total_mb: int = schema.integer(0)  # MiB of all logs: the oldest of the jobs that have ended go
    min_free_mb: int = schema.integer(64)  # MiB free on the filesystem: as above
    reader_hold_seconds: float = schema.duration(10.0)  # what a reader has not taken yet is kept for so long


@dataclass(frozen=True, slots=True)
class LogArchiveConfig:
    """Where sealed logs are copied to: s3://BUCKET/PREFIX or file:///DIRECTORY; empty: nowhere."""

    url: str = schema.text("", pattern=r"(s3://[^/?#@]+(/[^?#@]*)?|file:///[^?#]+)?", expected=_ARCHIVE)
    endpoint: str = schema.text("", pattern=r"(https?://[^/?#@]+)?", expected='an address such as "https://host:9000"')
    region: str = schema.text("us-east-1", pattern=r"[a-z0-9-]+", expected='the name of a region such as "us-east-1"')
    credentials_file: Path | None = schema.optional_path()  # as the AWS tools have it, section [default]


@dataclass(frozen=True, slots=True)
class LogstoreConfig:
    listen: str = schema.address("0.0.0.0:50053")
    metrics_listen: str = schema.address("127.0.0.1:9153")
    tls: TlsFiles = schema.section(TlsFiles)
    directory: Path = schema.path("/var/lib/joblet/logs")
    socket: Path = schema.path("/run/joblet/logstore.sock")
    reader_timeout_seconds: float = schema.duration(
        60.0, minimum=0.1
    )  # a reader that takes nothing for longer is removed
    seal_after_seconds: float = schema.duration(60.0)  # after the end of the output: compressed and checksummed
    seal_min_kb: int = schema.integer(4)  # KiB kept of an output; less stays as it is, unless there is an archive
    retention: LogRetentionConfig = schema.section(LogRetentionConfig)
    archive: LogArchiveConfig = schema.section(LogArchiveConfig)


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    listen: str = schema.address("0.0.0.0:50054")
    metrics_listen: str = schema.address("127.0.0.1:9154")
    tls: TlsFiles = schema.section(TlsFiles)
    directory: Path = schema.path("/var/lib/joblet/runtimes")


@dataclass(frozen=True, slots=True)
class Config:
    joblet: JobletConfig = schema.section(JobletConfig)
    grpc: GrpcConfig = schema.section(GrpcConfig)
    logging: LoggingConfig = schema.section(LoggingConfig)
    gateway: GatewayConfig = schema.section(GatewayConfig)
    executor: ExecutorConfig = schema.section(ExecutorConfig)
    logstore: LogstoreConfig = schema.section(LogstoreConfig)
    runtime: RuntimeConfig = schema.section(RuntimeConfig)


def load(path: Path | None = None) -> Config:
    """The file at `path`, or the default file, which may be missing. Raises ConfigError with every problem."""
    if path is None:
        if not DEFAULT_PATH.exists():
            return Config()
        path = DEFAULT_PATH
    config = schema.read(Config, path)
    problems = _across_keys(config)
    if problems:
        raise ConfigError(problems, source=str(path))
    return config


def _across_keys(config: Config) -> list[str]:
    """What no single key shows."""
    executor = config.executor
    wanted = config.joblet.max_concurrent_jobs * executor.uid_range_size
    if executor.uid_range_start + wanted > 2**32 - 1:
        return [
            f"executor.uidRangeStart: {config.joblet.max_concurrent_jobs} jobs of {executor.uid_range_size} ids each"
            f" do not fit between {executor.uid_range_start} and 4294967295"
        ]
    return []
