//! Snapshots: a cut shows the tree at one zxid, whatever happens while it is read.

use std::collections::BTreeMap;

use quorate_proto::{SessionId, Zxid};
use quorate_tree::acl::Acl;
use quorate_tree::{Cut, DataTree, Entry, Request, Restore, RestoreError, StatPersisted};

use crate::server::{
    Dice, S, Server, T, create, create_flags, create_with, delete, entry, id, set, set_acl,
};

#[derive(Clone, Debug, PartialEq)]
struct Node {
    data: Option<Vec<u8>>,
    acl: Vec<Acl>,
    stat: StatPersisted,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Content {
    sessions: BTreeMap<SessionId, i32>,
    nodes: BTreeMap<Vec<u8>, Node>,
    /// Paths in the order in which they came.
    order: Vec<Vec<u8>>,
}

impl Content {
    fn take(&mut self, entry: &Entry<'_>) {
        match *entry {
            Entry::Session { id, timeout_ms } => {
                assert_eq!(self.sessions.insert(id, timeout_ms), None, "{id} came twice");
            }
            Entry::Node { path, data, acl, stat } => {
                if !path.is_empty() {
                    let slash = path.iter().rposition(|byte| *byte == b'/').unwrap();
                    assert!(self.nodes.contains_key(&path[..slash]), "a child before its parent");
                }
                let node = Node { data: data.map(Vec::from), acl: acl.to_vec(), stat: *stat };
                assert_eq!(self.nodes.insert(path.to_vec(), node), None, "a node came twice");
                self.order.push(path.to_vec());
            }
            Entry::End(_) => {}
        }
    }
}

/// Everything at once: the truth that slices are compared with.
fn whole(tree: &mut DataTree) -> Content {
    let mut content = Content::default();
    let mut cut = tree.open_cut();
    assert!(cut.next_slice(tree, usize::MAX, |entry| content.take(&entry)));
    tree.close_cut(cut);
    content
}

fn random_write(server: &mut Server, dice: &mut Dice) {
    let path = match dice.below(3) {
        0 => format!("/n{}", dice.below(12)),
        1 => format!("/n{}/m{}", dice.below(12), dice.below(4)),
        _ => format!("/n{}/m{}/k{}", dice.below(12), dice.below(4), dice.below(3)),
    };
    let session = if dice.below(2) == 0 { S } else { T };
    let request = match dice.below(16) {
        0..6 => Request::Single(create(&path)),
        6 => Request::Single(create_flags(&path, 3)),
        7..10 => Request::Single(delete(&path, -1)),
        10..13 => Request::Single(set(&path, &"d".repeat(dice.below(40)), -1)),
        13 => {
            let acl = vec![
                entry(31, "world", "anyone"),
                entry(1, "ip", &format!("10.0.0.{}", dice.below(3))),
            ];
            Request::Single(set_acl(&path, acl, -1))
        }
        14 => Request::CloseSession,
        _ => Request::CreateSession { timeout_ms: 1000 + dice.below(1000) as i32 },
    };
    server.run_as(session, &[], request);
}

#[test]
fn slices_between_writes_add_up_to_the_tree_at_the_cut() {
    for seed in 1..40 {
        let mut dice = Dice(seed);
        let mut server = Server::open();
        for _ in 0..200 {
            random_write(&mut server, &mut dice);
        }
        // Cuts overlap: each is opened at another zxid and read at its own pace.
        let mut open: Vec<(Cut, Content, Content)> = Vec::new();
        for step in 0..400 {
            if step % 40 == 0 {
                let truth = whole(&mut server.tree);
                let cut = server.tree.open_cut();
                assert_eq!(cut.zxid(), server.zxid);
                open.push((cut, truth, Content::default()));
            }
            random_write(&mut server, &mut dice);
            let max = 1 + dice.below(300);
            let at = dice.below(open.len() + 1);
            let Some((cut, _, seen)) = open.get_mut(at) else { continue };
            let mut restored = None;
            let done = cut.next_slice(&mut server.tree, max, |entry| {
                seen.take(&entry);
                if let Entry::End(end) = entry {
                    restored = Some(end);
                }
            });
            assert_eq!(done, restored.is_some());
            if done {
                let (cut, truth, seen) = open.remove(at);
                check_restored(&cut, &truth, &seen);
                server.tree.close_cut(cut);
            }
        }
        for (mut cut, truth, mut seen) in open {
            while !cut.next_slice(&mut server.tree, 100, |entry| seen.take(&entry)) {}
            check_restored(&cut, &truth, &seen);
            server.tree.close_cut(cut);
        }
        server.tree.check_invariants();
    }
}

fn check_restored(cut: &Cut, truth: &Content, seen: &Content) {
    assert_eq!(seen.sessions, truth.sessions);
    assert_eq!(seen.nodes, truth.nodes);
    let mut restore = Restore::new(5);
    for (id, timeout_ms) in &seen.sessions {
        restore.push(&Entry::Session { id: *id, timeout_ms: *timeout_ms }).unwrap();
    }
    for path in &seen.order {
        let node = &seen.nodes[path];
        let data = node.data.as_deref();
        restore.push(&Entry::Node { path, data, acl: &node.acl, stat: &node.stat }).unwrap();
    }
    restore.push(&Entry::End(cut.end())).unwrap();
    let mut tree = restore.finish().unwrap();
    tree.check_invariants();
    assert_eq!((tree.last_zxid(), tree.digest()), (cut.zxid(), cut.end().digest));
    let again = whole(&mut tree);
    assert_eq!((again.sessions, again.nodes), (truth.sessions.clone(), truth.nodes.clone()));
}

#[test]
fn a_cut_in_a_quiet_tree_is_the_same_each_time() {
    let mut server = Server::open();
    let mut dice = Dice(99);
    for _ in 0..300 {
        random_write(&mut server, &mut dice);
    }
    assert_eq!(whole(&mut server.tree), whole(&mut server.tree));
}

#[test]
fn a_slice_is_bounded_by_what_its_access_control_lists_take_too() {
    let mut server = Server::open();
    for n in 0..50 {
        let list = vec![
            Acl::open(),
            Acl { id: id("digest", &format!("u:{}", "1".repeat(10_000))), ..Acl::open() },
        ];
        server.run(create_with(&format!("/n{n}"), "", list, 0));
    }
    let mut cut = server.tree.open_cut();
    let mut slices = 0;
    loop {
        let mut long = 0;
        let ended = cut.next_slice(&mut server.tree, 30_000, |entry| {
            long += usize::from(matches!(entry, Entry::Node { acl, .. } if acl.len() == 2));
        });
        assert!(long <= 3, "{long} lists of 10,000 bytes in a slice of about 30,000");
        slices += 1;
        if ended {
            break;
        }
    }
    assert!(slices >= 17, "{slices}");
    server.tree.close_cut(cut);
}

#[test]
fn a_dropped_cut_costs_nothing_any_more() {
    let mut server = Server::open();
    for n in 0..50 {
        server.run(create_with(&format!("/n{n}"), "data", vec![Acl::open()], 0));
    }
    drop(server.tree.open_cut());
    let mut kept = server.tree.open_cut();
    server.run(set("/n1", "changed", -1));
    let mut content = Content::default();
    assert!(kept.next_slice(&mut server.tree, usize::MAX, |entry| content.take(&entry)));
    assert_eq!(content.nodes[&b"/n1"[..]].data.as_deref(), Some(&b"data"[..]));
    assert!(kept.next_slice(&mut server.tree, 1, |_| panic!("nothing follows the end")));
    server.tree.close_cut(kept);
}

#[test]
fn a_restored_tree_goes_on_like_the_one_it_was_cut_from() {
    let mut server = Server::open();
    let mut dice = Dice(4);
    for _ in 0..500 {
        random_write(&mut server, &mut dice);
    }
    let mut restore = Restore::new(0);
    let mut cut = server.tree.open_cut();
    while !cut.next_slice(&mut server.tree, 64, |entry| restore.push(&entry).unwrap()) {}
    server.tree.close_cut(cut);
    let mut second = Server::fresh();
    second.tree = restore.finish().unwrap();
    let from = server.log.len();
    for _ in 0..500 {
        random_write(&mut server, &mut dice);
    }
    for (header, txn) in &server.log[from..] {
        second.tree.apply(header, txn, &mut second.watches, &mut second.fired);
    }
    assert_eq!(second.tree.digest(), server.tree.digest());
    let (first, second) = (whole(&mut server.tree), whole(&mut second.tree));
    assert_eq!((first.sessions, first.nodes), (second.sessions, second.nodes));
}

#[test]
fn what_does_not_add_up_is_not_restored() {
    let stat = StatPersisted::default();
    let acl = [Acl::open()];
    let node = |path: &'static [u8]| Entry::Node { path, data: None, acl: &acl, stat: &stat };
    let push = |entries: &[Entry<'_>]| {
        let mut restore = Restore::new(0);
        entries.iter().try_for_each(|entry| restore.push(entry)).map(|()| restore)
    };
    let error = |entries: &[Entry<'_>]| push(entries).and_then(Restore::finish).unwrap_err();
    assert_eq!(error(&[]), RestoreError::Unfinished);
    assert_eq!(error(&[node(b"/a")]), RestoreError::NoParent);
    assert_eq!(error(&[node(b""), node(b"")]), RestoreError::DuplicateNode);
    assert_eq!(error(&[node(b""), node(b"/")]), RestoreError::DuplicateNode);
    assert!(matches!(error(&[node(b""), node(b"/a/")]), RestoreError::BadPath(_)));
    let session = Entry::Session { id: S, timeout_ms: 1 };
    assert_eq!(error(&[session, session]), RestoreError::BadSession(S));
    let ephemeral = StatPersisted { ephemeral_owner: 5, ..stat };
    let owned = Entry::Node { path: b"/e", data: None, acl: &acl, stat: &ephemeral };
    assert_eq!(error(&[node(b""), owned, node(b"/e/x")]), RestoreError::EphemeralParent);

    let good = push(&[node(b""), node(b"/a")]).unwrap().finish_at(Zxid::from_u64(9)).unwrap();
    let end = quorate_tree::SnapshotEnd {
        zxid: Zxid::from_u64(9),
        digest: good.digest(),
        sessions: 0,
        nodes: 2,
    };
    assert_eq!(error(&[Entry::End(end)]), RestoreError::NoRoot);
    assert_eq!(error(&[node(b""), Entry::End(end), node(b"/a")]), RestoreError::Unfinished);
    let short = error(&[node(b""), Entry::End(end)]);
    assert_eq!(short, RestoreError::Count { expected: (0, 2), found: (0, 1) });
    let wrong = error(&[node(b""), node(b"/b"), Entry::End(end)]);
    assert!(matches!(wrong, RestoreError::Digest { .. }));
    assert!(push(&[node(b""), node(b"/a"), Entry::End(end)]).unwrap().finish().is_ok());
}
