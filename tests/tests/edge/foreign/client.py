"""Drives set, get, exists and delete against each node that is named on the command line.

Usage: client.py text|bytes HOST:PORT...

The modules kv_pb2 and kv_pb2_grpc are generated before, from the course's contract (text) or from
ours (bytes). Exits with an assertion when an answer is not as the contract says.
"""

import sys

import grpc

import kv_pb2
import kv_pb2_grpc

kind, addresses = sys.argv[1], sys.argv[2:]
assert kind in ("text", "bytes") and addresses


def typed(text):
    return text if kind == "text" else text.encode() + b"\xff\x00"


def absent():
    return "" if kind == "text" else b""


stubs = [kv_pb2_grpc.KvServiceStub(grpc.insecure_channel(address)) for address in addresses]
for number, stub in enumerate(stubs):
    key, value = typed(f"foreign/{kind}/{number}"), typed(f"value {number} \u00fc")
    for other in stubs:
        assert not other.exists(kv_pb2.ExistsRequest(key=key), timeout=10).flag
        assert other.get(kv_pb2.GetRequest(key=key), timeout=10).value == absent()
    stub.set(kv_pb2.SetRequest(key=key, value=value), timeout=10)
    for other in stubs:
        assert other.exists(kv_pb2.ExistsRequest(key=key), timeout=10).flag
        assert other.get(kv_pb2.GetRequest(key=key), timeout=10).value == value
    stub.delete(kv_pb2.DeleteRequest(key=key), timeout=10)
    for other in stubs:
        assert not other.exists(kv_pb2.ExistsRequest(key=key), timeout=10).flag
    try:
        stub.set(kv_pb2.SetRequest(key=absent(), value=value), timeout=10)
        raise AssertionError("an empty key was accepted")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        assert "key" in error.details(), error

print(f"{kind}: {len(stubs)} nodes answered as the contract says")
