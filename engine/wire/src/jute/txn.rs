//! Transactions in ZooKeeper's bytes (`TxnHeader`, record, optional `TxnDigest`): what a proposal
//! carries and what a log of ZooKeeper's holds.
//!
//! Applies nothing and checks no meaning.

use alloc::borrow::Cow;
use alloc::vec::Vec;

use bytes::BytesMut;
use quorate_proto::SessionId;
use quorate_tree::txn::TxnDigest;
use quorate_tree::{ErrorCode, Txn, TxnHeader};

use super::archive::{Reader, Writer};
use super::opcode;
use crate::DecodeError;

/// Bytes of a transaction's header.
pub const HEADER_LEN: usize = 32;
/// Bytes of a digest.
pub const DIGEST_LEN: usize = 12;
/// The fewest bytes of a transaction inside a multi: type and length.
const SUB_TXN_LEN_MIN: usize = 8;

/// The type that a header gives to a transaction.
pub const fn kind_of(txn: &Txn<'_>) -> i32 {
    match txn {
        Txn::Create { with_stat: false, .. } => opcode::CREATE,
        Txn::Create { with_stat: true, .. } => opcode::CREATE2,
        Txn::Delete { .. } => opcode::DELETE,
        Txn::SetData { .. } => opcode::SET_DATA,
        Txn::SetAcl { .. } => opcode::SET_ACL,
        Txn::Check { .. } => opcode::CHECK,
        Txn::CreateSession { .. } => opcode::CREATE_SESSION,
        Txn::CloseSession { .. } => opcode::CLOSE_SESSION,
        Txn::Multi(_) => opcode::MULTI,
        Txn::Error(_) => opcode::ERROR,
    }
}

/// Appends a transaction. The type written is that of `txn`, whatever `header.kind` says, so that
/// the two cannot differ.
pub fn encode_txn(
    header: &TxnHeader,
    txn: &Txn<'_>,
    digest: Option<TxnDigest>,
    out: &mut BytesMut,
) {
    encode_header(&TxnHeader { kind: kind_of(txn), ..*header }, out);
    encode_record(txn, digest, out);
}

/// Appends a header.
#[inline]
pub fn encode_header(header: &TxnHeader, out: &mut BytesMut) {
    let mut bytes = [0; HEADER_LEN];
    bytes[..8].copy_from_slice(&header.session.0.to_be_bytes());
    bytes[8..12].copy_from_slice(&header.cxid.to_be_bytes());
    bytes[12..20].copy_from_slice(&header.zxid.as_u64().to_be_bytes());
    bytes[20..28].copy_from_slice(&header.time.to_be_bytes());
    bytes[28..].copy_from_slice(&header.kind.to_be_bytes());
    out.extend_from_slice(&bytes);
}

/// Appends what follows a header, and returns the type that belongs into it.
pub fn encode_record(txn: &Txn<'_>, digest: Option<TxnDigest>, out: &mut BytesMut) -> i32 {
    let mut writer = Writer::new(out);
    encode_body(txn, &mut writer);
    if let Some(digest) = digest {
        writer.int(digest.version);
        writer.long(digest.tree_digest as i64);
    }
    kind_of(txn)
}

fn encode_body(txn: &Txn<'_>, writer: &mut Writer<'_>) {
    match txn {
        Txn::Create { path, data, acl, ephemeral, parent_cversion, with_stat: _ } => {
            writer.bytes(path);
            writer.buffer(*data);
            writer.acl(acl);
            writer.boolean(*ephemeral);
            writer.int(*parent_cversion);
        }
        Txn::Delete { path } => writer.bytes(path),
        Txn::SetData { path, data, version } => {
            writer.bytes(path);
            writer.buffer(*data);
            writer.int(*version);
        }
        Txn::SetAcl { path, acl, version } => {
            writer.bytes(path);
            writer.acl(acl);
            writer.int(*version);
        }
        Txn::Check { path, version } => {
            writer.bytes(path);
            writer.int(*version);
        }
        Txn::CreateSession { timeout_ms } => writer.int(*timeout_ms),
        Txn::CloseSession { paths } => writer.strings(paths),
        Txn::Multi(txns) => {
            writer.count(txns.len());
            for txn in txns {
                writer.int(kind_of(txn));
                writer.framed(|writer| encode_body(txn, writer));
            }
        }
        Txn::Error(code) => writer.int(code.code()),
    }
}

