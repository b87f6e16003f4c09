//! `ToShard`, `ToQuorum`, `ToTree`, `ToLog`: everything the cores of one server say to each other.
//!
//! Each ordered pair of cores has one first-in, first-out link. Several rules of the protocol lean
//! on that order: a snapshot for a learner is cut exactly behind the commits that were announced
//! before it, and a sync is answered behind the commits that it must see.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddr;

use quorate_proto::election::Notification;
use quorate_proto::leader::LearnerRole;
use quorate_proto::{
    Durable, Epoch, HistoryIndex, Instant, ServerId, SessionId, SyncPlan, ToLeader, ToLearner, Zxid,
};
use quorate_storage::DiskOp;
use quorate_wire::Frame;

use crate::notice::Notice;

/// The shard that keeps the link to the leader and the election links.
pub const LINK_SHARD: u16 = 0;

/// One attempt to follow a leader, never the same twice in a process. What is said about the link to
/// the leader names it, so that nothing late reaches the next leader or the next learner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term(pub u64);

/// One connection of one server, never the same twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnKey {
    /// The shard that owns it.
    pub shard: u16,
    /// Its place there.
    pub index: u32,
    /// Which of the connections that had this place.
    pub generation: u32,
}

/// A client's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectAttempt {
    /// The highest zxid that the client has seen.
    pub last_zxid_seen: Zxid,
    /// The time-out it asks for, milliseconds.
    pub timeout_ms: i32,
    /// Its session, 0 for a new one.
    pub session: SessionId,
    /// What it presents as the session's password.
    pub password: Vec<u8>,
    /// Whether its frame had the read-only field, which the answer must mirror.
    pub has_read_only: bool,
    /// Where it comes from, for `ip` permissions.
    pub peer: Option<SocketAddr>,
}

/// A request as it waits for its turn: header read, body as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRequest {
    /// The client's number for it.
    pub xid: i32,
    /// The operation code.
    pub opcode: i32,
    /// The bytes behind the header.
    pub body: Frame,
    /// When its bytes arrived.
    pub at: Instant,
}

/// What the quorum core, the log core and the tree core tell a shard.
#[derive(Clone, Debug)]
pub enum ToShard {
    /// From the quorum core: send a notification to a peer.
    Notify(ServerId, Notification),
    /// From the quorum core: whether learners are accepted, and of which epoch.
    Accepting(bool),
    /// From the quorum core: open the link to the leader, for this term.
    ConnectLeader(ServerId, Term),
    /// From the quorum core: close the link to the leader.
    DropLeader,
    /// From the quorum or the tree core: send this on the link to the leader, if it is still that of
    /// this term: the links of the two cores have no order between each other.
    ToLeader(Term, ToLeader<Frame>),
    /// From the quorum core: answer a learner's FOLLOWERINFO.
    LeaderInfo(ConnKey, Epoch),
    /// From the quorum core: bring a learner level.
    Sync(ConnKey, Box<SyncTask>),
    /// From the quorum core: a synchronised learner may serve.
    UpToDate(ConnKey, Zxid),
    /// From the quorum core: a proposal for every learner of this shard.
    Propose(Zxid, Frame),
    /// From the quorum core: everything up to here is committed.
    Commit(Zxid),
    /// From the quorum core: heartbeat; the round and the commit watermark.
    Ping(u64, Zxid),
    /// From the quorum core: close a learner's connection.
    CloseLearner(ConnKey, String),
    /// From the quorum core: send this to one learner (Revalidate and Sync answers).
    ToLearner(ConnKey, ToLearner<Frame>),
    /// From the log core: records of a learner's stream.
    StreamChunk(ConnKey, Vec<Frame>, bool),
    /// From the tree core: a piece of a learner's snapshot.
    SnapChunk(ConnKey, Frame, bool),
    /// From the tree core: a session is open on this connection; the frame is the answer.
    SessionOpen(ConnKey, Frame),
    /// From the tree core: one answer; with the stamps of a write.
    Reply(ConnKey, Frame, ReplyStamps),
    /// From the tree core: a watch event, or another frame that answers no request.
    Event(ConnKey, Frame),
    /// From the tree core: close a client's connection, after what is queued has left.
    CloseClient(ConnKey, Option<Frame>),
    /// From the tree core: the answer to an administrator's word.
    AdminReply(ConnKey, Frame),
    /// From the tree core: requests may flow again, or must wait.
    Room(bool),
    /// From the log core: the link to the leader may be read again, or must wait.
    SnapshotRoom(bool),
    /// From the driver: the server is about to stop; take no new request.
    Drain,
}

