"""Whether a Ray cluster demands a token, and whether it accepts ours.

Ray's own client reads its environment once, retries for a minute, and takes seconds to import. This is one call to the
cluster's control service (GCS), as its client makes it, with the token in a header.
"""

import socket
from contextlib import suppress

import grpc

ASK = "/ray.rpc.NodeInfoGcsService/CheckAlive"
TIMEOUT_S = 5.0
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def admits(address: str, token: str | None) -> bool:
    """Whether the cluster at `address` (host:port) answers somebody who presents `token`, or None for no token.

    A cluster that demands no token answers whatever is presented. Raises ConnectionError if no Ray cluster answers
    there, which includes one that demands TLS.

    >>> admits("node1:6379", None)  # doctest: +SKIP
    False
    """
    header = [("authorization", f"Bearer {token}")] if token else []
    host, _, port = address.rpartition(":")
    with suppress(OSError):  # gRPC's own resolver waits for every name server, even if /etc/hosts has the name
        address = f"{socket.gethostbyname(host)}:{port}"
    # As Ray does: a proxy is for the web.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(ASK)(b"", metadata=header, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() in REFUSED:
                return False
            raise ConnectionError(_reason(error)) from None
    return True


def warning_if_open(address: str) -> str:
    """A line for the user if the cluster that was joined demands no token; empty if it does."""
    try:
        if not admits(address, None):
            return ""
    except ConnectionError:  # it has just answered Ray, so it demands TLS
        return ""
    rule = f"{address} demands no token, so whoever reaches it can run code on it"
    return f"Warning: {rule}; start clusters with RAY_AUTH_MODE=token (see lmsweep cluster-token)"


def _reason(error: grpc.RpcError) -> str:
    """What went wrong, without the list of addresses that were tried."""
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {TIMEOUT_S:.0f} s"
    return str(error.details()).rpartition(": ")[2]
