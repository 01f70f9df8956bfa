"""The stubs of the API.

They import grpc, which reads its environment once, at its first import: what `joblet.common` sets there, and explains,
has to be set before that when the stubs are imported first.
"""

import os
import sys

if "grpc" not in sys.modules:
    os.environ.update({"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384", "GRPC_ENABLE_FORK_SUPPORT": "0"})
