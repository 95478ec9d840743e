# Runs behind the blocks of docs/clients/python.md, in one program with them.

# More than gRPC takes in unless it is told otherwise.
large = bytes(range(256)) * (5 << 12)
call(kv.Put, kv_pb2.PutRequest(key=b"page/large", value=large), twice_is_once=True)
found = call(kv.Get, kv_pb2.GetRequest(key=b"page/large"), twice_is_once=True)
assert found.kv.value == large

# Every node is asked, and each takes the name that the list goes by.
for _ in range(30):
    call(kv.Increment, kv_pb2.IncrementRequest(key=b"page/count", delta=1))
assert call(kv.Get, kv_pb2.GetRequest(key=b"page/count")).kv.value == b"30"

try:
    call(kv.Put, kv_pb2.PutRequest(key=b"k" * 5000, value=b"v"))
    raise AssertionError("a key over the limit was accepted")
except grpc.RpcError as error:
    said = detail(error)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
    assert said.invalid_argument.field == "key" and said.invalid_argument.limit == 4096, said
    assert not said.maybe_applied and not said.retryable, said

# One holder at a time; the next one has a larger token.
one, other = Lock(kv, "page/lock", 3.0), Lock(kv, "page/lock", 3.0)
assert one.acquire(10) and one.held()
assert not other.acquire(0.5)
# Longer than it lives without renewal.
time.sleep(4)
assert one.held() and not other.acquire(0)
one.release()
assert other.acquire(10)
assert other.token > one.token

# A lock that somebody took away is lost, and known to be.
call(kv.Delete, kv_pb2.DeleteRequest(key=b"page/lock"))
assert other.lost.wait(10) and not other.held()
other.release()

# A holder that falls silent loses it by time.
silent = Lock(kv, "page/lock", 1.0)
assert silent.acquire(10)
silent.done.set()
assert one.acquire(10) and one.token > silent.token
one.release()
print("the page holds what it says")
