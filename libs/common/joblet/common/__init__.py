"""What every part of Joblet shares. Imports no service, no client and no generated stub.

grpcio reads its settings from the environment once, when it is first imported, so those that we need are set here and
in `joblet.api`, the two doors through which our code gets to grpc. `joblet.common.rpc` refuses to serve if grpc was
imported before either of them.

* The one suite allowed for TLS 1.2 needs an RSA certificate. With our ECDSA certificates no TLS 1.2 handshake can
  succeed; the suites of TLS 1.3 are not concerned (RFC 8446, B.4).
* No handlers at fork(2): they start threads in the child, which end it when its descriptors are closed before exec
  (grpc issue 43055). No child of ours uses grpc.
"""

import os
import sys

_SETTINGS = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384", "GRPC_ENABLE_FORK_SUPPORT": "0"}

if "grpc" not in sys.modules:
    os.environ.update(_SETTINGS)

grpc_is_set: bool = _SETTINGS.items() <= os.environ.items()
"""Whether the settings came in time."""
