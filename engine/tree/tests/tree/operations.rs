//! Every operation: what it does, and the order of its refusals (`client.md` 1.7).

use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::Acl;
use quorate_tree::prep::PrepLimits;
use quorate_tree::{ErrorCode, Op, Outcome, Request, Txn, TxnHeader, WatchTable};

use crate::server::{
    S, Server, T, check, create, create_flags, create_with, created, delete, entry, failed, id,
    leak, set, set_acl,
};

#[test]
fn the_documented_digests_follow_the_documented_transactions() {
    let mut server = Server::fresh();
    let mut apply = |counter: u64, time: i64, txn: Txn<'_>| {
        let header = TxnHeader {
            session: SessionId(0x0100_001e_4de7_0000),
            cxid: 0,
            zxid: Zxid::from_u64(0x1_0000_0000 + counter),
            time,
            kind: txn.kind(),
        };
        server.tree.apply(&header, &txn, &mut server.watches, &mut server.fired);
        server.tree.digest()
    };
    let opened = apply(1, 0x01a2_08db_c0df, Txn::CreateSession { timeout_ms: 20_000 });
    assert_eq!(opened, 0x51c6_d660);
    let created = apply(
        2,
        0x01a2_08db_c0f3,
        Txn::Create {
            path: b"/x"[..].into(),
            data: Some(b"v"),
            acl: vec![Acl::open()],
            ephemeral: false,
            parent_cversion: 1,
            with_stat: false,
        },
    );
    assert_eq!(created, 0x1_e793_212e);
}

#[test]
fn create_answers_with_path_and_a_fresh_stat() {
    let mut server = Server::open();
    let Outcome::Created { path, stat, with_stat } =
        server.run(create_with("/a", "hi", vec![Acl::open()], 0))
    else {
        panic!("not created")
    };
    assert_eq!((&*path, with_stat), (&b"/a"[..], false));
    let zxid = server.zxid;
    assert_eq!((stat.czxid, stat.mzxid, stat.pzxid), (zxid, zxid, zxid));
    assert_eq!((stat.version, stat.cversion, stat.aversion), (0, 0, 0));
    assert_eq!((stat.data_length, stat.num_children, stat.ephemeral_owner), (2, 0, 0));
    assert_eq!((stat.ctime, stat.mtime), (server.next_time() - 1, server.next_time() - 1));
    assert_eq!(server.tree.get_data(b"/a", &[]).unwrap(), (Some(&b"hi"[..]), stat));
}

#[test]
fn null_and_empty_data_are_kept_apart() {
    let mut server = Server::open();
    let op =
        Op::Create { path: b"/n", data: None, acl: vec![Acl::open()], flags: 0, with_stat: true };
    assert!(matches!(server.run(op), Outcome::Created { with_stat: true, .. }));
    assert_eq!(server.tree.get_data(b"/n", &[]).unwrap().0, None);
    server.run(set("/n", "", -1));
    assert_eq!(server.tree.get_data(b"/n", &[]).unwrap().0, Some(&b""[..]));
    server.run(Op::SetData { path: b"/n", data: None, version: -1 });
    assert_eq!(server.tree.get_data(b"/n", &[]).unwrap().0, None);
}

