"""`python -m joblet.gateway --config FILE`: exit code 0 on SIGTERM, 1 on an error, 2 on bad usage or configuration."""

from joblet.common import lifecycle
from joblet.gateway.server import serve


def main() -> int:
    return lifecycle.service("gateway", serve)


if __name__ == "__main__":
    raise SystemExit(main())
