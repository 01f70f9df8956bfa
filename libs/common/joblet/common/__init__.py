"""What every part of Joblet shares. Imports no service, no client and no generated stub.

grpcio reads its settings from the environment once, when it is first imported, so the one that we need is set here and
in `joblet.api`, the two doors through which our code gets to grpc: the one suite allowed for TLS 1.2 needs an RSA
certificate. With our ECDSA certificates no TLS 1.2 handshake can succeed; the suites of TLS 1.3 are not concerned
(RFC 8446, B.4). `joblet.common.rpc` refuses to serve if grpc was imported before either of them.
"""

import os
import sys

_SETTING = "GRPC_SSL_CIPHER_SUITES"
_RSA_ONLY = "ECDHE-RSA-AES256-GCM-SHA384"

if "grpc" not in sys.modules:
    os.environ[_SETTING] = _RSA_ONLY

tls12_is_refused: bool = os.environ.get(_SETTING) == _RSA_ONLY
"""Whether the setting came in time."""
