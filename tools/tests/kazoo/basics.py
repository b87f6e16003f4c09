"""What a kazoo client does on a follower: create, set, read, delete, watch, ephemerals, sequences.

usage: basics.py FOLLOWER OTHER      (host:port each)
"""
import sys
import threading

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError, NodeExistsError, NoChildrenForEphemeralsError, NoNodeError, NotEmptyError,
)


def expect(error, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error:
        return
    raise AssertionError("%s was not raised" % error.__name__)


follower, other = sys.argv[1], sys.argv[2]
zk = KazooClient(hosts=follower, timeout=4)
zk.start(timeout=10)

# create, read, set, versions
assert zk.create("/a", b"one") == "/a"
data, stat = zk.get("/a")
assert data == b"one" and stat.version == 0 and stat.czxid == stat.mzxid, stat
stat = zk.set("/a", b"two", version=0)
assert stat.version == 1 and stat.data_length == 3, stat
expect(BadVersionError, zk.set, "/a", b"x", version=0)
assert zk.get("/a")[0] == b"two"
expect(NodeExistsError, zk.create, "/a", b"")
expect(NoNodeError, zk.get, "/none")
expect(NoNodeError, zk.create, "/none/child", b"")

# children
zk.create("/a/b", b"")
zk.create("/a/c", b"")
assert sorted(zk.get_children("/a")) == ["b", "c"]
children, stat = zk.get_children("/a", include_data=True)
assert stat.numChildren == 2 and stat.cversion == 2, stat
expect(NotEmptyError, zk.delete, "/a")

# sequences: two plain creates count too
assert zk.create("/a/s-", b"", sequence=True) == "/a/s-0000000002"
assert zk.create("/a/s-", b"", sequence=True) == "/a/s-0000000003"

# watches: data, exists, children; the event precedes nothing that shows the change
events, seen = [], threading.Event()


def watcher(event):
    events.append((event.type, event.path))
    if len(events) == 3:
        seen.set()


zk.get("/a", watch=watcher)
assert zk.exists("/later", watch=watcher) is None
zk.get_children("/a", watch=watcher)
zk.set("/a", b"three")
zk.create("/later", b"")
zk.create("/a/d", b"")
assert seen.wait(5), events
assert events == [("CHANGED", "/a"), ("CREATED", "/later"), ("CHILD", "/a")], events
zk.set("/a", b"four")  # watches fire once
assert len(events) == 3, events

# ephemerals live with their session, on every server
second = KazooClient(hosts=other, timeout=4)
second.start(timeout=10)
second.create("/eph", b"mine", ephemeral=True)
expect(NoChildrenForEphemeralsError, second.create, "/eph/child", b"")
zk.sync("/eph")
assert zk.get("/eph")[1].ephemeralOwner == second.client_id[0]
gone = threading.Event()
assert zk.exists("/eph", watch=lambda event: gone.set())
second.stop()
second.close()
assert gone.wait(5)
zk.sync("/eph")
assert zk.exists("/eph") is None

# transactions: all or nothing
t = zk.transaction()
t.create("/t1", b"")
t.check("/a", 99)
t.create("/t2", b"")
results = t.commit()
assert isinstance(results[1], BadVersionError), results
assert zk.exists("/t1") is None and zk.exists("/t2") is None
t = zk.transaction()
t.create("/t1", b"x")
t.set_data("/t1", b"y")
t.check("/t1", 1)
t.delete("/later")
results = t.commit()
assert results[0] == "/t1" and results[1].version == 1 and results[3] is True, results
assert zk.get("/t1")[0] == b"y" and zk.exists("/later") is None

# asynchronous requests keep their order
pending = [zk.set_async("/a", b"%d" % n) for n in range(200)]
versions = [p.get(timeout=10).version for p in pending]
assert versions == list(range(versions[0], versions[0] + 200))
assert zk.get("/a")[0] == b"199"

zk.delete("/a", recursive=True)
assert zk.exists("/a") is None
zk.stop()
zk.close()
print("ok")
