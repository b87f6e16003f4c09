//! The first frame of each side on a peer port: who calls and which versions it speaks; the answer.
//!
//! Authenticates nobody: a sid is claimed here, and bound to an identity elsewhere.

use core::fmt;

use bytes::BytesMut;
use quorate_proto::{ServerId, Zxid};
use rkyv::rend::unaligned::u64_ule;

use super::header::{Kind, encode_frame, open_kind};
use crate::DecodeError;

/// The lowest version of the native encoding that this server speaks.
pub const VERSION_MIN: u8 = 1;
/// The highest version of the native encoding that this server speaks.
pub const VERSION_MAX: u8 = 1;

portable! {
    struct HelloBody [32] {
        version_min: u8,
        version_max: u8,
        purpose: u8,
        reserved: [u8; 5],
        sid: u64_ule,
        config_hash: u64_ule,
        cluster_id: u64_ule,
    }
}

portable! {
    struct WelcomeBody [12] {
        version: u8,
        status: u8,
        reserved: [u8; 2],
        sid: u64_ule,
    }
}

const _: () = {
    assert!(Kind::Hello.fixed_len() as usize == HelloBody::LEN);
    assert!(Kind::Welcome.fixed_len() as usize == WelcomeBody::LEN);
};

/// What a connection between servers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// To follow or to observe a leader (ZooKeeper's quorum port).
    Learner = 1,
    /// To exchange votes (ZooKeeper's election port).
    Election = 2,
}

/// Introduces the server that opened the connection. Its frame always has header version 1, so that
/// every later version can read it and refuse it in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version that the caller speaks.
    pub version_min: u8,
    /// The highest version that the caller speaks.
    pub version_max: u8,
    /// The caller.
    pub sid: ServerId,
    /// What the connection is for.
    pub purpose: Purpose,
    /// A hash of the membership as the caller has it.
    pub config_hash: u64,
    /// Which ensemble the caller belongs to; servers of another one must not meet by accident.
    pub cluster_id: u64,
}

impl Hello {
    /// The hello of this build, with its version range.
    pub const fn ours(sid: ServerId, purpose: Purpose, config_hash: u64, cluster_id: u64) -> Self {
        Self {
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            sid,
            purpose,
            config_hash,
            cluster_id,
        }
    }

    /// The highest version that both sides speak, or `None`.
    pub fn negotiate(&self) -> Option<u8> {
        let version = self.version_max.min(VERSION_MAX);
        (version >= self.version_min && version >= VERSION_MIN).then_some(version)
    }

    /// Whether there is a version that both sides speak.
    pub fn speaks_our_version(&self) -> bool {
        self.negotiate().is_some()
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let body = HelloBody {
            version_min: self.version_min,
            version_max: self.version_max,
            purpose: self.purpose as u8,
            reserved: [0; 5],
            sid: self.sid.0.into(),
            config_hash: self.config_hash.into(),
            cluster_id: self.cluster_id.into(),
        };
        encode_frame(Kind::Hello, Zxid::ZERO, Zxid::ZERO, &body.to_bytes(), &[], out);
    }

    /// Reads a frame that a [`FrameReader`](crate::FrameReader) has verified.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`] if it is no hello, [`DecodeError::BadValue`] for a purpose that
    /// does not exist or an empty range of versions, otherwise as [`open`](super::header::open).
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let opened = open_kind(frame, Kind::Hello)?;
        let body = HelloBody::read(opened.body).ok_or(DecodeError::Truncated { what: "hello" })?;
        if body.version_min > body.version_max {
            return Err(DecodeError::BadValue { what: "version range of a hello" });
        }
        Ok(Self {
            version_min: body.version_min,
            version_max: body.version_max,
            sid: ServerId(body.sid.to_native()),
            purpose: match body.purpose {
                1 => Purpose::Learner,
                2 => Purpose::Election,
                _ => return Err(DecodeError::BadValue { what: "purpose of a hello" }),
            },
            config_hash: body.config_hash.to_native(),
            cluster_id: body.cluster_id.to_native(),
        })
    }
}

/// Whether a hello is accepted, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Accepted.
    Welcome = 0,
    /// No common version.
    Version = 1,
    /// The configurations differ, or the ensembles do.
    Config = 2,
    /// The sid is not a member, or is the called server's own.
    UnknownServer = 3,
    /// The called server does not lead (now); learners try again or elsewhere.
    NotLeading = 4,
    /// The port serves another purpose.
    Purpose = 5,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Welcome => "welcome",
            Self::Version => "no common version",
            Self::Config => "another configuration or ensemble",
            Self::UnknownServer => "not a member",
            Self::NotLeading => "not leading",
            Self::Purpose => "wrong port for this purpose",
        })
    }
}

