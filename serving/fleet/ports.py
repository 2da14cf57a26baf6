"""What of Ray listens besides the endpoint itself."""

from __future__ import annotations

from typing import Any


def keep_private() -> None:
    """Have Serve open this replica's own gRPC port on loopback; it would be on all addresses, guarded by Ray's token alone.

    For deployments of which all is on one machine. Serve opens it once the constructor is done; nothing here asks it.
    """
    from ray.serve._private import replica

    add = replica.add_port_to_grpc_server

    def add_on_loopback(server: Any, address: str) -> int:
        return int(add(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = add_on_loopback
