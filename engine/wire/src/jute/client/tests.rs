//! The client protocol against a captured dialogue, and both sides of it against each other.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::{Bytes, BytesMut};
use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::Id;
use quorate_tree::request::Query;
use quorate_tree::{Acl, Op, Request, Stat};

use super::*;
use crate::testing::{Parts, Rng, assert_truncation_fails, hex, parts};
use crate::{DecodeError, Frame, FrameReader, Framing};

/// The only frame in `bytes`, without its length.
#[track_caller]
fn frame(bytes: &[u8]) -> Frame {
    let mut reader = FrameReader::new(Framing::Jute { max: 1 << 20 });
    reader.push(Bytes::copy_from_slice(bytes));
    let frame = reader.next_frame().unwrap().unwrap();
    assert_eq!(reader.next_frame(), Ok(None));
    assert_eq!(reader.buffered_len(), 0);
    frame
}

fn encoded(encode: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    encode(&mut out);
    out
}

/// A captured request is what we encode, and is decoded as what we meant.
#[track_caller]
fn assert_request(captured: &str, xid: i32, request: &ClientRequest<'_>) {
    let captured = hex(captured);
    assert_eq!(encoded(|out| encode_request(xid, request, out)), captured);
    let frame = frame(&captured);
    let (header, body) = RequestHeader::decode(&frame).unwrap();
    assert_eq!(header.xid, xid);
    assert_eq!(decode_request(header.opcode, body).as_ref(), Ok(request));
}

/// A captured reply is what we encode; its header and body for the client's side.
#[track_caller]
fn assert_reply(captured: &str, encode: impl FnOnce(&mut BytesMut)) -> (ReplyHeader, Vec<u8>) {
    let captured = hex(captured);
    assert_eq!(encoded(encode), captured);
    let frame = frame(&captured);
    let (header, body) = ReplyHeader::decode(&frame).unwrap();
    (header, body.to_vec())
}

fn create(path: &'static [u8], data: &'static [u8]) -> Op<'static> {
    let acl = alloc::vec![Acl::open()];
    Op::Create { path, data: Some(data), acl, flags: 0, with_stat: false }
}