/// When a reply's request arrived and, for a write, when it was applied.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReplyStamps {
    /// Arrival of the request's bytes.
    pub received: Instant,
    /// For a write: when it was applied.
    pub applied: Option<Instant>,
}

/// How a shard brings one learner level. The parts are sent in this order: the plan's packet, the
/// snapshot if the plan says so, the log's records, `tail`, NEWLEADER, `outstanding`, live traffic.
#[derive(Clone, Debug)]
pub struct SyncTask {
    /// DIFF, TRUNC, SNAP.
    pub plan: SyncPlan,
    /// Where a snapshot is cut; the quorum core has asked the tree core for it.
    pub snapshot_at: Zxid,
    /// The end of the stream.
    pub cut: Zxid,
    /// Records to be fetched from the log: after the first, through the second.
    pub from_log: Option<(Zxid, Zxid)>,
    /// Records from memory, behind those of the log.
    pub tail: Vec<Frame>,
    /// Proposals of this epoch that were sent to the others already.
    pub outstanding: Vec<Frame>,
    /// The zxid of NEWLEADER.
    pub new_leader: Zxid,
}

/// What shards, the tree core and the log core tell the quorum core.
#[derive(Clone, Debug)]
pub enum ToQuorum {
    /// From the tree core, when it has taken in all that the disk held at start.
    Recovered(Box<Recovered>),
    /// From the log core: the disk's word.
    Durable(Durable),
    /// From the log core: it no longer holds what comes before this zxid.
    Forgot(Zxid),
    /// From a shard: a learner introduced itself.
    Joined(ConnKey, ServerId, LearnerRole, Epoch),
    /// From a shard: a learner has made its promise.
    EpochAcked(ConnKey, Option<Epoch>, Zxid),
    /// From a shard: a learner has acknowledged NEWLEADER.
    Synced(ConnKey),
    /// From a shard: a learner has everything up to here.
    Acked(ConnKey, Zxid),
    /// From a shard: a sign of life; the round if it answers a PING.
    Heard(ConnKey, Option<u64>),
    /// From a shard: a learner's connection is gone.
    Gone(ConnKey),
    /// From the tree core: the next proposal.
    Proposed {
        /// Its place.
        zxid: Zxid,
        /// The whole frame.
        frame: Frame,
        /// When the tree core took its request up.
        at: Instant,
    },
    /// From the tree core: confirm leadership and order behind all proposals so far.
    Sync(u64),
    /// From a shard: a peer's notification.
    Notified(Notification),
    /// From a shard: the election link to a peer is up.
    PeerUp(ServerId),
    /// From a shard: the link to the leader is up and the leader has welcomed us.
    LeaderUp(Term),
    /// From a shard: the link to the leader is gone or could not be made.
    LeaderDown(Term, String),
    /// From a shard: a packet of the leader.
    FromLeader(Term, ToLearner<Frame>),
    /// From a shard: an administrator's word, to be answered in parts.
    Admin(ConnKey, [u8; 4], AdminShard),
    /// From the tree core: send this to one learner, behind every proposal made so far and every
    /// commit announced so far.
    Relay(ConnKey, ToLearner<Frame>),
}

/// The shard's part of an administrator's answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminShard {
    /// Open client connections of the shard.
    pub connections: usize,
}

/// The quorum core's part of an administrator's answer.
#[derive(Clone, Debug, Default)]
pub struct AdminQuorum {
    /// This server.
    pub sid: ServerId,
    /// `leader`, `follower`, `observer`, `looking`, `standalone`.
    pub role: &'static str,
    /// Its current epoch.
    pub epoch: Epoch,
    /// The leader, where one is known.
    pub leader: Option<ServerId>,
    /// The highest zxid known to be committed.
    pub committed: Zxid,
    /// The end of its log.
    pub last: Zxid,
    /// For a leader: each learner with its role, what it has acknowledged, and whether it is level.
    pub learners: Vec<(ServerId, LearnerRole, Zxid, bool)>,
}