#[test]
fn create_refuses_in_zookeepers_order() {
    let mut server = Server::open();
    let locked = vec![entry(1, "world", "anyone")];
    server.run(create("/a"));
    server.run(create_with("/locked", "", locked, 0));
    server.run(create_flags("/e", 1));
    let bad = ErrorCode::BadArguments;
    let none = || vec![];
    // Each row breaks its rule and all later ones that it can.
    let rows = [
        (create_with("nopath", "", none(), 7), bad),
        (create_with("/a", "", none(), 5), bad),
        (create_with("/a", "", none(), -1), bad),
        (create_with("", "", none(), 0), bad),
        (create_with("nopath", "", none(), 0), bad),
        (create_with("/no\0/x", "", none(), 0), bad),
        (create_with("/missing/./x", "", none(), 0), ErrorCode::InvalidAcl),
        (create("/missing/./x"), ErrorCode::NoNode),
        (create("//a"), ErrorCode::NoNode),
        (create("/missing/"), ErrorCode::NoNode),
        (create("/locked/."), ErrorCode::NoAuth),
        (create("/a/."), bad),
        (create("/a/"), bad),
        (create_flags("/a/\u{1}", 2), bad),
        (create("/a"), ErrorCode::NodeExists),
        (create("/"), ErrorCode::NodeExists),
        (create("/e/x"), ErrorCode::NoChildrenForEphemerals),
        (create("/e/x/y"), ErrorCode::NoNode),
    ];
    for (op, code) in rows {
        let text = format!("{op:?}");
        assert_eq!(server.run(op), failed(code), "{text}");
    }
    let unknown = SessionId(99);
    let run = |server: &mut Server, op| server.run_as(unknown, &[], Request::Single(op));
    assert_eq!(run(&mut server, create_flags("", 9)), failed(bad), "flags come before the session");
    assert_eq!(run(&mut server, create("")), failed(ErrorCode::SessionExpired));
}

#[test]
fn flags_of_a_container_make_a_plain_node_through_create() {
    let mut server = Server::open();
    assert_eq!(created(&server.run(create_flags("/c", 4))), "/c");
    assert_eq!(server.tree.exists(b"/c", &[]).unwrap().ephemeral_owner, 0);
}

#[test]
fn sequence_numbers_count_every_create_below_a_parent_and_never_go_back() {
    let mut server = Server::open();
    server.run(create("/q"));
    server.run(create("/q/a"));
    server.run(create("/q/b"));
    assert_eq!(created(&server.run(create_flags("/q/n-", 2))), "/q/n-0000000002");
    assert_eq!(created(&server.run(create_flags("/q/", 3))), "/q/0000000003");
    server.run(delete("/q/n-0000000002", -1));
    server.run(delete("/q/a", -1));
    assert_eq!(created(&server.run(create_flags("/q/n-", 2))), "/q/n-0000000004");
    let stat = server.tree.exists(b"/q", &[]).unwrap();
    assert_eq!((stat.cversion, stat.num_children), (7, 3), "five created, two deleted");
    assert_eq!(created(&server.run(create_flags("/", 2))), "/0000000001");
}

#[test]
fn the_sequence_goes_on_past_its_end() {
    let mut server = Server::open();
    server.run(create("/q"));
    let header = TxnHeader { session: S, zxid: server.zxid, ..TxnHeader::default() };
    let txn = Txn::Create {
        path: b"/q/x"[..].into(),
        data: None,
        acl: vec![Acl::open()],
        ephemeral: false,
        parent_cversion: i32::MAX,
        with_stat: false,
    };
    server.tree.apply(&header, &txn, &mut server.watches, &mut server.fired);
    assert_eq!(created(&server.run(create_flags("/q/n", 2))), "/q/n2147483647");
    assert_eq!(created(&server.run(create_flags("/q/n", 2))), "/q/n-2147483648");
    assert_eq!(created(&server.run(create_flags("/q/n", 2))), "/q/n-2147483647");
}

#[test]
fn delete_refuses_in_zookeepers_order() {
    let mut server = Server::open();
    server.run(create("/a"));
    server.run(create("/a/b"));
    server.run(create_with("/locked", "", vec![entry(7, "world", "anyone")], 0));
    server.run(create("/locked/x"));
    let bad = ErrorCode::BadArguments;
    let rows = [
        (delete("nopath", 9), bad),
        (delete("", 9), bad),
        (delete("/a\0", 9), bad),
        (delete("/", 9), bad),
        (delete("/zookeeper", 9), bad),
        (delete("/zookeeper/quota", 9), bad),
        (delete("/zookeeper/config", 9), bad),
        (delete("/missing/x", 9), ErrorCode::NoNode),
        (delete("/locked/missing", 9), ErrorCode::NoAuth),
        (delete("/a/", 9), ErrorCode::NoNode),
        (delete("/a", 9), ErrorCode::BadVersion),
        (delete("/a", -2), ErrorCode::BadVersion),
        (delete("/a", 0), ErrorCode::NotEmpty),
    ];
    for (op, code) in rows {
        let text = format!("{op:?}");
        assert_eq!(server.run(op), failed(code), "{text}");
    }
    assert_eq!(server.run(delete("/a/b", 0)), Outcome::Deleted);
    let stat = server.tree.exists(b"/a", &[]).unwrap();
    assert_eq!((stat.pzxid, stat.cversion, stat.num_children), (server.zxid, 2, 0));
    assert_eq!(server.run(delete("/a", -1)), Outcome::Deleted);
    assert_eq!(server.tree.exists(b"/a", &[]), Err(ErrorCode::NoNode));
    let unknown = server.run_as(SessionId(99), &[], Request::Single(delete("", 0)));
    assert_eq!(unknown, failed(ErrorCode::SessionExpired));
}

