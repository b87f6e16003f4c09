//! The 32 bytes in front of every native frame: what follows, how much of it, and whether it is whole.
//!
//! ```text
//!  0       2         3      4          8        16           24         28
//!  | magic | version | kind | body_len | zxid   | committed  | checksum | reserved |
//!  | "Qr"  | 1       |      | u32      | u64    | u64        | u32      | 0        |
//! ```
//!
//! All numbers are little endian. The checksum is the CRC-32C of the header with this field zero and
//! then of the body; it is computed once by whoever encodes the frame, and the log and every learner
//! keep it. This module does not look into bodies.

use bytes::BytesMut;
use quorate_proto::Zxid;
use rkyv::rend::unaligned::{u32_ule, u64_ule};

use crate::{DecodeError, Frame};

/// The first two bytes of every native frame.
pub const MAGIC: [u8; 2] = *b"Qr";
/// The version of the encoding that this crate writes and reads.
pub const VERSION: u8 = 1;
/// Bytes of a header.
pub const HEADER_LEN: usize = Header::LEN;
/// Bytes from which a frame's length is known: magic, version, kind, body length.
pub const PREFIX_LEN: usize = 8;
/// The longest body of a snapshot's piece unless [`Limits::body_max`] is higher, bytes.
pub const SNAP_CHUNK_BODY_MAX: u32 = 1024 * 1024;

portable! {
    /// A frame's header as it lies in the frame.
    pub struct Header [32] {
        /// [`MAGIC`].
        pub magic: [u8; 2],
        /// [`VERSION`].
        pub version: u8,
        /// A [`Kind`].
        pub kind: u8,
        /// Bytes that follow the header.
        pub body_len: u32_ule,
        /// The zxid that the packet is about; 0 for kinds without one.
        pub zxid: u64_ule,
        /// The commit watermark that rides; 0 for kinds without one.
        pub committed: u64_ule,
        /// CRC-32C of the header with this field zero, then of the body.
        pub checksum: u32_ule,
        /// 0.
        pub reserved: u32_ule,
    }
}

const CHECKSUM_AT: usize = 24;

/// How long bodies may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest body of a kind that carries a request or a transaction, bytes.
    pub body_max: u32,
}

impl Default for Limits {
    /// 2 MiB and 64 KiB of slack: twice ZooKeeper's jute.maxbuffer for one buffer, its hard limit,
    /// and what a header, identities and a digest add.
    fn default() -> Self {
        Self { body_max: 2 * 1024 * 1024 + 64 * 1024 }
    }
}

/// What a frame is. Each kind has one direction and one layout; numbers up to 18 are those of
/// ZooKeeper's quorum packets, and kinds that it lacks begin at 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Learner to leader: a forwarded request.
    Request = 1,
    /// Leader to learner, and a record of the log: a transaction.
    Proposal = 2,
    /// Learner to leader: durable up to the header's zxid.
    Ack = 3,
    /// Leader to learner: committed up to the header's zxid.
    Commit = 4,
    /// Leader to learner: heartbeat.
    Ping = 5,
    /// Learner to leader: is this session alive?
    Revalidate = 6,
    /// Leader to learner: answers a forwarded sync.
    Sync = 7,
    /// Leader to observer: a committed transaction.
    Inform = 8,
    /// Leader to learner: the synchronisation stream ends.
    NewLeader = 10,
    /// Follower to leader: introduces itself.
    FollowerInfo = 11,
    /// Leader to learner: serve.
    UpToDate = 12,
    /// Leader to learner: proposals follow.
    Diff = 13,
    /// Leader to learner: remove the end of the log.
    Trunc = 14,
    /// Leader to learner: a snapshot follows.
    Snap = 15,
    /// Observer to leader: introduces itself.
    ObserverInfo = 16,
    /// Leader to learner: the new epoch.
    LeaderInfo = 17,
    /// Learner to leader: the new epoch is promised.
    AckEpoch = 18,
    /// Leader to learner: a piece of the snapshot.
    SnapChunk = 64,
    /// Learner to leader: answers a heartbeat.
    PingReply = 65,
    /// Leader to learner: answers REVALIDATE.
    RevalidateReply = 66,
    /// Who opens a connection to a peer.
    Hello = 67,
    /// Answers a hello.
    Welcome = 68,
    /// A vote on an election link.
    Notification = 69,
}