/// What the disk held at start.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Whether the directory was empty.
    pub fresh: bool,
    /// The promise.
    pub accepted_epoch: Epoch,
    /// The epoch whose history is held.
    pub current_epoch: Epoch,
    /// What the log and the snapshot hold.
    pub history: HistoryIndex,
    /// Up to here it was known to be committed.
    pub committed_hint: Zxid,
    /// Why this server must not vote until a leader has brought it level (R6, R26).
    pub quarantined: Option<String>,
}

/// What shards, the quorum core and the log core tell the tree core.
#[derive(Clone, Debug)]
pub enum ToTree {
    /// From the driver: the wall clock's reading at this moment.
    WallClock(i64),
    /// From the log core, at start: a piece of the newest snapshot.
    RecoveredChunk(Frame, bool),
    /// From the log core, at start: a record behind the snapshot.
    RecoveredRecord(Zxid, Frame),
    /// From the log core, at start: that was all. The tree core hands it on to the quorum core, so
    /// that no role begins before the state is here.
    RecoveredEnd(Box<Recovered>),
    /// From the quorum core: this server leads; the first zxid follows the epoch's start.
    Lead(Epoch),
    /// From the quorum core: this server serves as a learner in this term.
    Follow(Term),
    /// From the quorum core: this server does not serve; its log ends at this zxid, and what was
    /// staged beyond it never reached the log.
    Look(Zxid),
    /// From the quorum core: a proposal of the leader.
    Stage(Zxid, Frame),
    /// From the quorum core: staged proposals after this zxid are void.
    Truncate(Zxid),
    /// From the quorum core: everything up to here is committed; when that was decided.
    Commit(Zxid, Instant),
    /// From the quorum core: a snapshot of the leader follows.
    BeginRestore,
    /// From the quorum core: a piece of it.
    RestoreChunk(Frame, bool),
    /// From the quorum core: it will not be completed.
    AbortRestore,
    /// From the quorum core: answer the leader's PING of this term and round with the sessions
    /// touched.
    AnswerPing(Term, u64),
    /// From the quorum core: a forwarded sync is answered.
    Synced(Frame),
    /// From the quorum core: a session's revalidation is answered.
    Revalidated(SessionId, bool),
    /// From the quorum core: a sync of this leader's own, by its token.
    SyncConfirmed(u64),
    /// From the quorum core: cut a snapshot for a learner, here in the order of commits, at this
    /// zxid.
    CutFor(ConnKey, Zxid),
    /// From a shard: the learner has room for the next piece.
    NextChunk(ConnKey),
    /// From a shard: a learner's connection is gone.
    LearnerGone(ConnKey),
    /// From a shard: a client's first frame.
    Connect(ConnKey, Box<ConnectAttempt>),
    /// From a shard: the embedding process wants to propose; no session is involved.
    ConnectProposer(ConnKey),
    /// From a shard: a client's next request.
    Request(ConnKey, RawRequest),
    /// From a shard: a client's connection is gone.
    Disconnect(ConnKey),
    /// From a shard: a learner forwards a request.
    Forwarded(ConnKey, Frame, Instant),
    /// From a shard: sessions that a learner has heard of.
    Touched(ConnKey, Frame),
    /// From a shard: a session has moved to a learner.
    Revalidate(ConnKey, SessionId),
    /// From the log core: room for the next piece of our own snapshot, begun at this zxid.
    SnapshotNext(Zxid),
    /// From the log core: our own snapshot is complete and verified.
    SnapshotWritten(Zxid),
    /// From the log core: our own snapshot, begun at this zxid, cannot be written; the log goes on.
    SnapshotFailed(Zxid),
    /// From the quorum core: an administrator's word with what is known so far.
    Admin(ConnKey, [u8; 4], AdminShard, Box<AdminQuorum>),
}