#[test]
fn the_captured_dialogue_opens_a_session() {
    let captured = hex("0000002d 00000000 00000000 00000000 00002710 00000000 00000000 00000010
        00000000 00000000 00000000 00000000 00");
    let request = ConnectRequest {
        protocol_version: 0,
        last_zxid_seen: Zxid::ZERO,
        timeout_ms: 10_000,
        session: SessionId(0),
        password: &[0; 16],
        read_only: Some(false),
    };
    assert_eq!(encoded(|out| request.encode(out)), captured);
    assert_eq!(ConnectRequest::decode(&frame(&captured)), Ok(request));
    // The 44-byte form of old clients.
    let old = ConnectRequest { read_only: None, ..request };
    let bytes = encoded(|out| old.encode(out));
    assert_eq!(bytes.len(), 4 + 44);
    assert_eq!(ConnectRequest::decode(&frame(&bytes)), Ok(old));
    // The boolean at the end is the only byte that may be missing.
    assert_truncation_fails(&captured[4..48], |bytes| ConnectRequest::decode(bytes).is_err());

    let captured = hex("00000025 00000000 00002710 01000021 34d30004 00000010 3bdd69c2 d0f75f25
        ba6ecba9 6845aa97 00");
    let session = SessionId(0x0100_0021_34d3_0004);
    let password: [u8; 16] = hex("3bdd69c2 d0f75f25 ba6ecba9 6845aa97").try_into().unwrap();
    let answer = |has_read_only| {
        encoded(|out| encode_connect_response(10_000, session, &password, has_read_only, out))
    };
    assert_eq!(answer(true), captured);
    let response =
        ConnectResponse { timeout_ms: 10_000, session, password, read_only: Some(false) };
    assert_eq!(ConnectResponse::decode(&frame(&captured)), Ok(response));
    assert_eq!(answer(false).len(), 4 + 36);
    let response = ConnectResponse { read_only: None, ..response };
    assert_eq!(ConnectResponse::decode(&frame(&answer(false))), Ok(response));
    assert_truncation_fails(&captured[4..40], |bytes| ConnectResponse::decode(bytes).is_err());
}

#[test]
fn the_captured_dialogue_creates_and_reads_a_node() {
    assert_request(
        "0000000f 00000001 00000003 00000002 2f7601",
        1,
        &ClientRequest::Read(Query::Exists { path: b"/v", watch: true }),
    );
    let (header, body) = assert_reply("00000010 00000001 00000000 00000133 ffffff9b", |out| {
        encode_reply_header(1, 0x133, -101, out);
    });
    assert_eq!((header.xid, header.zxid, header.err), (1, 0x133, -101));
    assert!(body.is_empty());

    assert_request(
        "00000033 00000002 00000001 00000002 2f760000 00026869 00000001 0000001f 00000005 776f726c
         64000000 06616e79 6f6e6500 000000",
        2,
        &ClientRequest::Write(Request::Single(create(b"/v", b"hi"))),
    );
    let (header, body) = assert_reply(
        "0000001e ffffffff 00000000 00000134 00000000 00000001 00000003 00000002 2f76",
        |out| encode_watch_event(0x134, EventKind::NodeCreated, b"/v", out),
    );
    assert_eq!(header.xid, XID_EVENT);
    let event = WatchEvent { kind: EventKind::NodeCreated, state: 3, path: b"/v" };
    assert_eq!(WatchEvent::decode(&body), Ok(event));
    let (_, body) =
        assert_reply("00000016 00000002 00000000 00000134 00000000 00000002 2f76", |out| {
            encode_create_reply(2, 0x134, b"/v", out)
        });
    assert_eq!(decode_path(&body), Ok(&b"/v"[..]));

    assert_request(
        "0000000f 00000003 00000004 00000002 2f7600",
        3,
        &ClientRequest::Read(Query::GetData { path: b"/v", watch: false }),
    );
    let zxid = Zxid::from_u64(0x134);
    let stat = Stat {
        czxid: zxid,
        mzxid: zxid,
        ctime: 0x01a2_08fa_cbef,
        mtime: 0x01a2_08fa_cbef,
        data_length: 2,
        pzxid: zxid,
        ..Stat::default()
    };
    let (_, body) = assert_reply(
        "0000005a 00000003 00000000 00000134 00000000 00000002 68690000 00000000 01340000 00000000
         01340000 01a208fa cbef0000 01a208fa cbef0000 00000000 00000000 00000000 00000000 00000000
         00020000 00000000 00000000 0134",
        |out| encode_data_reply(3, 0x134, Some(b"hi"), &stat, out),
    );
    assert_eq!(decode_data_and_stat(&body), Ok((Some(&b"hi"[..]), stat)));
}

#[test]
fn the_captured_dialogue_has_a_multi_that_fails() {
    let check = Op::Check { path: b"/v", version: 0 };
    assert_request(
        "00000056 00000004 0000000e 0000000d 00ffffff ff000000 022f7600 00000000 00000100 ffffffff
         00000002 2f760000 00000000 00010000 001f0000 0005776f 726c6400 00000661 6e796f6e 65000000
         00ffffff ff01ffff ffff",
        4,
        &ClientRequest::Write(Request::Multi(alloc::vec![check, create(b"/v", b"")])),
    );
    let results = [OpResult::Error(0), OpResult::Error(-110)];
    let (header, body) = assert_reply(
        "00000033 00000004 00000000 00000135 00000000 ffffffff 00000000 00000000 00ffffff ff00ffff
         ff92ffff ff92ffff ffff01ff ffffff",
        |out| encode_multi_reply(4, 0x135, results, out),
    );
    assert_eq!(header.err, 0);
    assert_eq!(decode_multi_reply(&body).as_deref(), Ok(&results[..]));
}

#[test]
fn the_captured_dialogue_ends_a_session() {
    assert_request("00000008 fffffffe 0000000b", XID_PING, &ClientRequest::Ping);
    assert_reply("00000010 fffffffe 00000000 00000135 00000000", |out| {
        encode_reply_header(XID_PING, 0x135, 0, out);
    });
    assert_request(
        "0000001d fffffffc 00000064 00000000 00000006 64696765 73740000 0003753a 70",
        XID_AUTH,
        &ClientRequest::Auth(Auth { scheme: b"digest", auth: b"u:p" }),
    );
    assert_reply("00000010 fffffffc 00000000 00000000 00000000", |out| {
        encode_reply_header(XID_AUTH, 0, 0, out);
    });
    assert_request(
        "00000012 00000005 00000002 00000002 2f76ffff ffff",
        5,
        &ClientRequest::Write(Request::Single(Op::Delete { path: b"/v", version: -1 })),
    );
    assert_request("00000008 00000006 fffffff5", 6, &ClientRequest::CloseSession);
}

#[test]
fn a_sync_echoes_its_path_even_a_null_one() {
    for (path, body) in [(None, "ffffffff"), (Some(&b"/a"[..]), "00000002 2f61")] {
        let request = ClientRequest::Sync { path };
        let bytes = encoded(|out| encode_request(7, &request, out));
        let asked = frame(&bytes);
        let (header, asked) = RequestHeader::decode(&asked).unwrap();
        assert_eq!(decode_request(header.opcode, asked), Ok(request));
        assert_eq!(asked, hex(body));
        let reply = encoded(|out| encode_sync_reply(7, 9, asked, out));
        assert_eq!(ReplyHeader::decode(&frame(&reply)).unwrap().1, hex(body));
        assert_eq!(decode_path(&hex(body)), Ok(path.unwrap_or_default()));
    }
    let reply = encoded(|out| encode_sync_reply(7, 9, b"\0\0", out));
    assert_eq!(ReplyHeader::decode(&frame(&reply)).unwrap().1, hex("ffffffff"));
}

fn op(parts: &Parts, which: usize) -> Op<'_> {
    let Parts { path, data, acl, number, flag } = parts;
    let (data, version) = (data.as_deref(), *number);
    match which {
        0 => Op::Create { path, data, acl: acl.clone(), flags: *number, with_stat: *flag },
        1 => Op::Delete { path, version },
        2 => Op::SetData { path, data, version },
        3 => Op::SetAcl { path, acl: acl.clone(), version },
        _ => Op::Check { path, version },
    }
}

fn any_request<'a>(rng: &mut Rng, all: &'a [Parts]) -> ClientRequest<'a> {
    let Parts { path, data, number, flag, .. } = &all[0];
    let (watch, with_stat) = (*flag, number % 2 == 0);
    let paths = || all.iter().map(|parts| &parts.path[..]).collect::<Vec<_>>();
    match rng.below(12) {
        which @ 0..4 => ClientRequest::Write(Request::Single(op(&all[0], which))),
        4 => {
            let ops = all.iter().map(|parts| op(parts, [0, 1, 2, 4][rng.below(4)])).collect();
            ClientRequest::Write(Request::Multi(ops))
        }
        5 => ClientRequest::Read(Query::Exists { path, watch }),
        6 => ClientRequest::Read(Query::GetData { path, watch }),
        7 => ClientRequest::Read(Query::GetAcl { path }),
        8 => ClientRequest::Read(Query::GetChildren { path, watch, with_stat }),
        9 => ClientRequest::Read(Query::SetWatches {
            relative_zxid: (*number).into(),
            data: paths(),
            exist: Vec::new(),
            child: paths(),
        }),
        10 => ClientRequest::Sync { path: data.as_deref() },
        _ => ClientRequest::Auth(Auth { scheme: path, auth: data.as_deref().unwrap_or(b"") }),
    }
}