impl Kind {
    /// The kind of a header's number.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`].
    #[inline]
    pub const fn from_u8(kind: u8) -> Result<Self, DecodeError> {
        Ok(match kind {
            1 => Self::Request,
            2 => Self::Proposal,
            3 => Self::Ack,
            4 => Self::Commit,
            5 => Self::Ping,
            6 => Self::Revalidate,
            7 => Self::Sync,
            8 => Self::Inform,
            10 => Self::NewLeader,
            11 => Self::FollowerInfo,
            12 => Self::UpToDate,
            13 => Self::Diff,
            14 => Self::Trunc,
            15 => Self::Snap,
            16 => Self::ObserverInfo,
            17 => Self::LeaderInfo,
            18 => Self::AckEpoch,
            64 => Self::SnapChunk,
            65 => Self::PingReply,
            66 => Self::RevalidateReply,
            67 => Self::Hello,
            68 => Self::Welcome,
            69 => Self::Notification,
            _ => return Err(DecodeError::UnknownKind { got: kind as i32 }),
        })
    }

    /// Bytes of the fixed part of the body; the whole body unless the kind carries a payload.
    #[inline]
    pub const fn fixed_len(self) -> u32 {
        match self {
            Self::Request
            | Self::Proposal
            | Self::Ack
            | Self::Commit
            | Self::Sync
            | Self::NewLeader
            | Self::UpToDate
            | Self::Diff
            | Self::Trunc
            | Self::Snap
            | Self::LeaderInfo => 0,
            Self::SnapChunk => 1,
            Self::Ping
            | Self::PingReply
            | Self::FollowerInfo
            | Self::ObserverInfo
            | Self::AckEpoch => 8,
            Self::RevalidateReply => 9,
            Self::Revalidate | Self::Welcome => 12,
            Self::Hello | Self::Notification | Self::Inform => 32,
        }
    }

    /// The longest body, bytes; [`Kind::fixed_len`] unless the kind carries a payload.
    #[inline]
    pub const fn body_max(self, limits: Limits) -> u32 {
        match self {
            Self::Request | Self::Proposal | Self::PingReply | Self::Sync => limits.body_max,
            Self::Inform => limits.body_max.saturating_add(HEADER_LEN as u32),
            Self::SnapChunk => {
                if limits.body_max > SNAP_CHUNK_BODY_MAX {
                    limits.body_max
                } else {
                    SNAP_CHUNK_BODY_MAX
                }
            }
            Self::Ack
            | Self::Commit
            | Self::Ping
            | Self::Revalidate
            | Self::NewLeader
            | Self::FollowerInfo
            | Self::UpToDate
            | Self::Diff
            | Self::Trunc
            | Self::Snap
            | Self::ObserverInfo
            | Self::LeaderInfo
            | Self::AckEpoch
            | Self::RevalidateReply
            | Self::Hello
            | Self::Welcome
            | Self::Notification => self.fixed_len(),
        }
    }

    /// Whether a body of this length can belong to the kind.
    const fn admit(self, body_len: u32, limits: Limits) -> Result<(), DecodeError> {
        let (min, max) = (self.fixed_len(), self.body_max(limits));
        if body_len > max {
            return Err(DecodeError::BadLength { got: body_len as i64, max: max as u64 });
        }
        if body_len < min {
            return Err(DecodeError::WrongSize { got: body_len as u64, expected: min as u64 });
        }
        Ok(())
    }
}

