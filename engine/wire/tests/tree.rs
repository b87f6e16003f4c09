//! The encodings against the tree: captured transactions in, a snapshot out and in again.
//!
//! Tests no tree: the digests are those that ZooKeeper wrote into the captured bytes.

use bytes::BytesMut;
use quorate_proto::{SessionId, Zxid};
use quorate_tree::snapshot::{Entry, Restore};
use quorate_tree::{Acl, DataTree, Txn, TxnHeader, WatchTable};
use quorate_wire::DecodeError;
use quorate_wire::jute::txn::{decode_txn, encode_txn};
use quorate_wire::native::snapshot::{EntryReader, encode_entry};

const SEED: u64 = 7;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Decodes a blob, applies it, and compares the tree's digest with the one that it carries.
fn apply(tree: &mut DataTree, blob: &[u8]) {
    let (header, txn, digest) = decode_txn(blob).expect("a transaction");
    tree.apply(&header, &txn, &mut WatchTable::<u32>::new(SEED), &mut Vec::new());
    if let Some(digest) = digest {
        assert_eq!(tree.digest(), digest.tree_digest, "after {:?}", header.zxid);
    }
}

#[test]
fn captured_transactions_lead_to_the_digests_that_they_carry() {
    let mut tree = DataTree::new(SEED);
    let create_session = "0100001e4de70000 00000000 0000000100000001 000001a208dbc0df fffffff6
        00004e20 00000002 0000000051c6d660";
    apply(&mut tree, &hex(create_session));
    let create = "0100001e4de70000 00000001 0000000100000002 000001a208dbc0f3 00000001
        00000002 2f78 00000001 76 00000001 0000001f 00000005 776f726c64 00000006 616e796f6e65
        00 00000001 00000002 00000001e793212e";
    apply(&mut tree, &hex(create));
    assert_eq!(tree.digest(), 0x1_e793_212e);
}

/// A tree with sessions, ephemerals, null data and several access control lists, made from encoded
/// transactions.
fn some_tree() -> DataTree {
    let mut tree = DataTree::new(SEED);
    let mut counter = 0;
    let mut propose = |session: u64, txn: Txn<'_>| {
        counter += 1;
        let header = TxnHeader {
            session: SessionId(session),
            cxid: counter,
            zxid: Zxid::from_u64(1 << 32 | counter as u64),
            time: 1_700_000_000_000 + i64::from(counter),
            kind: 0,
        };
        let mut blob = BytesMut::new();
        encode_txn(&header, &txn, None, &mut blob);
        apply(&mut tree, &blob);
    };
    for session in 1..=3 {
        propose(session, Txn::CreateSession { timeout_ms: 10_000 });
    }
    for node in 0..200_i32 {
        let path = format!("/node-{node}").into_bytes();
        let data = vec![node as u8; node as usize * 7];
        let acl = match node % 3 {
            0 => Acl::world(quorate_tree::Permissions::READ),
            _ => Acl::open(),
        };
        let create = Txn::Create {
            path: (&path).into(),
            data: (node % 5 != 0).then_some(&data),
            acl: vec![acl],
            ephemeral: node % 4 == 0,
            parent_cversion: node + 2,
            with_stat: false,
        };
        propose(1 + node as u64 % 3, create);
    }
    tree
}

#[test]
fn a_snapshot_cut_into_any_pieces_gives_the_same_tree() {
    let mut tree = some_tree();
    for piece_len in [1, 7, 100, 4096, usize::MAX] {
        let mut cut = tree.open_cut();
        let mut bytes = BytesMut::new();
        while !cut.next_slice(&mut tree, 500, |entry| encode_entry(&entry, &mut bytes)) {}
        tree.close_cut(cut);

        let mut restore = Restore::new(SEED);
        let mut reader = EntryReader::new();
        for piece in bytes.chunks(piece_len) {
            assert!(!reader.is_complete());
            reader.push(piece, |entry| restore.push(&entry)).expect("a whole snapshot");
        }
        assert!(reader.is_complete());
        let restored = restore.finish().expect("counts and digest fit");
        assert_eq!(restored.digest(), tree.digest());
        assert_eq!(restored.session_count(), 3);
        for node in 0..200 {
            let path = format!("/node-{node}").into_bytes();
            assert_eq!(restored.get_data(&path, &[]), tree.get_data(&path, &[]));
            assert_eq!(restored.get_acl(&path, &[]), tree.get_acl(&path, &[]));
        }
    }
}

#[test]
fn what_the_tree_refuses_ends_the_snapshot_with_its_reason() {
    let mut bytes = BytesMut::new();
    let stat = quorate_tree::StatPersisted::default();
    let orphan = Entry::Node { path: b"/no/parent", data: None, acl: &[], stat: &stat };
    encode_entry(&orphan, &mut bytes);
    let mut restore = Restore::new(SEED);
    let error = EntryReader::new()
        .push(&bytes, |entry| restore.push(&entry))
        .expect_err("a node without a parent");
    assert!(matches!(error, quorate_wire::native::snapshot::EntryError::Refused(_)), "{error}");
    bytes[1] = 9;
    let error =
        EntryReader::new().push(&bytes, |entry| restore.push(&entry)).expect_err("another version");
    assert_eq!(error, DecodeError::BadVersion { got: 9 }.into());
}