#[test]
fn set_data_counts_also_when_nothing_differs() {
    let mut server = Server::open();
    server.run(create("/a"));
    let before = server.tree.exists(b"/a", &[]).unwrap();
    let Outcome::DataSet(stat) = server.run(set("/a", "", 0)) else { panic!("not set") };
    assert_eq!((stat.version, stat.mzxid, stat.czxid), (1, server.zxid, before.czxid));
    assert_eq!((stat.pzxid, stat.ctime), (before.pzxid, before.ctime));
    assert!(stat.mtime > before.mtime);
    assert!(matches!(server.run(set("/", "root", -1)), Outcome::DataSet(_)));
    assert_eq!(server.tree.get_data(b"", &[]).unwrap().0, Some(&b"root"[..]));
}

#[test]
fn set_data_refuses_in_zookeepers_order() {
    let mut server = Server::open();
    server.run(create_with("/locked", "", vec![entry(1, "world", "anyone")], 0));
    server.run(create("/a"));
    let rows = [
        (set("/a/", "", 9), ErrorCode::BadArguments),
        (set("/missing/..", "", 9), ErrorCode::BadArguments),
        (set("/missing", "", 9), ErrorCode::NoNode),
        (set("/locked", "", 9), ErrorCode::NoAuth),
        (set("/zookeeper/config", "", 9), ErrorCode::NoAuth),
        (set("/a", "", 9), ErrorCode::BadVersion),
        (set("/a", "", -2), ErrorCode::BadVersion),
    ];
    for (op, code) in rows {
        let text = format!("{op:?}");
        assert_eq!(server.run(op), failed(code), "{text}");
    }
}

#[test]
fn set_acl_checks_the_acl_version_and_moves_nothing_else() {
    let mut server = Server::open();
    server.run(create("/a"));
    server.run(create_with("/locked", "", vec![entry(15, "world", "anyone")], 0));
    let list = vec![entry(31, "world", "anyone"), entry(1, "digest", "bob:h")];
    let rows = [
        (set_acl("a", vec![], 9), ErrorCode::BadArguments),
        (set_acl("/missing", vec![], 9), ErrorCode::InvalidAcl),
        (set_acl("/missing", list.clone(), 9), ErrorCode::NoNode),
        (set_acl("/locked", list.clone(), 9), ErrorCode::NoAuth),
        (set_acl("/a", list.clone(), 9), ErrorCode::BadVersion),
    ];
    for (op, code) in rows {
        let text = format!("{op:?}");
        assert_eq!(server.run(op), failed(code), "{text}");
    }
    let before = server.tree.exists(b"/a", &[]).unwrap();
    let Outcome::AclSet(stat) = server.run(set_acl("/a", list.clone(), 0)) else {
        panic!("not set")
    };
    assert_eq!(stat, quorate_tree::Stat { aversion: 1, ..before });
    assert_eq!(server.tree.get_acl(b"/a", &[]).unwrap().0, list);
    assert!(matches!(server.run(set_acl("/a", vec![Acl::open()], 1)), Outcome::AclSet(_)));
}

