"""Channel arguments of servers and clients (grpc/grpc include/grpc/impl/channel_arg_names.h), side by side."""

from joblet.common.config import GrpcConfig

INTERNAL_MESSAGE_BYTES = 4 * 1024 * 1024
# What a service takes in of a stream that it is not reading yet. grpc would let it grow to many MiB on a fast link,
# times the number of streams; 1 MiB fills a link of 1 GB/s at a round trip of 1 ms.
# 4 MiB would save the logstore a tenth of the CPU for output, and cost a gateway with nine readers 30 MB (measured).
INTERNAL_WINDOW_BYTES = 1024 * 1024
# Of one HTTP/2 frame that is received; the default of 16 KiB costs 10 % more CPU for output of jobs (measured).
INTERNAL_FRAME_BYTES = 1024 * 1024
KEEPALIVE_TIMEOUT_MS = 20_000
# A client that pings more often than this is sent away (GOAWAY, too_many_pings); below the
# shortest keepalive that the configuration allows (1 s).
MIN_PING_INTERVAL_MS = 500
# A restarted service is found again within seconds; grpc's own limit is two minutes.
INITIAL_BACKOFF_MS = 100
MAX_BACKOFF_MS = 2_000

Options = list[tuple[str, int | str]]


def server_options(config: GrpcConfig, *, internal: bool) -> Options:
    return [
        # Otherwise two servers share one port unnoticed.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", INTERNAL_MESSAGE_BYTES if internal else config.max_recv_msg_size),
        ("grpc.max_send_message_length", INTERNAL_MESSAGE_BYTES if internal else config.max_send_msg_size),
        *_keepalive(config),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
    ]


def client_options(config: GrpcConfig, *, internal: bool, target_name: str | None) -> Options:
    """The limits of the other side, seen from here: what it may send we may receive."""
    options: Options = [
        ("grpc.max_receive_message_length", INTERNAL_MESSAGE_BYTES if internal else config.max_send_msg_size),
        ("grpc.max_send_message_length", INTERNAL_MESSAGE_BYTES if internal else config.max_recv_msg_size),
        *_keepalive(config),
        ("grpc.initial_reconnect_backoff_ms", INITIAL_BACKOFF_MS),
        ("grpc.max_reconnect_backoff_ms", MAX_BACKOFF_MS),
    ]
    if internal:
        options += [
            ("grpc.enable_http_proxy", 0),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", INTERNAL_WINDOW_BYTES),
            ("grpc.http2.max_frame_size", INTERNAL_FRAME_BYTES),
        ]
    if target_name is not None:
        options.append(("grpc.ssl_target_name_override", target_name))
    return options


def _keepalive(config: GrpcConfig) -> Options:
    return [
        ("grpc.keepalive_time_ms", int(config.keep_alive_time_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]
