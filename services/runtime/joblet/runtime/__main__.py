"""`joblet-runtime --config FILE`, also `python -m joblet.runtime`."""

import sys

from joblet.common import lifecycle
from joblet.runtime.server import serve


def main() -> int:
    return lifecycle.service("runtime", serve)


if __name__ == "__main__":
    sys.exit(main())