/// Reads a transaction.
///
/// A digest is there if at least its bytes are left behind the record; what is shorter is ignored,
/// as ZooKeeper does (`SerializeUtils.deserializeTxn`).
///
/// # Errors
/// [`DecodeError::Truncated`], [`DecodeError::BadLength`], [`DecodeError::BadValue`], and
/// [`DecodeError::UnknownKind`] for a type that does not exist or may not stand there.
pub fn decode_txn(bytes: &[u8]) -> Result<(TxnHeader, Txn<'_>, Option<TxnDigest>), DecodeError> {
    let header = decode_header(bytes)?;
    let (txn, digest) = decode_record(header.kind, &bytes[HEADER_LEN..])?;
    Ok((header, txn, digest))
}

/// Reads a transaction's header; `bytes` go on behind it.
///
/// # Errors
/// [`DecodeError::Truncated`].
#[inline]
pub fn decode_header(bytes: &[u8]) -> Result<TxnHeader, DecodeError> {
    const WHAT: &str = "transaction header";
    if bytes.len() < HEADER_LEN {
        return Err(DecodeError::Truncated { what: WHAT });
    }
    let mut reader = Reader::new(bytes);
    Ok(TxnHeader {
        session: SessionId(reader.long(WHAT)? as u64),
        cxid: reader.int(WHAT)?,
        zxid: reader.zxid(WHAT)?,
        time: reader.long(WHAT)?,
        kind: reader.int(WHAT)?,
    })
}

/// Reads what follows the header of a transaction of type `kind`.
///
/// # Errors
/// See [`decode_txn`].
pub fn decode_record(
    kind: i32,
    record: &[u8],
) -> Result<(Txn<'_>, Option<TxnDigest>), DecodeError> {
    let mut reader = Reader::new(record);
    let txn = match kind {
        opcode::CREATE | opcode::CREATE2 => decode_create(kind, &mut reader, true)?,
        opcode::CREATE_SESSION => Txn::CreateSession { timeout_ms: reader.int("createSession")? },
        // Before 3.6 the record was empty, and whatever the session owned went.
        opcode::CLOSE_SESSION if record.is_empty() => Txn::CloseSession { paths: Vec::new() },
        opcode::CLOSE_SESSION => {
            let paths = reader.strings("closeSession")?;
            Txn::CloseSession { paths: paths.into_iter().map(Cow::Borrowed).collect() }
        }
        opcode::MULTI => decode_multi(&mut reader)?,
        // Only inside a multi; at the top a ZooKeeper learner drops the connection, too.
        opcode::CHECK => return Err(DecodeError::UnknownKind { got: kind }),
        _ => decode_simple(kind, &mut reader)?,
    };
    Ok((txn, decode_digest(&mut reader)))
}

fn decode_digest(reader: &mut Reader<'_>) -> Option<TxnDigest> {
    let version = reader.int("digest").ok()?;
    let tree_digest = reader.long("digest").ok()? as u64;
    Some(TxnDigest { version, tree_digest })
}

/// A create. A record of type 1 from before 3.4 ends before the parent's cversion (CreateTxnV0);
/// -1 stands for it then, which tells the tree to count for itself.
fn decode_create<'a>(
    kind: i32,
    reader: &mut Reader<'a>,
    allow_v0: bool,
) -> Result<Txn<'a>, DecodeError> {
    let path = Cow::Borrowed(reader.bytes("create's path")?);
    let data = reader.buffer("create's data")?;
    let acl = reader.acl()?;
    let ephemeral = reader.boolean("create's ephemeral flag")?;
    let with_stat = kind == opcode::CREATE2;
    let parent_cversion = if reader.remaining() == 0 && allow_v0 && !with_stat {
        -1
    } else {
        reader.int("create's parent cversion")?
    };
    Ok(Txn::Create { path, data, acl, ephemeral, parent_cversion, with_stat })
}

