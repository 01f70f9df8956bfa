"""`joblet-logstore --config FILE`, also `python -m joblet.logstore`."""

import resource
import sys

from joblet.common import lifecycle
from joblet.logstore.server import serve


def main() -> int:
    # A reader needs two descriptors and the usual soft limit is 1024; epoll has no trouble with more.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return lifecycle.service("logstore", serve)


if __name__ == "__main__":
    sys.exit(main())
