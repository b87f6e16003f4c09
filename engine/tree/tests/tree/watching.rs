//! Which write fires which watch, in which order, and what is replayed after a reconnect
//! (`client.md` 2.6 to 2.8).

use quorate_proto::Zxid;
use quorate_tree::acl::Acl;
use quorate_tree::{ReplayedWatches, Request};

use crate::server::{
    Dice, S, Server, T, check, create, create_flags, create_with, delete, entry, set, set_acl,
};

const CREATED: i32 = 1;
const DELETED: i32 = 2;
const DATA: i32 = 3;
const CHILDREN: i32 = 4;

fn event(watcher: u32, code: i32, path: &str) -> (u32, i32, String) {
    (watcher, code, path.into())
}

#[test]
fn each_write_fires_its_row_in_the_order_of_the_frames() {
    let mut server = Server::open();
    server.watches.watch_data(b"/n", 1);
    server.watches.watch_children(b"/", 2);
    server.run(create("/n"));
    assert_eq!(server.events(), [event(1, CREATED, "/n"), event(2, CHILDREN, "/")]);

    server.watches.watch_data(b"/n", 1);
    server.watches.watch_children(b"/n", 2);
    server.watches.watch_children(b"/", 3);
    server.run(set("/n", "x", -1));
    assert_eq!(server.events(), [event(1, DATA, "/n")]);

    server.watches.watch_data(b"/n", 1);
    server.run(create("/n/c"));
    assert_eq!(server.events(), [event(2, CHILDREN, "/n")]);
    server.run(delete("/n/c", -1));
    assert_eq!(server.events(), [], "one-shot watches are gone");

    server.watches.watch_children(b"/n", 2);
    server.watches.watch_children(b"/n", 1);
    server.run(delete("/n", -1));
    assert_eq!(
        server.events(),
        [event(1, DELETED, "/n"), event(2, DELETED, "/n"), event(3, CHILDREN, "/")],
        "data watchers, child watchers, the parent's child watchers, each connection once"
    );
    assert!(server.watches.is_empty());
}

#[test]
fn writes_that_fire_nothing_leave_the_watches() {
    let mut server = Server::open();
    server.run(create("/n"));
    server.watches.watch_data(b"/n", 1);
    server.watches.watch_children(b"/n", 1);
    server.watches.watch_data(b"/none", 1);
    server.run(set_acl("/n", vec![Acl::open()], -1));
    server.run(set("/n", "", 7));
    server.run(delete("/none", -1));
    server.multi(vec![set("/n", "", -1), create("/none"), check("/n", 9)]);
    assert_eq!(server.events(), []);
    assert_eq!(server.watches.len(), 3);
}

#[test]
fn a_multi_fires_per_operation() {
    let mut server = Server::open();
    server.watches.watch_data(b"/m1", 1);
    server.watches.watch_data(b"/m2", 1);
    server.watches.watch_children(b"/", 1);
    server.multi(vec![create("/m1"), create("/m2")]);
    let expected = [event(1, CREATED, "/m1"), event(1, CHILDREN, "/"), event(1, CREATED, "/m2")];
    assert_eq!(server.events(), expected);
}

#[test]
fn a_watch_left_twice_gives_one_event() {
    let mut server = Server::open();
    server.run(create("/n"));
    for _ in 0..3 {
        server.watches.watch_data(b"/n", 1);
    }
    assert_eq!(server.watches.len(), 1);
    server.run(set("/n", "", -1));
    assert_eq!(server.events(), [event(1, DATA, "/n")]);
}

#[test]
fn watchers_are_told_in_the_order_in_which_they_came() {
    let mut server = Server::open();
    server.run(create("/n"));
    for watcher in [5, 3, 9, 1] {
        server.watches.watch_data(b"/n", watcher);
    }
    server.watches.remove_watcher(9);
    server.run(set("/n", "", -1));
    let told: Vec<u32> = server.events().iter().map(|(watcher, ..)| *watcher).collect();
    assert_eq!(told, [5, 3, 1]);
}

#[test]
fn ephemerals_of_a_closing_session_fire_like_deletes() {
    let mut server = Server::open();
    server.run_as(T, &[], Request::Single(create_flags("/e", 1)));
    server.watches.watch_data(b"/e", 1);
    server.watches.watch_children(b"/", 1);
    server.run_as(T, &[], Request::CloseSession);
    assert_eq!(server.events(), [event(1, DELETED, "/e"), event(1, CHILDREN, "/")]);
}

#[test]
fn a_gone_connection_takes_its_watches_along_and_no_others() {
    let mut server = Server::open();
    for n in 0..100u32 {
        let path = format!("/p{}", n % 10);
        server.watches.watch_data(path.as_bytes(), n % 3);
        server.watches.watch_children(path.as_bytes(), n % 3);
    }
    assert_eq!(server.watches.len(), 60);
    assert_eq!(server.watches.count_of(1), 20);
    server.watches.remove_watcher(1);
    server.watches.remove_watcher(1);
    assert_eq!((server.watches.len(), server.watches.count_of(1)), (40, 0));
    server.run(create("/p0"));
    assert_eq!(server.events(), [event(0, CREATED, "/p0"), event(2, CREATED, "/p0")]);
}

#[test]
fn events_carry_the_list_that_says_who_may_hear_of_the_node() {
    let mut server = Server::open();
    let list = vec![entry(31, "digest", "bob:h"), entry(2, "world", "anyone")];
    server.watches.watch_data(b"/n", 1);
    server.watches.watch_children(b"/", 1);
    server.run(create_with("/n", "", list.clone(), 0));
    let acls: Vec<_> = server.fired.drain(..).map(|fired| fired.acl).collect();
    assert_eq!(acls[0].as_deref(), Some(&list[..]));
    assert_eq!(acls[1], None, "the parent is open");
    server.watches.watch_data(b"/n", 1);
    server.run(delete("/n", -1));
    assert_eq!(server.fired[0].acl.as_deref(), Some(&list[..]), "the list of the deleted node");
}

