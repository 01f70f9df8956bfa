"""What the logstore counts."""

from prometheus_client import Counter, Gauge

from joblet.common.metrics import REGISTRY

FOLLOWERS = Gauge("joblet_log_followers", "Readers that are being served", registry=REGISTRY)
BYTES_SENT = Counter("joblet_log_bytes_sent_total", "Bytes of output sent to readers", registry=REGISTRY)
OPENED = Counter("joblet_log_open_total", "Times that log files were handed out for writing", registry=REGISTRY)
STALLED = Counter("joblet_log_readers_stalled_total", "Readers ended because they took nothing", registry=REGISTRY)