/// What the other cores tell the log core.
#[derive(Clone, Debug)]
pub enum ToLog {
    /// From the quorum core: the next record, and when the quorum core took it up.
    Append(Zxid, Frame, Instant),
    /// From the quorum core: remove everything after this zxid.
    Truncate(Zxid),
    /// From the quorum core: accepted and current epoch.
    SaveEpochs(Epoch, Epoch),
    /// From the quorum core: this server came back empty and is about to learn: until it is level a
    /// restart must not take it for a voter. Nothing behind this is done before it is durable.
    Quarantine,
    /// From the quorum core: a snapshot of the leader follows.
    BeginInstall(Zxid),
    /// From the quorum core: a piece of it.
    InstallChunk(Frame, bool),
    /// From the quorum core: it will not be completed.
    AbortInstall,
    /// From the tree core: our own snapshot at this zxid follows.
    BeginSnapshot(Zxid),
    /// From the tree core: a piece of it.
    SnapshotChunk(Frame, bool),
    /// From the tree core: our own snapshot will not be completed.
    AbortSnapshot,
    /// From the quorum core: a leader has brought this server level; damage found at start is mended.
    Rebuilt,
    /// From a shard: the learner needs the records after the first, through the second zxid.
    Stream(ConnKey, Zxid, Zxid),
    /// From a shard: the learner has room for more.
    StreamNext(ConnKey),
    /// From a shard: the learner is gone.
    StreamCancel(ConnKey),
}

// Messages are moved several times on their way: what is rare and long is boxed.
const _: () = assert!(size_of::<Message>() <= 88);

/// A message with its address.
#[derive(Clone, Debug)]
pub enum Message {
    /// To one shard.
    Shard(u16, ToShard),
    /// To the quorum core.
    Quorum(ToQuorum),
    /// To the tree core.
    Tree(ToTree),
    /// To the log core.
    Log(ToLog),
}

/// What any core wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Hand this to another core.
    Send(Message),
    /// Hand this to every shard.
    Broadcast(ToShard),
    /// Do this on the network.
    Net(NetOp),
    /// Do this on the disk.
    Disk(DiskOp),
    /// Tell the operator.
    Notice(Notice),
    /// The server cannot go on; the reason.
    Fatal(String),
}

/// Which of a server's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// For clients.
    Client,
    /// For proposals of the embedding process, which never cross a socket.
    Propose,
    /// For learners.
    Quorum,
    /// For election.
    Election,
}

/// What a shard wants done on the network.
#[derive(Clone, Debug)]
pub enum NetOp {
    /// Connect to a peer's port; the outcome names the token.
    Connect {
        /// Names the attempt.
        token: u64,
        /// The peer.
        to: ServerId,
        /// Which of its ports.
        port: Port,
    },
    /// Queue bytes on a connection.
    Send(ConnKey, Frame),
    /// Close a connection; what is queued is still sent if `flush`.
    Close {
        /// The connection.
        conn: ConnKey,
        /// Whether to send what is queued first.
        flush: bool,
    },
    /// Stop reading a connection.
    Pause(ConnKey),
    /// Read a connection again.
    Resume(ConnKey),
    /// Say [`NetInput::Writable`] once fewer than this many bytes are queued.
    NotifyBelow(ConnKey, usize),
}

/// What happens to a shard: on its links and on the network.
#[derive(Clone, Debug)]
pub enum ShardInput {
    /// A message of another core.
    Link(ToShard),
    /// Something on the network.
    Net(NetInput),
}

/// What happens on the network.
#[derive(Clone, Debug)]
pub enum NetInput {
    /// A connection came in.
    Accepted {
        /// Its key.
        conn: ConnKey,
        /// On which port.
        port: Port,
        /// From where; `None` for a session in this process.
        peer: Option<SocketAddr>,
    },
    /// An attempt succeeded.
    Connected {
        /// The attempt.
        token: u64,
        /// The connection's key.
        conn: ConnKey,
    },
    /// An attempt failed.
    ConnectFailed {
        /// The attempt.
        token: u64,
        /// Why.
        reason: String,
    },
    /// Bytes came.
    Received {
        /// On which connection.
        conn: ConnKey,
        /// The bytes.
        bytes: Frame,
    },
    /// The queue fell below what was asked for.
    Writable(ConnKey),
    /// A session in this process is still held by its owner, who has no thread to ping with.
    Touch(ConnKey),
    /// The connection is gone; it is not to be closed again.
    Closed {
        /// Which.
        conn: ConnKey,
        /// Why, if not by an orderly end.
        reason: Option<String>,
    },
}