#[test]
fn rights_are_judged_with_the_lists_of_outstanding_changes() {
    let mut server = Server::open();
    let bob = [id("digest", "bob:h")];
    server.stage(S, &[], Request::Single(create("/a")));
    let closed = set_acl("/a", vec![entry(31, "digest", "bob:h")], 0);
    server.stage(S, &[], Request::Single(closed));
    let refused = server.stage(S, &[], Request::Single(set("/a", "x", -1)));
    assert_eq!(*refused, Txn::Error(ErrorCode::NoAuth));
    let granted = server.stage(T, &bob, Request::Single(set("/a", "x", -1)));
    assert!(matches!(granted, Txn::SetData { version: 1, .. }));
    let admitted = server.stage(
        T,
        &bob,
        Request::Single(create_with("/a/b", "", vec![entry(31, "auth", "")], 0)),
    );
    let Txn::Create { acl, .. } = admitted else { panic!("not created") };
    assert_eq!(*acl, [entry(31, "digest", "bob:h")]);
    for _ in 0..5 {
        server.apply();
    }
    assert_eq!(server.tree.get_data(b"/a", &bob).unwrap().0, Some(&b"x"[..]));
}

#[test]
fn outstanding_changes_are_seen_before_they_are_applied() {
    let mut server = Server::open();
    let stage = |server: &mut Server, op| server.stage(S, &[], Request::Single(op)).clone();
    stage(&mut server, create("/a"));
    stage(&mut server, create("/a/b"));
    assert_eq!(stage(&mut server, create("/a")), Txn::Error(ErrorCode::NodeExists));
    assert_eq!(stage(&mut server, delete("/a", -1)), Txn::Error(ErrorCode::NotEmpty));
    stage(&mut server, set("/a/b", "1", 0));
    assert_eq!(stage(&mut server, set("/a/b", "2", 0)), Txn::Error(ErrorCode::BadVersion));
    stage(&mut server, delete("/a/b", 1));
    assert_eq!(stage(&mut server, set("/a/b", "3", -1)), Txn::Error(ErrorCode::NoNode));
    stage(&mut server, delete("/a", 0));
    assert_eq!(stage(&mut server, create("/a/b")), Txn::Error(ErrorCode::NoNode));
    let again = stage(&mut server, create_flags("/a", 1));
    assert!(matches!(again, Txn::Create { parent_cversion: 2, .. }));
    assert_eq!(stage(&mut server, create("/a/b")), Txn::Error(ErrorCode::NoChildrenForEphemerals));
    while !server.staged.is_empty() {
        server.apply();
        server.tree.check_invariants();
    }
    assert_eq!(server.prep.outstanding_nodes(), 0);
    assert_eq!(server.tree.exists(b"/a", &[]).unwrap().ephemeral_owner, S.0 as i64);
}

#[test]
fn a_cleared_prep_has_forgotten_what_was_outstanding() {
    let mut server = Server::open();
    server.stage(S, &[], Request::Single(create("/a")));
    server.stage(S, &[], Request::CloseSession);
    server.forget_staged();
    assert!(server.prep.session_is_open(&server.tree, S));
    assert_eq!(created(&server.run(create("/a"))), "/a");
}

#[test]
fn a_multi_gives_one_outcome_per_operation_as_of_that_operation() {
    let mut server = Server::open();
    let with_stat =
        Op::Create { path: b"/m/a", data: None, acl: vec![Acl::open()], flags: 0, with_stat: true };
    let outcome = server.multi(vec![
        create("/m"),
        with_stat,
        create_flags("/m/s", 2),
        create_flags("/m/s", 2),
        set("/m", "x", 0),
        check("/m", 1),
        delete("/m/a", -1),
    ]);
    let Outcome::Multi(outcomes) = outcome else { panic!("no multi") };
    assert_eq!(created(&outcomes[0]), "/m");
    let Outcome::Created { stat: first, .. } = &outcomes[0] else { panic!() };
    assert_eq!(first.num_children, 0, "the Stat is of that operation, not of the end");
    assert!(matches!(outcomes[1], Outcome::Created { with_stat: true, .. }));
    assert_eq!(created(&outcomes[2]), "/m/s0000000001");
    assert_eq!(created(&outcomes[3]), "/m/s0000000002");
    assert!(matches!(outcomes[4], Outcome::DataSet(stat) if stat.num_children == 3));
    assert_eq!(outcomes[5..], [Outcome::Checked, Outcome::Deleted]);
    let stat = server.tree.exists(b"/m", &[]).unwrap();
    assert_eq!((stat.num_children, stat.version, stat.mzxid), (2, 1, server.zxid));
    assert_eq!(server.multi(vec![]), Outcome::Multi(vec![]), "an empty multi is legal");
}

