//! Scenarios of sessions and requests, told over a whole ensemble in memory.
//!
//! Knows no clock and no socket: time is the ensemble's.

mod ensemble;
mod told;

use ensemble::client;
use ensemble::{Options, SHAPES};
use told::Told;

#[test]
fn a_write_is_answered_through_the_leader_and_through_a_follower() {
    for shape in SHAPES {
        let mut e = Told::start(Options::new(shape, 3));
        let leader = e.await_leader();
        for server in [leader, (leader + 1) % 3] {
            let c = e.open(server);
            let path = format!("/from{server}");
            assert_eq!(e.ask(c, |xid| client::create(xid, &path, b"x", client::PERSISTENT)).err, 0);
            assert_eq!(e.ask(c, |xid| client::get(xid, &path, false)).err, 0);
        }
        e.run_until("all are level", |e| e.is_level());
        assert_eq!(e.warnings(), Vec::<&str>::new());
    }
}