fn decode_simple<'a>(kind: i32, reader: &mut Reader<'a>) -> Result<Txn<'a>, DecodeError> {
    Ok(match kind {
        opcode::DELETE => Txn::Delete { path: reader.bytes("delete")? },
        opcode::SET_DATA => Txn::SetData {
            path: reader.bytes("setData's path")?,
            data: reader.buffer("setData's data")?,
            version: reader.int("setData's version")?,
        },
        opcode::SET_ACL => Txn::SetAcl {
            path: reader.bytes("setACL's path")?,
            acl: reader.acl()?,
            version: reader.int("setACL's version")?,
        },
        opcode::CHECK => Txn::Check {
            path: reader.bytes("check's path")?,
            version: reader.int("check's version")?,
        },
        opcode::ERROR => {
            let code = ErrorCode::from_code(reader.int("error's code")?);
            Txn::Error(code.ok_or(DecodeError::BadValue { what: "error's code" })?)
        }
        _ => return Err(DecodeError::UnknownKind { got: kind }),
    })
}

fn decode_multi<'a>(reader: &mut Reader<'a>) -> Result<Txn<'a>, DecodeError> {
    let count = reader.count(SUB_TXN_LEN_MIN, "multi")?;
    let mut txns = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = reader.int("type inside a multi")?;
        let mut record = Reader::new(reader.bytes("record inside a multi")?);
        // No session and no multi inside a multi: there is no recursion to bound.
        txns.push(match kind {
            opcode::CREATE | opcode::CREATE2 => decode_create(kind, &mut record, false)?,
            _ => decode_simple(kind, &mut record)?,
        });
    }
    Ok(Txn::Multi(txns))
}

#[cfg(test)]
mod tests {
    use quorate_proto::Zxid;
    use quorate_tree::Acl;

    use super::*;
    use crate::testing::{Parts, Rng, assert_truncation_fails, hex, parts};

    const SESSION: SessionId = SessionId(0x0100_001e_4de7_0000);
    const TIME: i64 = 0x0000_01a2_08db_c0f3;

    fn header(cxid: i32, kind: i32) -> TxnHeader {
        let zxid = Zxid::from_u64(0x1_0000_0002);
        TxnHeader { session: SESSION, cxid, zxid, time: TIME, kind }
    }

    /// The blob of a captured record: the header common to all, its type, the record.
    fn blob(cxid: &str, kind: &str, record: &str) -> Vec<u8> {
        let head = "0100001e4de70000";
        let middle = "0000000100000002 000001a208dbc0f3";
        hex(&alloc::format!("{head} {cxid} {middle} {kind} {record}"))
    }

    #[track_caller]
    fn assert_golden(bytes: &[u8], header: TxnHeader, txn: Txn<'_>, digest: Option<u64>) {
        let digest = digest.map(|tree_digest| TxnDigest { version: 2, tree_digest });
        assert_eq!(decode_txn(bytes), Ok((header, txn.clone(), digest)));
        assert_eq!(decode_header(bytes), Ok(header));
        let mut out = BytesMut::new();
        encode_txn(&TxnHeader { kind: 77, ..header }, &txn, digest, &mut out);
        assert_eq!(out, bytes);
        assert_eq!(encode_record(&txn, digest, &mut BytesMut::new()), header.kind);
    }