#[test]
fn a_failed_multi_changes_nothing_and_gives_its_numbers_back() {
    let mut server = Server::open();
    server.run(create("/q"));
    let digest = server.tree.digest();
    let ops = vec![
        create_flags("/q/s", 2),
        create("/q/x"),
        set("/q", "lost", -1),
        check("/q/x", 5),
        delete("/q", -1),
        create("/z"),
    ];
    let staged = server.stage(S, &[], Request::Multi(ops.clone()));
    let Txn::Multi(txns) = staged else { panic!("no multi") };
    let kinds: Vec<i32> = txns.iter().map(Txn::kind).collect();
    assert_eq!(kinds, [1, 1, 5, -1, -1, -1], "operations before the failing one keep their record");
    assert_eq!(staged.kind(), 14);
    let next = server.stage(S, &[], Request::Single(create_flags("/q/s", 2)));
    assert!(matches!(next, Txn::Create { path, .. } if **path == *b"/q/s0000000000"));
    let expected = Outcome::Multi(vec![
        Outcome::RolledBack,
        Outcome::RolledBack,
        Outcome::RolledBack,
        failed(ErrorCode::BadVersion),
        failed(ErrorCode::RuntimeInconsistency),
        failed(ErrorCode::RuntimeInconsistency),
    ]);
    let outcome = server.apply();
    assert_eq!(outcome, expected);
    assert_eq!(outcome.error(), None, "the header of a failed multi's reply says 0");
    assert_eq!(server.tree.digest(), digest);
    assert_eq!(created(&server.apply()), "/q/s0000000000");
}

#[test]
fn a_failed_multi_also_takes_back_changes_of_records_that_were_outstanding_before() {
    let mut server = Server::open();
    server.stage(S, &[], Request::Single(create_flags("/e", 1)));
    server.stage(S, &[], Request::Single(set("/e", "1", 0)));
    let ops = vec![delete("/e", 1), create("/e"), set("/e", "2", 0), check("/none", -1)];
    server.stage(S, &[], Request::Multi(ops));
    let txn = server.stage(S, &[], Request::Single(set("/e", "3", 1)));
    assert!(matches!(txn, Txn::SetData { version: 2, .. }));
    let close = server.stage(S, &[], Request::CloseSession);
    let Txn::CloseSession { paths } = close else { panic!("no close") };
    assert_eq!(paths.iter().map(|path| &**path).collect::<Vec<_>>(), [b"/e"]);
    while !server.staged.is_empty() {
        server.apply();
    }
    assert_eq!(server.prep.outstanding_nodes(), 0);
}

#[test]
fn what_a_multi_must_not_hold_refuses_it_whole() {
    let mut server = Server::open();
    let ops = vec![create("/a"), set_acl("/a", vec![Acl::open()], -1)];
    assert_eq!(server.multi(ops), failed(ErrorCode::MarshallingError));
    assert_eq!(server.run(check("/", -1)), failed(ErrorCode::Unimplemented), "a check alone");
    assert_eq!(server.tree.exists(b"/a", &[]), Err(ErrorCode::NoNode));
}

#[test]
fn a_multi_of_an_expired_session_fails_at_its_first_operation() {
    let mut server = Server::open();
    let outcome =
        server.run_as(SessionId(9), &[], Request::Multi(vec![create("/a"), create("/b")]));
    let expected = vec![failed(ErrorCode::SessionExpired), failed(ErrorCode::RuntimeInconsistency)];
    assert_eq!(outcome, Outcome::Multi(expected));
}