/// Header and body of a frame in bytes, from its first eight; checks magic, version, kind and the
/// kind's limit, so that nothing is buffered for a frame that will be refused.
///
/// # Errors
/// [`DecodeError::BadMagic`], [`DecodeError::BadVersion`], [`DecodeError::UnknownKind`],
/// [`DecodeError::BadLength`], [`DecodeError::WrongSize`].
#[inline]
pub fn frame_len(prefix: &[u8; PREFIX_LEN], limits: Limits) -> Result<usize, DecodeError> {
    let [m0, m1, version, kind, l0, l1, l2, l3] = *prefix;
    if [m0, m1] != MAGIC {
        return Err(DecodeError::BadMagic { got: [m0, m1, version, kind] });
    }
    if version != VERSION {
        return Err(DecodeError::BadVersion { got: version });
    }
    let body_len = u32::from_le_bytes([l0, l1, l2, l3]);
    Kind::from_u8(kind)?.admit(body_len, limits)?;
    Ok(HEADER_LEN + body_len as usize)
}

/// A whole frame, read in place.
#[derive(Clone, Copy, Debug)]
pub struct Opened<'a> {
    /// What it is.
    pub kind: Kind,
    /// The zxid that it is about.
    pub zxid: Zxid,
    /// The commit watermark that rides.
    pub committed: Zxid,
    /// Everything behind the header.
    pub body: &'a [u8],
}

/// Reads a whole frame's header. The checksum is not looked at: [`FrameReader`] has verified every
/// frame that it hands out, and [`verify`] is for bytes from elsewhere.
///
/// # Errors
/// As [`frame_len`], and [`DecodeError::Truncated`] or [`DecodeError::WrongSize`] if `frame` is not
/// exactly one frame, [`DecodeError::BadValue`] if the reserved field is not 0.
///
/// [`FrameReader`]: crate::reader::FrameReader
#[inline]
pub fn open(frame: &[u8]) -> Result<Opened<'_>, DecodeError> {
    let header = Header::read(frame).ok_or(DecodeError::Truncated { what: "frame header" })?;
    if header.magic != MAGIC {
        let [m0, m1] = header.magic;
        return Err(DecodeError::BadMagic { got: [m0, m1, header.version, header.kind] });
    }
    if header.version != VERSION {
        return Err(DecodeError::BadVersion { got: header.version });
    }
    let kind = Kind::from_u8(header.kind)?;
    let body_len = header.body_len.to_native();
    let body = &frame[HEADER_LEN..];
    if body.len() != body_len as usize {
        let (got, expected) = (body.len() as u64, body_len.into());
        return Err(DecodeError::WrongSize { got, expected });
    }
    // Whoever received the frame has applied its own limit; here only the kind's shape counts.
    kind.admit(body_len, Limits { body_max: u32::MAX })?;
    if header.reserved.to_native() != 0 {
        return Err(DecodeError::BadValue { what: "reserved field of a frame header" });
    }
    Ok(Opened {
        kind,
        zxid: Zxid::from_u64(header.zxid.to_native()),
        committed: Zxid::from_u64(header.committed.to_native()),
        body,
    })
}

/// Reads a whole frame and checks its checksum.
///
/// # Errors
/// As [`open`], and [`DecodeError::BadChecksum`].
#[inline]
pub fn verify(frame: &[u8]) -> Result<Opened<'_>, DecodeError> {
    let opened = open(frame)?;
    let header = Header::read(frame).ok_or(DecodeError::Truncated { what: "frame header" })?;
    let (got, computed) = (header.checksum.to_native(), checksum(frame));
    if got == computed { Ok(opened) } else { Err(DecodeError::BadChecksum { got, computed }) }
}

/// The checksum that a frame should carry. Its reserved field counts as 0, whatever it holds.
///
/// # Panics
/// If `frame` is shorter than a header.
#[inline]
pub fn checksum(frame: &[u8]) -> u32 {
    let mut zeroed = [0; HEADER_LEN];
    zeroed[..CHECKSUM_AT].copy_from_slice(&frame[..CHECKSUM_AT]);
    let computed = crc32c::crc32c(&zeroed);
    match &frame[HEADER_LEN..] {
        [] => computed,
        body => crc32c::crc32c_append(computed, body),
    }
}