    #[test]
    fn a_captured_create_session() {
        let bytes = hex("0100001e4de70000 00000000 0000000100000001 000001a208dbc0df fffffff6
             00004e20 00000002 0000000051c6d660");
        let header = TxnHeader {
            session: SESSION,
            cxid: 0,
            zxid: Zxid::from_u64(0x1_0000_0001),
            time: 0x0000_01a2_08db_c0df,
            kind: -10,
        };
        let txn = Txn::CreateSession { timeout_ms: 20_000 };
        assert_golden(&bytes, header, txn, Some(0x51c6_d660));
    }

    const CREATE_X: &str = "00000002 2f78 00000001 76 00000001 0000001f
        00000005 776f726c64 00000006 616e796f6e65 00 00000001";

    fn create_x(with_stat: bool) -> Txn<'static> {
        Txn::Create {
            path: Cow::Borrowed(b"/x"),
            data: Some(b"v"),
            acl: alloc::vec![Acl::open()],
            ephemeral: false,
            parent_cversion: 1,
            with_stat,
        }
    }

    #[test]
    fn a_captured_create_and_its_forms() {
        let digest = "00000002 00000001e793212e";
        let bytes = blob("00000001", "00000001", &alloc::format!("{CREATE_X} {digest}"));
        assert_golden(&bytes, header(1, 1), create_x(false), Some(0x1_e793_212e));
        let bytes = blob("00000001", "0000000f", CREATE_X);
        assert_golden(&bytes, header(1, 15), create_x(true), None);
    }

    #[test]
    fn a_create_from_before_the_parents_cversion() {
        let v0 = &CREATE_X[..CREATE_X.len() - 9];
        let bytes = blob("00000001", "00000001", v0);
        let Ok((_, Txn::Create { parent_cversion, .. }, None)) = decode_txn(&bytes) else {
            panic!("{:?}", decode_txn(&bytes));
        };
        assert_eq!(parent_cversion, -1);
        // Only type 1 has that form, and only outside a multi.
        let bytes = blob("00000001", "0000000f", v0);
        assert!(matches!(decode_txn(&bytes), Err(DecodeError::Truncated { .. })));
        let len = hex(v0).len();
        let multi = alloc::format!("00000001 00000001 {len:08x} {v0}");
        let bytes = blob("00000001", "0000000e", &multi);
        assert!(matches!(decode_txn(&bytes), Err(DecodeError::Truncated { .. })));
    }

    #[test]
    fn captured_records_without_and_with_null() {
        let bytes = blob(
            "00000002",
            "00000005",
            "00000002 2f78 ffffffff 00000002 00000002 00000001cd67e652",
        );
        let txn = Txn::SetData { path: b"/x", data: None, version: 2 };
        assert_golden(&bytes, header(2, 5), txn, Some(0x1_cd67_e652));
        let bytes = blob("00000003", "ffffffff", "ffffff99");
        assert_golden(&bytes, header(3, -1), Txn::Error(ErrorCode::BadVersion), None);
    }

    #[test]
    fn a_captured_close_session_and_the_old_form() {
        let bytes =
            blob("00000004", "fffffff5", "00000001 00000002 2f65 00000002 00000001ec7e2b98");
        let txn = Txn::CloseSession { paths: alloc::vec![Cow::Borrowed(&b"/e"[..])] };
        assert_golden(&bytes, header(4, -11), txn, Some(0x1_ec7e_2b98));
        let bytes = blob("00000004", "fffffff5", "");
        let none = Txn::CloseSession { paths: Vec::new() };
        assert_eq!(decode_txn(&bytes), Ok((header(4, -11), none, None)));
    }

    #[test]
    fn a_captured_failed_multi() {
        let record = alloc::format!(
            "00000003 00000001 0000002b {CREATE_X} ffffffff 00000004 ffffff99
             ffffffff 00000004 fffffffe 00000002 0000000000000005"
        );
        let bytes = blob("00000005", "0000000e", &record);
        let txn = Txn::Multi(alloc::vec![
            create_x(false),
            Txn::Error(ErrorCode::BadVersion),
            Txn::Error(ErrorCode::RuntimeInconsistency),
        ]);
        assert_golden(&bytes, header(5, 14), txn, Some(5));
    }