#[test]
fn a_closing_session_takes_its_ephemerals_along_even_outstanding_ones() {
    let mut server = Server::open();
    server.run(create("/d"));
    server.run(create_flags("/d/applied", 1));
    server.run(create_flags("/d/deleted", 1));
    server.run_as(T, &[], Request::Single(create_flags("/d/other", 1)));
    server.stage(S, &[], Request::Single(create_flags("/d/outstanding", 1)));
    server.stage(S, &[], Request::Single(delete("/d/deleted", -1)));
    let close = server.stage(S, &[], Request::CloseSession);
    let Txn::CloseSession { paths } = close else { panic!("no close") };
    let mut listed: Vec<_> = paths.iter().map(|path| path.to_vec()).collect();
    listed.sort();
    assert_eq!(listed, [b"/d/applied".to_vec(), b"/d/outstanding".to_vec()]);
    let late = server.stage(S, &[], Request::Single(create_flags("/d/late", 1)));
    assert_eq!(*late, Txn::Error(ErrorCode::SessionExpired), "no create behind the close (R31)");
    let gone = server.stage(T, &[], Request::Single(delete("/d/applied", -1)));
    assert_eq!(*gone, Txn::Error(ErrorCode::NoNode));
    while !server.staged.is_empty() {
        server.apply();
        server.tree.check_invariants();
    }
    let (children, _) = server.tree.get_children(b"/d", &[]).unwrap();
    assert_eq!(children.collect::<Vec<_>>(), [b"other"]);
    assert_eq!(server.tree.session_timeout_ms(S), None);
    assert_eq!(server.tree.session_timeout_ms(T), Some(4000));
    assert_eq!(server.tree.ephemerals(T).collect::<Vec<_>>(), [b"/d/other"]);
    assert_eq!(server.run_as(S, &[], Request::CloseSession), Outcome::SessionClosed, "idempotent");
}

#[test]
fn a_close_without_a_list_takes_what_the_session_owns_when_applied() {
    let mut server = Server::open();
    server.run(create_flags("/e1", 1));
    server.run(create_flags("/e2", 1));
    let header = TxnHeader { session: S, zxid: server.zxid.next().unwrap(), ..Default::default() };
    let txn = Txn::CloseSession { paths: vec![] };
    let outcome = server.tree.apply(&header, &txn, &mut server.watches, &mut server.fired);
    assert_eq!(outcome, Outcome::SessionClosed);
    assert_eq!(server.tree.ephemeral_count(), 0);
    assert_eq!(server.tree.exists(b"/e1", &[]), Err(ErrorCode::NoNode));
    server.tree.check_invariants();
}

#[test]
fn a_session_can_act_from_the_moment_its_opening_is_outstanding() {
    let mut server = Server::fresh();
    server.stage(S, &[], Request::CreateSession { timeout_ms: 6000 });
    let txn = server.stage(S, &[], Request::Single(create_flags("/e", 1)));
    assert!(matches!(txn, Txn::Create { ephemeral: true, .. }));
    let again = server.stage(S, &[], Request::CreateSession { timeout_ms: 6000 });
    assert_eq!(*again, Txn::Error(ErrorCode::SessionExpired), "two clients must not share an id");
    assert_eq!(server.apply(), Outcome::SessionOpened { timeout_ms: 6000 });
    assert!(server.prep.session_is_open(&server.tree, S));
    server.apply();
    assert_eq!(server.tree.sessions().collect::<Vec<_>>(), [(S, 6000)]);
}

#[test]
fn a_refused_request_keeps_its_place() {
    let mut server = Server::open();
    let outcome = server.run_as(S, &[], Request::Refused(ErrorCode::SessionMoved));
    assert_eq!(outcome, failed(ErrorCode::SessionMoved));
    assert_eq!(server.tree.last_zxid(), server.zxid);
}