/// Writes the header, with its checksum, into the first bytes of a frame whose body is there.
///
/// The header is composed in words of eight bytes: the checksum reads words, and a word that was
/// stored in smaller pieces stalls the load. That this is [`Header`]'s layout is tested.
///
/// # Panics
/// If the frame is shorter than a header, or longer than 4 GiB, far above every limit.
#[inline]
pub(crate) fn seal(kind: Kind, zxid: Zxid, committed: Zxid, frame: &mut [u8]) {
    let body_len = u32::try_from(frame.len() - HEADER_LEN).expect("a body is far below 4 GiB");
    let first = u64::from(u16::from_le_bytes(MAGIC))
        | u64::from(VERSION) << 16
        | u64::from(kind as u8) << 24
        | u64::from(body_len) << 32;
    frame[..8].copy_from_slice(&first.to_le_bytes());
    frame[8..16].copy_from_slice(&zxid.as_u64().to_le_bytes());
    frame[16..24].copy_from_slice(&committed.as_u64().to_le_bytes());
    frame[24..32].fill(0);
    let checksum = crc32c::crc32c(frame);
    frame[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// A frame that is only its header.
#[inline]
pub(crate) fn seal_bare(kind: Kind, zxid: Zxid, committed: Zxid) -> [u8; HEADER_LEN] {
    let mut frame = [0; HEADER_LEN];
    seal(kind, zxid, committed, &mut frame);
    frame
}

/// Appends a frame whose body is `fixed` and then `payload`.
#[inline]
pub(super) fn encode_frame(
    kind: Kind,
    zxid: Zxid,
    committed: Zxid,
    fixed: &[u8],
    payload: &[u8],
    out: &mut BytesMut,
) {
    let start = out.len();
    out.reserve(HEADER_LEN + fixed.len() + payload.len());
    out.extend_from_slice(&[0; HEADER_LEN]);
    out.extend_from_slice(fixed);
    out.extend_from_slice(payload);
    seal(kind, zxid, committed, &mut out[start..]);
}

/// Reads a frame that must be of one kind, as connection set-up does.
pub(crate) fn open_kind<'a>(frame: &'a [u8], kind: Kind) -> Result<Opened<'a>, DecodeError> {
    let opened = open(frame)?;
    if opened.kind == kind {
        Ok(opened)
    } else {
        Err(DecodeError::UnknownKind { got: opened.kind as i32 })
    }
}