    #[test]
    fn types_that_may_not_stand_there_are_refused() {
        for kind in [0, 3, 13, 16, 19, 20, 21, 99] {
            let bytes = blob("00000001", &alloc::format!("{kind:08x}"), CREATE_X);
            assert_eq!(decode_txn(&bytes), Err(DecodeError::UnknownKind { got: kind }));
        }
        for kind in [14, -10, -11, 19] {
            let record = alloc::format!("00000001 {kind:08x} 00000004 00000000");
            let bytes = blob("00000001", "0000000e", &record);
            assert_eq!(decode_txn(&bytes), Err(DecodeError::UnknownKind { got: kind }));
        }
        let bytes = blob("00000001", "ffffffff", "00000007");
        assert!(matches!(decode_txn(&bytes), Err(DecodeError::BadValue { .. })));
    }

    #[test]
    fn a_digest_that_is_cut_is_no_digest() {
        for len in 0..DIGEST_LEN {
            let mut bytes = blob("00000001", "00000001", CREATE_X);
            bytes.extend_from_slice(&hex("00000002 00000001e793212e")[..len]);
            let (_, txn, digest) = decode_txn(&bytes).unwrap();
            assert_eq!((txn, digest), (create_x(false), None));
        }
    }

    fn simple(parts: &Parts, which: usize) -> Txn<'_> {
        let Parts { path, data, acl, number, flag } = parts;
        let data = data.as_deref();
        match which {
            0 => Txn::Create {
                path: Cow::Borrowed(path),
                data,
                acl: acl.clone(),
                ephemeral: *flag,
                parent_cversion: *number,
                with_stat: !*flag,
            },
            1 => Txn::Delete { path },
            2 => Txn::SetData { path, data, version: *number },
            3 => Txn::Error(ErrorCode::NoNode),
            4 => Txn::SetAcl { path, acl: acl.clone(), version: *number },
            _ => Txn::Check { path, version: *number },
        }
    }

    #[test]
    fn any_transaction_comes_back_and_is_refused_when_its_record_is_cut() {
        let mut rng = Rng::new(41);
        for round in 0..400 {
            let all: Vec<Parts> = (0..4).map(|_| parts(&mut rng)).collect();
            let txn = match round % 8 {
                which @ 0..5 => simple(&all[0], which),
                5 => Txn::CreateSession { timeout_ms: all[0].number },
                6 => Txn::CloseSession {
                    paths: all.iter().map(|p| Cow::Borrowed(&p.path[..])).collect(),
                },
                _ => Txn::Multi(all.iter().map(|p| simple(p, rng.below(6))).collect()),
            };
            let digest = rng.coin().then(|| TxnDigest { version: 2, tree_digest: rng.next() });
            let header = TxnHeader {
                session: SessionId(rng.next()),
                cxid: rng.next() as i32,
                zxid: Zxid::from_u64(rng.next()),
                time: rng.next() as i64,
                kind: kind_of(&txn),
            };
            let mut out = BytesMut::new();
            encode_txn(&header, &txn, digest, &mut out);
            assert_eq!(decode_txn(&out), Ok((header, txn.clone(), digest)));
            let record = &out[..out.len() - digest.map_or(0, |_| DIGEST_LEN)];
            assert_truncation_fails(record, |bytes| {
                // Two cuts leave the whole of an older form: no cversion, no list.
                let old = match &txn {
                    Txn::Create { with_stat: false, .. } => bytes.len() + 4 == record.len(),
                    Txn::CloseSession { .. } => bytes.len() == HEADER_LEN,
                    _ => false,
                };
                old || decode_txn(bytes).is_err()
            });
        }
    }

    #[test]
    fn random_records_never_panic() {
        let mut rng = Rng::new(43);
        let kinds = [-11, -10, -1, 1, 2, 5, 7, 14, 15];
        for _ in 0..30_000 {
            let mut record = rng.bytes(80);
            // Mostly small lengths, so that the decoder gets somewhere.
            for byte in &mut record {
                if rng.coin() || rng.coin() {
                    *byte = 0;
                }
            }
            let kind = kinds[rng.below(kinds.len())];
            if let Ok((txn, _)) = decode_record(kind, &record) {
                assert_eq!(kind_of(&txn), kind);
            }
        }
    }
}
