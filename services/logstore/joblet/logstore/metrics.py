"""What the logstore counts."""

from prometheus_client import Counter, Gauge

from joblet.common.metrics import REGISTRY

FOLLOWERS = Gauge("joblet_log_followers", "Readers that are being served", registry=REGISTRY)
BYTES_SENT = Counter("joblet_log_bytes_sent_total", "Bytes of output sent to readers", registry=REGISTRY)
LOCAL = Counter("joblet_log_local_streams_total", "Readers served over a socket of the machine", registry=REGISTRY)
OPENED = Counter("joblet_log_open_total", "Times that log files were handed out for writing", registry=REGISTRY)
STALLED = Counter("joblet_log_readers_stalled_total", "Readers ended because they took nothing", registry=REGISTRY)

BYTES_WRITTEN = Counter("joblet_log_bytes_written_total", "Bytes of output written by jobs", registry=REGISTRY)
LAG = Gauge("joblet_log_reader_lag_bytes", "What the reader furthest behind still has to take", registry=REGISTRY)
WAITING = Gauge("joblet_log_writers_waiting", "Jobs whose output waits for room on the disk", registry=REGISTRY)
PAUSES = Counter("joblet_log_pauses_total", "Times that a job's output began to wait for room", registry=REGISTRY)
FREE = Gauge("joblet_log_disk_free_bytes", "Room on the filesystem of the logs", registry=REGISTRY)
SEALED = Counter("joblet_log_sealed_total", "Logs sealed", registry=REGISTRY)
SEAL_FAILURES = Counter("joblet_log_seal_failures_total", "Attempts to seal a log that failed", registry=REGISTRY)
REMOVED = Counter("joblet_log_removed_total", "Logs removed by retention", ["reason"], registry=REGISTRY)
REMOVED_BYTES = Counter("joblet_log_removed_bytes_total", "Bytes removed by retention", ["reason"], registry=REGISTRY)
ARCHIVED = Counter("joblet_log_archived_total", "Logs copied to the archive", registry=REGISTRY)
ARCHIVE_FAILURES = Counter("joblet_log_archive_failures_total", "Attempts to copy that failed", registry=REGISTRY)
ARCHIVE_PENDING = Gauge("joblet_log_archive_pending", "Sealed logs that are not in the archive yet", registry=REGISTRY)
