//! The tree's digest: a sum over nodes, so that it follows each change at the cost of that change.
//!
//! Version 2 of ZooKeeper's `DigestCalculator` (`quorum.md` 1.5). Covers no access control lists and
//! no sessions, and is no defence against anybody: it finds servers that have drifted apart.

use crc32fast::Hasher;

use crate::stat::StatPersisted;

/// The algorithm's number in a [`crate::txn::TxnDigest`].
pub const DIGEST_VERSION: i32 = 2;

/// Whether a node counts: everything below `/zookeeper/` does not, `/zookeeper` itself does.
pub(crate) fn counts(path: &[u8]) -> bool {
    !path.starts_with(b"/zookeeper/")
}

/// The checksum of path and data, from which [`node_digest`] goes on: a change of the counters alone
/// does not read the data again.
pub(crate) fn content_crc(path: &[u8], data: Option<&[u8]>) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(path);
    if let Some(data) = data {
        hasher.update(data);
    }
    hasher.finalize()
}

/// `CRC32(path, data, stat)`: the counters are laid out with pzxid third, unlike in a snapshot.
pub(crate) fn node_digest(content_crc: u32, stat: &StatPersisted) -> u32 {
    let mut bytes = [0; 60];
    bytes[0..8].copy_from_slice(&stat.czxid.as_u64().to_be_bytes());
    bytes[8..16].copy_from_slice(&stat.mzxid.as_u64().to_be_bytes());
    bytes[16..24].copy_from_slice(&stat.pzxid.as_u64().to_be_bytes());
    bytes[24..32].copy_from_slice(&stat.ctime.to_be_bytes());
    bytes[32..40].copy_from_slice(&stat.mtime.to_be_bytes());
    bytes[40..44].copy_from_slice(&stat.version.to_be_bytes());
    bytes[44..48].copy_from_slice(&stat.cversion.to_be_bytes());
    bytes[48..52].copy_from_slice(&stat.aversion.to_be_bytes());
    bytes[52..60].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
    let mut hasher = Hasher::new_with_initial(content_crc);
    hasher.update(&bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_proto::Zxid;

    #[test]
    fn the_checksum_is_crc_32_iso_hdlc() {
        assert_eq!(content_crc(b"1234", Some(b"56789")), 0xcbf4_3926);
    }

    #[test]
    fn the_documented_sums_come_out() {
        let zero = StatPersisted::default();
        type Node = (&'static [u8], Option<&'static [u8]>, StatPersisted);
        let sum = |nodes: &[Node]| -> u64 {
            let each =
                |(path, data, stat): &Node| u64::from(node_digest(content_crc(path, *data), stat));
            nodes.iter().map(each).sum()
        };
        assert_eq!(sum(&[(b"", None, zero), (b"/zookeeper", None, zero)]), 0x51c6_d660);
        let zxid = Zxid::from_u64(0x1_0000_0002);
        let time = 0x01a2_08db_c0f3;
        let root = StatPersisted { pzxid: zxid, cversion: 1, ..zero };
        let x = StatPersisted {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: time,
            mtime: time,
            ..zero
        };
        let nodes: [Node; 3] =
            [(b"", None, root), (b"/zookeeper", None, zero), (b"/x", Some(b"v"), x)];
        assert_eq!(sum(&nodes), 0x1_e793_212e);
    }
}