#[test]
fn what_the_server_makes_longer_is_bounded() {
    let mut server = Server::with_limits(PrepLimits { txn_len_max: 200 });
    server.run_as(S, &[], Request::CreateSession { timeout_ms: 4000 });
    let long = "x".repeat(190);
    let refused = failed(ErrorCode::MarshallingError);
    assert_eq!(server.run(create_with("/a", &long, vec![Acl::open()], 0)), refused);
    server.run(create("/a"));
    assert_eq!(server.run(set("/a", &long, -1)), refused);
    let half = "x".repeat(90);
    assert_eq!(server.multi(vec![set("/a", &half, -1), set("/a", &half, -1)]), refused);
    assert_eq!(server.tree.exists(b"/a", &[]).unwrap().version, 0);
    let mut owned = 0;
    while matches!(server.run(create_flags("/ephemeral", 3)), Outcome::Created { .. }) {
        owned += 1;
    }
    assert_eq!(owned, 196 / (4 + 20), "a session's ephemerals fit its closeSession");
    let close = server.stage(S, &[], Request::CloseSession);
    assert!(close.encoded_len() <= 200);
    server.apply();
    assert_eq!(server.tree.ephemeral_count(), 0);
}

#[test]
fn applying_what_a_fuzzy_snapshot_holds_already_is_tolerated() {
    let mut server = Server::open();
    server.run(create("/a"));
    let header = TxnHeader { session: S, zxid: server.zxid.next().unwrap(), ..Default::default() };
    let mut apply = |txn: Txn<'static>| {
        server.tree.apply(&header, &txn, &mut server.watches, &mut server.fired)
    };
    let create = |path: &'static [u8], parent_cversion| Txn::Create {
        path: path.into(),
        data: Some(b"new"),
        acl: vec![entry(1, "world", "anyone")],
        ephemeral: false,
        parent_cversion,
        with_stat: false,
    };
    assert_eq!(apply(create(b"/a", 5)), failed(ErrorCode::NodeExists));
    assert_eq!(apply(create(b"/none/a", 1)), failed(ErrorCode::NoNode));
    assert_eq!(apply(create(b"x", 1)), failed(ErrorCode::BadArguments));
    assert_eq!(apply(Txn::Delete { path: b"/gone" }), failed(ErrorCode::NoNode));
    assert_eq!(apply(Txn::Delete { path: b"/" }), failed(ErrorCode::BadArguments));
    assert_eq!(apply(Txn::Delete { path: b"/zookeeper" }), failed(ErrorCode::NotEmpty));
    assert_eq!(
        apply(Txn::SetData { path: b"/gone", data: None, version: 3 }),
        failed(ErrorCode::NoNode)
    );
    server.tree.check_invariants();
    let root = server.tree.exists(b"/", &[]).unwrap();
    assert_eq!((root.cversion, root.pzxid), (2 * 5 - 2, header.zxid), "the parent counts");
    assert_eq!(
        server.tree.get_acl(b"/a", &[]).unwrap().0,
        [entry(1, "world", "anyone")].as_slice()
    );
    assert_eq!(server.tree.get_data(b"/a", &[]).unwrap().0, Some(&b""[..]), "the data stays");
}

#[test]
fn requests_of_any_shape_never_panic() {
    let mut server = Server::open();
    let mut dice = crate::server::Dice(3);
    for _ in 0..5000 {
        let len = dice.below(6);
        let path: Vec<u8> = (0..len).map(|_| *dice.pick(b"//..ab\0\xff")).collect();
        let path = leak(&path);
        let version = dice.below(3) as i32 - 1;
        let op = match dice.below(5) {
            0 => Op::Create {
                path,
                data: None,
                acl: vec![Acl::open()],
                flags: dice.below(9) as i32 - 1,
                with_stat: false,
            },
            1 => Op::Delete { path, version },
            2 => Op::SetData { path, data: Some(path), version },
            3 => Op::SetAcl { path, acl: vec![entry(31, "ip", "::/0")], version },
            _ => Op::Check { path, version },
        };
        let request = if dice.below(2) == 0 {
            Request::Single(op)
        } else {
            Request::Multi(vec![op.clone(), create_flags("/m", 2), op])
        };
        server.run_as(S, &[id("ip", "10.0.0.1")], request);
        let _ = (server.tree.exists(path, &[]), server.tree.get_data(path, &[]));
    }
    server.tree.check_invariants();
    let mut second = Server::fresh();
    second.watches = WatchTable::new(1);
    for (header, txn) in &server.log {
        second.tree.apply(header, txn, &mut second.watches, &mut second.fired);
    }
    assert_eq!(second.tree.digest(), server.tree.digest(), "the same log gives the same tree");
}