#[test]
fn set_watches_answers_each_path_exactly_once() {
    let mut server = Server::open();
    for path in ["/old", "/set", "/child"] {
        server.run(create(path));
    }
    server.run(create("/parent"));
    let relative = server.zxid;
    server.run(set("/set", "x", -1));
    server.run(create("/parent/new"));
    server.run(create("/appeared"));
    let lists = ReplayedWatches {
        data: &[b"/old", b"/set", b"/gone"],
        exist: &[b"/missing", b"/appeared"],
        child: &[b"/child", b"/parent", b"/gone"],
    };
    server.watches.set_watches(&server.tree, 1, relative, &lists, &mut server.fired);
    let expected = [
        event(1, DATA, "/set"),
        event(1, DELETED, "/gone"),
        event(1, CREATED, "/appeared"),
        event(1, CHILDREN, "/parent"),
        event(1, DELETED, "/gone"),
    ];
    assert_eq!(server.events(), expected);
    assert_eq!(server.watches.len(), 3, "what gave no event left its watch");
    server.run(set("/old", "", -1));
    server.run(create("/missing"));
    server.run(create("/child/x"));
    let expected =
        [event(1, DATA, "/old"), event(1, CREATED, "/missing"), event(1, CHILDREN, "/child")];
    assert_eq!(server.events(), expected);
}

#[test]
fn a_client_that_has_seen_everything_gets_no_event_from_set_watches() {
    let mut server = Server::open();
    server.run(create("/n"));
    let lists = ReplayedWatches { data: &[b"/n"], exist: &[], child: &[b"/n", b"/"] };
    let seen = server.tree.last_zxid();
    server.watches.set_watches(&server.tree, 1, seen, &lists, &mut server.fired);
    assert_eq!(server.events(), []);
    assert_eq!(server.watches.count_of(1), 3);
    server.watches.set_watches(&server.tree, 2, Zxid::ZERO, &lists, &mut server.fired);
    assert_eq!(server.events().len(), 3, "one that has seen nothing gets all");
}

/// The table as lists that are searched through.
#[derive(Default)]
struct Dumb {
    data: Vec<(String, u32)>,
    child: Vec<(String, u32)>,
}

impl Dumb {
    fn leave(list: &mut Vec<(String, u32)>, path: &str, watcher: u32) {
        if !list.contains(&(path.into(), watcher)) {
            list.push((path.into(), watcher));
        }
    }

    fn take(list: &mut Vec<(String, u32)>, path: &str) -> Vec<u32> {
        let (taken, kept) = list.drain(..).partition(|(other, _)| other == path);
        *list = kept;
        let taken: Vec<(String, u32)> = taken;
        taken.into_iter().map(|(_, watcher)| watcher).collect()
    }

    fn fire(&mut self, code: i32, path: &str, events: &mut Vec<(u32, i32, String)>) {
        let told = Self::take(&mut self.data, path);
        events.extend(told.iter().map(|watcher| event(*watcher, code, path)));
        if code == DELETED {
            let more = Self::take(&mut self.child, path);
            let fresh = more.iter().filter(|watcher| !told.contains(watcher));
            events.extend(fresh.map(|watcher| event(*watcher, code, path)));
        }
        if code != DATA {
            let parent = match path.rfind('/') {
                Some(0) => "/",
                Some(slash) => &path[..slash],
                None => panic!("{path}"),
            };
            let told = Self::take(&mut self.child, parent);
            events.extend(told.iter().map(|watcher| event(*watcher, CHILDREN, parent)));
        }
    }
}

#[test]
fn the_table_fires_like_its_dumb_twin() {
    let mut server = Server::open();
    let mut dumb = Dumb::default();
    let mut dice = Dice(11);
    let paths = ["/", "/a", "/b", "/a/x", "/a/y"];
    for step in 0..20_000 {
        let path = *dice.pick(&paths);
        let watcher = dice.below(6) as u32;
        let mut expected = Vec::new();
        let exists = server.tree.exists(path.as_bytes(), &[]);
        let parent = path.rfind('/').map(|slash| &path[..slash]).unwrap();
        match dice.below(8) {
            0 | 1 => {
                server.watches.watch_data(path.as_bytes(), watcher);
                Dumb::leave(&mut dumb.data, path, watcher);
            }
            2 | 3 => {
                server.watches.watch_children(path.as_bytes(), watcher);
                Dumb::leave(&mut dumb.child, path, watcher);
            }
            4 => {
                server.watches.remove_watcher(watcher);
                dumb.data.retain(|(_, other)| *other != watcher);
                dumb.child.retain(|(_, other)| *other != watcher);
            }
            5 => {
                server.run_as(S, &[], Request::Single(create(path)));
                if exists.is_err() && server.tree.exists(parent.as_bytes(), &[]).is_ok() {
                    dumb.fire(CREATED, path, &mut expected);
                }
            }
            6 => {
                server.run_as(S, &[], Request::Single(delete(path, -1)));
                if exists.is_ok_and(|stat| stat.num_children == 0) {
                    dumb.fire(DELETED, path, &mut expected);
                }
            }
            _ => {
                server.run_as(S, &[], Request::Single(set(path, "x", -1)));
                if exists.is_ok() {
                    dumb.fire(DATA, path, &mut expected);
                }
            }
        }
        assert_eq!(server.events(), expected, "step {step}");
        assert_eq!(server.watches.len(), dumb.data.len() + dumb.child.len(), "step {step}");
    }
}