#[test]
fn any_request_comes_back_and_is_refused_when_cut() {
    let mut rng = Rng::new(51);
    for _ in 0..500 {
        let all: Vec<Parts> = (0..3).map(|_| parts(&mut rng)).collect();
        let request = any_request(&mut rng, &all);
        let bytes = encoded(|out| encode_request(17, &request, out));
        let frame = frame(&bytes);
        let (header, body) = RequestHeader::decode(&frame).unwrap();
        assert_eq!(decode_request(header.opcode, body).as_ref(), Ok(&request));
        assert_truncation_fails(body, |body| decode_request(header.opcode, body).is_err());
        // Bytes behind the record are ignored.
        let mut longer = body.to_vec();
        longer.push(1);
        assert_eq!(decode_request(header.opcode, &longer).as_ref(), Ok(&request));
    }
}

#[test]
fn random_bodies_never_panic() {
    let mut rng = Rng::new(52);
    let opcodes = [-11, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 14, 15, 100, 101];
    let mut good = 0;
    for _ in 0..30_000 {
        let mut body = rng.bytes(80);
        for byte in &mut body {
            if rng.coin() || rng.coin() {
                *byte = 0;
            }
        }
        let opcode = opcodes[rng.below(opcodes.len())];
        good += usize::from(decode_request(opcode, &body).is_ok());
        good += usize::from(decode_multi_reply(&body).is_ok());
        good += usize::from(ConnectRequest::decode(&body).is_ok());
        good += usize::from(WatchEvent::decode(&body).is_ok());
    }
    assert!(good > 1000);
}

#[test]
fn only_served_operations_are_known() {
    for opcode in [-10, -1, 0, 10, 13, 16, 17, 18, 19, 20, 21, 22, 102, 103, 104, 105, 106, 107] {
        let refused = DecodeError::UnknownKind { got: opcode };
        assert_eq!(decode_request(opcode, &[0; 64]), Err(refused));
    }
}

#[test]
fn an_alien_operation_spoils_a_multi_and_not_the_connection() {
    for opcode in [3, 4, 7, 14, 16, -11, 99] {
        let mut body = hex(&alloc::format!("{opcode:08x} 00 ffffffff"));
        body.extend_from_slice(&[0; 64]);
        let what = "operation inside a multi";
        assert_eq!(decode_request(14, &body), Err(DecodeError::BadValue { what }));
    }
    // The loop ends with `done`, not with the type; without an end the request is refused.
    let empty = ClientRequest::Write(Request::Multi(Vec::new()));
    assert_eq!(decode_request(14, &hex("00000063 01 00000000")), Ok(empty));
    assert!(matches!(decode_request(14, &[]), Err(DecodeError::Truncated { .. })));
}

