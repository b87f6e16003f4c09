"""10,000 writes through all servers at once, read back equal on each of them.

usage: writes.py HOST:PORT...
"""
import sys

from kazoo.client import KazooClient

servers = sys.argv[1:]
clients = []
for address in servers:
    client = KazooClient(hosts=address, timeout=10)
    client.start(timeout=10)
    clients.append(client)
clients[0].create("/writes", b"")
for client in clients:
    client.sync("/writes")
pending = []
for n in range(10000):
    pending.append(clients[n % len(clients)].create_async("/writes/n%05d" % n, b"value %d" % n))
    if len(pending) >= 500:
        for result in pending:
            result.get(timeout=30)
        pending = []
for result in pending:
    result.get(timeout=30)
stats = None
for address, client in zip(servers, clients):
    client.sync("/writes")
    names = sorted(client.get_children("/writes"))
    assert names == ["n%05d" % n for n in range(10000)], (address, len(names))
    reads = [client.get_async("/writes/" + name) for name in names]
    found = [r.get(timeout=30) for r in reads]
    assert [data for data, _ in found] == [b"value %d" % n for n in range(10000)], address
    here = [stat for _, stat in found]
    assert stats is None or stats == here, "stats differ at " + address
    stats = here
assert len({stat.czxid for stat in stats}) == 10000
for client in clients:
    client.stop()
    client.close()
print("ok")