/// Answers a [`Hello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version to be spoken; meaningless unless the status is [`Status::Welcome`].
    pub version: u8,
    /// The server that answers.
    pub sid: ServerId,
    /// Accepted, or why not.
    pub status: Status,
}

impl Welcome {
    /// Appends the frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let body = WelcomeBody {
            version: self.version,
            status: self.status as u8,
            reserved: [0; 2],
            sid: self.sid.0.into(),
        };
        encode_frame(Kind::Welcome, Zxid::ZERO, Zxid::ZERO, &body.to_bytes(), &[], out);
    }

    /// Reads a frame that a [`FrameReader`](crate::FrameReader) has verified.
    ///
    /// # Errors
    /// [`DecodeError::UnknownKind`] if it is no welcome, [`DecodeError::BadValue`] for a status that
    /// does not exist, otherwise as [`open`](super::header::open).
    pub fn decode(frame: &[u8]) -> Result<Self, DecodeError> {
        let opened = open_kind(frame, Kind::Welcome)?;
        let short = DecodeError::Truncated { what: "welcome" };
        let body = WelcomeBody::read(opened.body).ok_or(short)?;
        Ok(Self {
            version: body.version,
            sid: ServerId(body.sid.to_native()),
            status: match body.status {
                0 => Status::Welcome,
                1 => Status::Version,
                2 => Status::Config,
                3 => Status::UnknownServer,
                4 => Status::NotLeading,
                5 => Status::Purpose,
                _ => return Err(DecodeError::BadValue { what: "status of a welcome" }),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::native::header::HEADER_LEN;
    use crate::testing::{assert_truncation_fails, hex};

    fn hello() -> Hello {
        Hello::ours(ServerId(3), Purpose::Election, 0x1122_3344_5566_7788, 9)
    }

    #[test]
    fn hello_and_welcome_come_back_and_their_bytes_are_frozen() {
        let mut out = BytesMut::new();
        hello().encode(&mut out);
        assert_eq!(Hello::decode(&out), Ok(hello()));
        let golden = "01 01 02 0000000000 0300000000000000 8877665544332211 0900000000000000";
        assert_eq!(out[HEADER_LEN..], hex(golden));
        assert_truncation_fails(&out, |bytes| Hello::decode(bytes).is_err());

        for status in [
            Status::Welcome,
            Status::Version,
            Status::Config,
            Status::UnknownServer,
            Status::NotLeading,
            Status::Purpose,
        ] {
            let welcome = Welcome { version: 1, sid: ServerId(2), status };
            let mut out = BytesMut::new();
            welcome.encode(&mut out);
            assert_eq!(Welcome::decode(&out), Ok(welcome));
            assert_eq!(out[HEADER_LEN..][2..], hex("0000 0200000000000000"));
            assert_truncation_fails(&out, |bytes| Welcome::decode(bytes).is_err());
        }
    }

    #[test]
    fn versions_meet_at_the_highest_common_one() {
        let range = |version_min, version_max| Hello { version_min, version_max, ..hello() };
        assert_eq!(range(1, 1).negotiate(), Some(1));
        assert_eq!(range(1, 9).negotiate(), Some(VERSION_MAX));
        assert_eq!(range(VERSION_MAX + 1, 200).negotiate(), None);
        assert_eq!(range(0, 0).negotiate(), None);
    }

    #[test]
    fn a_hello_with_values_that_do_not_exist_is_refused() {
        let refused = |at: usize, value: u8| {
            let mut out = BytesMut::new();
            hello().encode(&mut out);
            out[HEADER_LEN + at] = value;
            Hello::decode(&out).unwrap_err()
        };
        assert_eq!(refused(2, 3), DecodeError::BadValue { what: "purpose of a hello" });
        assert_eq!(refused(0, 2), DecodeError::BadValue { what: "version range of a hello" });
        let mut out = BytesMut::new();
        Welcome { version: 1, sid: ServerId(1), status: Status::Welcome }.encode(&mut out);
        assert_eq!(Hello::decode(&out), Err(DecodeError::UnknownKind { got: 68 }));
        out[HEADER_LEN + 1] = 6;
        let what = "status of a welcome";
        assert_eq!(Welcome::decode(&out), Err(DecodeError::BadValue { what }));
    }
}