#[test]
fn a_multi_has_a_limit() {
    let header = hex("00000002 00 ffffffff 00000000 ffffffff");
    let mut body = header.repeat(MULTI_OPS_MAX);
    let end = hex("ffffffff 01 ffffffff");
    body.extend_from_slice(&end);
    assert!(decode_request(14, &body).is_ok());
    body.truncate(body.len() - end.len());
    body.extend_from_slice(&header);
    body.extend_from_slice(&end);
    let max = MULTI_OPS_MAX as u64;
    let refused = DecodeError::BadLength { got: MULTI_OPS_MAX as i64 + 1, max };
    assert_eq!(decode_request(14, &body), Err(refused));
}

#[test]
fn a_null_path_is_refused_and_an_empty_one_is_not() {
    for opcode in [1, 2, 3, 4, 5, 6, 7, 8, 12, 15] {
        let mut body = hex("ffffffff");
        body.extend_from_slice(&[0; 32]);
        assert!(matches!(decode_request(opcode, &body), Err(DecodeError::BadValue { .. })));
        assert!(decode_request(opcode, &[0; 32]).is_ok());
    }
}

#[test]
fn any_reply_comes_back_and_is_refused_when_cut() {
    let mut rng = Rng::new(53);
    for _ in 0..100 {
        let stat = crate::testing::stat(&mut rng);
        let acl = crate::testing::acl(&mut rng);
        let Parts { path, data, .. } = parts(&mut rng);
        let data = data.as_deref();
        let children: Vec<Vec<u8>> = (0..rng.below(5)).map(|_| rng.bytes(20)).collect();
        let names: Vec<&[u8]> = children.iter().map(|name| &name[..]).collect();
        let results = [
            OpResult::Create { path: &path },
            OpResult::Create2 { path: &path, stat },
            OpResult::Delete,
            OpResult::SetData { stat },
            OpResult::Check,
        ];
        let body = |encode: &dyn Fn(&mut BytesMut)| {
            let frame = frame(&encoded(encode));
            let (header, body) = ReplyHeader::decode(&frame).unwrap();
            assert_eq!(header, ReplyHeader { xid: 5, zxid: 6, err: 0 });
            body.to_vec()
        };
        let b = body(&|out| encode_create2_reply(5, 6, &path, &stat, out));
        assert_eq!(decode_path_and_stat(&b), Ok((&path[..], stat)));
        assert_truncation_fails(&b, |b| decode_path_and_stat(b).is_err());
        let b = body(&|out| encode_stat_reply(5, 6, &stat, out));
        assert_eq!(decode_stat(&b), Ok(stat));
        assert_truncation_fails(&b, |b| decode_stat(b).is_err());
        let b = body(&|out| encode_data_reply(5, 6, data, &stat, out));
        assert_eq!(decode_data_and_stat(&b), Ok((data, stat)));
        assert_truncation_fails(&b, |b| decode_data_and_stat(b).is_err());
        let b = body(&|out| encode_acl_reply(5, 6, &acl, &stat, out));
        assert_eq!(decode_acl_and_stat(&b), Ok((acl.clone(), stat)));
        assert_truncation_fails(&b, |b| decode_acl_and_stat(b).is_err());
        let b = body(&|out| encode_children_reply(5, 6, &children, None, out));
        assert_eq!(decode_children(&b).as_ref(), Ok(&names));
        assert_truncation_fails(&b, |b| decode_children(b).is_err());
        let b = body(&|out| encode_children_reply(5, 6, &names, Some(&stat), out));
        assert_eq!(decode_children_and_stat(&b), Ok((names.clone(), stat)));
        assert_truncation_fails(&b, |b| decode_children_and_stat(b).is_err());
        let b = body(&|out| encode_multi_reply(5, 6, results, out));
        assert_eq!(decode_multi_reply(&b).as_deref(), Ok(&results[..]));
        assert_truncation_fails(&b, |b| decode_multi_reply(b).is_err());
    }
}

#[test]
fn ids_keep_bytes_that_are_no_text() {
    // Java writes each half of a surrogate pair on its own.
    let id = Id { scheme: Box::from(&b"digest"[..]), id: hex("eda0bd edb880").into() };
    let acl = alloc::vec![Acl { perms: quorate_tree::Permissions::READ, id }];
    let request =
        ClientRequest::Write(Request::Single(Op::SetAcl { path: b"/", acl, version: -1 }));
    let bytes = encoded(|out| encode_request(1, &request, out));
    let frame = frame(&bytes);
    let (header, body) = RequestHeader::decode(&frame).unwrap();
    assert_eq!(decode_request(header.opcode, body), Ok(request));
}
