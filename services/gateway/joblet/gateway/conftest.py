"""For every test here: joblet.common has its say about TLS before a test imports grpc."""

import joblet.common  # noqa: F401 - imported for what it sets