/// The part of a frame behind its header and `fixed` more bytes, sharing the frame's buffer.
pub(crate) fn payload(frame: &Frame, fixed: usize) -> Frame {
    frame.slice(HEADER_LEN + fixed..)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use quorate_proto::Epoch;

    use super::*;
    use crate::testing::hex;

    const ZXID: Zxid = Zxid::from_u64(0x0000_0003_0000_0009);

    #[test]
    fn the_layout_is_frozen() {
        assert_eq!(core::mem::offset_of!(Header, kind), 3);
        assert_eq!(core::mem::offset_of!(Header, body_len), 4);
        assert_eq!(core::mem::offset_of!(Header, zxid), 8);
        assert_eq!(core::mem::offset_of!(Header, committed), 16);
        assert_eq!(core::mem::offset_of!(Header, checksum), CHECKSUM_AT);
        assert_eq!(core::mem::offset_of!(Header, reserved), 28);
        let committed = Zxid::new(Epoch::new(3), 4);
        let mut frame = [&[0xff; HEADER_LEN][..], b"hello"].concat();
        seal(Kind::Proposal, ZXID, committed, &mut frame);
        let golden = hex("5172 01 02 05000000 0900000003000000 0400000003000000");
        assert_eq!(frame[..CHECKSUM_AT], golden);
        assert_eq!(frame[28..], hex("00000000 68656c6c6f"));
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            kind: Kind::Proposal as u8,
            body_len: 5.into(),
            zxid: ZXID.as_u64().into(),
            committed: committed.as_u64().into(),
            checksum: 0.into(),
            reserved: 0.into(),
        };
        // The checksum, computed the slow way over the struct with its field zero.
        let sum = crc32c::crc32c_append(crc32c::crc32c(&header.to_bytes()), b"hello");
        let header = Header { checksum: sum.into(), ..header };
        assert_eq!(frame[..HEADER_LEN], header.to_bytes());
    }

    #[test]
    fn whole_frames_have_the_bytes_that_another_implementation_makes() {
        let ack = "51720103 00000000 0700000002000000 0000000000000000 1545f977 00000000";
        let zxid = Zxid::from_u64(0x2_0000_0007);
        assert_eq!(seal_bare(Kind::Ack, zxid, Zxid::ZERO)[..], hex(ack));
        let proposal = "51720102 05000000 0900000003000000 0400000003000000 ea63e86a 00000000
            68656c6c6f";
        let mut out = BytesMut::new();
        let committed = Zxid::new(Epoch::new(3), 4);
        encode_frame(Kind::Proposal, ZXID, committed, b"he", b"llo", &mut out);
        assert_eq!(out, hex(proposal));
    }

    #[test]
    fn what_is_written_field_by_field_is_what_is_read_in_place() {
        let bytes: Vec<u8> = (1..=32).collect();
        let header = Header::read(&bytes).unwrap();
        assert_eq!(header.body_len.to_native(), 0x0807_0605);
        assert_eq!(header.reserved.to_native(), 0x201f_1e1d);
        assert_eq!(header.to_bytes()[..], bytes[..]);
        // In place at any offset: the struct has alignment 1.
        for offset in 0..8 {
            let mut shifted = alloc::vec![0; offset];
            shifted.extend_from_slice(&bytes);
            assert_eq!(Header::read(&shifted[offset..]).unwrap().to_bytes()[..], bytes[..]);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut out = BytesMut::new();
        encode_frame(Kind::Proposal, ZXID, Zxid::ZERO, b"a ", b"body", &mut out);
        assert_eq!(verify(&out).unwrap().body, b"a body");
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_header_is_refused_for_each_of_its_fields() {
        let prefix = |magic: &[u8; 2], version, kind, len: u32| {
            let [l0, l1, l2, l3] = len.to_le_bytes();
            [magic[0], magic[1], version, kind, l0, l1, l2, l3]
        };
        let limits = Limits { body_max: 100 };
        let refused = |prefix| frame_len(&prefix, limits).unwrap_err();
        assert_eq!(frame_len(&prefix(b"Qr", 1, 2, 100), limits), Ok(132));
        assert_eq!(refused(prefix(b"Zk", 1, 2, 0)), DecodeError::BadMagic { got: *b"Zk\x01\x02" });
        assert_eq!(refused(prefix(b"Qr", 2, 2, 0)), DecodeError::BadVersion { got: 2 });
        assert_eq!(refused(prefix(b"Qr", 1, 9, 0)), DecodeError::UnknownKind { got: 9 });
        let long = DecodeError::BadLength { got: 101, max: 100 };
        assert_eq!(refused(prefix(b"Qr", 1, 2, 101)), long);
        let not_empty = DecodeError::BadLength { got: 1, max: 0 };
        assert_eq!(refused(prefix(b"Qr", 1, Kind::Ack as u8, 1)), not_empty);
        let short = DecodeError::WrongSize { got: 7, expected: 8 };
        assert_eq!(refused(prefix(b"Qr", 1, Kind::Ping as u8, 7)), short);
        let huge = DecodeError::BadLength { got: u32::MAX.into(), max: 1024 * 1024 };
        assert_eq!(refused(prefix(b"Qr", 1, Kind::SnapChunk as u8, u32::MAX)), huge);
    }

    #[test]
    fn a_number_is_a_kind_or_is_refused_and_control_bodies_are_small() {
        let mut kinds = 0;
        for number in 0..=u8::MAX {
            let Ok(kind) = Kind::from_u8(number) else { continue };
            kinds += 1;
            assert_eq!(kind as u8, number);
            // The bound of a control packet (`safety.md` 8.2).
            assert!(kind.fixed_len() <= 64 * 1024);
            assert!(kind.fixed_len() <= kind.body_max(Limits { body_max: 1 << 20 }));
        }
        assert_eq!(kinds, 23);
    }
}
