//! `Addresses`: where the peers are, without making a shard wait for a name service.
//!
//! Connects to nobody, and tries no second address of a name.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_peer::links::Port;
use quorate_proto::ServerId;

use crate::config::{HostPort, Member};

/// How long a start waits for the first answers. Peers whose names are still unknown then are called
/// once they are known.
const FIRST_LOOK: Duration = Duration::from_millis(500);

type Resolve = dyn Fn(&HostPort) -> Option<SocketAddr> + Send + Sync;

/// The peers' addresses. Those given as numbers are known; names are looked up by a thread of their
/// own, again after every use, because they may change (R43).
#[derive(Debug)]
pub(crate) struct Addresses {
    entries: Vec<Entry>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct Entry {
    sid: ServerId,
    port: Port,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Number(SocketAddr),
    /// A name, at this index of the state.
    Name(usize),
}

#[derive(Debug)]
struct State {
    names: Vec<Name>,
    ended: bool,
}

#[derive(Debug)]
struct Name {
    wanted: HostPort,
    /// The last answer; it stays when the name service has none.
    found: Option<SocketAddr>,
    /// To be looked up.
    asked: bool,
    /// Looked up at least once.
    looked_up: bool,
}

/// Ends the look-ups when it is dropped, without waiting for one that is under way.
#[derive(Debug)]
pub(crate) struct Lookups(Arc<Addresses>);

impl Drop for Lookups {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_all();
    }
}

impl Addresses {
    /// The addresses of `members`, and what keeps them up to date.
    ///
    /// # Errors
    /// If the thread cannot be started; none is without a name.
    pub(crate) fn start(members: &[Member]) -> io::Result<(Arc<Self>, Lookups)> {
        Self::start_with(members, Box::new(resolve))
    }

    fn start_with(members: &[Member], resolve: Box<Resolve>) -> io::Result<(Arc<Self>, Lookups)> {
        let mut entries = Vec::new();
        let mut names = Vec::new();
        for member in members {
            let Some(address) = member.addresses.first() else { continue };
            let ports = [(Port::Quorum, address.quorum()), (Port::Election, address.election())];
            for (port, wanted) in ports {
                let place = match wanted.host.parse::<IpAddr>() {
                    Ok(ip) => Place::Number(SocketAddr::new(ip, wanted.port)),
                    Err(_) => {
                        names.push(Name { wanted, found: None, asked: true, looked_up: false });
                        Place::Name(names.len() - 1)
                    }
                };
                entries.push(Entry { sid: member.sid, port, place });
            }
        }
        let has_names = !names.is_empty();
        let state = Mutex::new(State { names, ended: false });
        let addresses = Arc::new(Self { entries, state, changed: Condvar::new() });
        if has_names {
            let theirs = Arc::clone(&addresses);
            let run = move || theirs.keep_up(&*resolve);
            std::thread::Builder::new().name("q-names".to_owned()).spawn(run)?;
            addresses.wait_first();
        }
        Ok((Arc::clone(&addresses), Lookups(addresses)))
    }

    /// Where a peer's port is, as far as it is known. Never waits; has a name looked up again.
    pub(crate) fn find(&self, sid: ServerId, port: Port) -> Option<SocketAddr> {
        let entry = self.entries.iter().find(|entry| entry.sid == sid && entry.port == port)?;
        match entry.place {
            Place::Number(address) => Some(address),
            Place::Name(index) => {
                let mut state = self.state();
                state.names[index].asked = true;
                self.changed.notify_all();
                state.names[index].found
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_first(&self) {
        let unknown = |state: &mut State| !state.names.iter().all(|name| name.looked_up);
        let waited = self.changed.wait_timeout_while(self.state(), FIRST_LOOK, unknown);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Looks up what is asked for until the server ends. The lock is held for moments only: a
    /// look-up may take many seconds.
    fn keep_up(&self, resolve: &Resolve) {
        let mut next = 0;
        let mut state = self.state();
        while !state.ended {
            let count = state.names.len();
            let in_turn = (next..next + count).map(|index| index % count);
            let Some(index) = in_turn.into_iter().find(|index| state.names[*index].asked) else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            next = index + 1;
            state.names[index].asked = false;
            let wanted = state.names[index].wanted.clone();
            drop(state);
            let found = resolve(&wanted);
            state = self.state();
            let name = &mut state.names[index];
            name.found = found.or(name.found);
            name.looked_up = true;
            self.changed.notify_all();
        }
    }
}

fn resolve(wanted: &HostPort) -> Option<SocketAddr> {
    (wanted.host.as_str(), wanted.port).to_socket_addrs().ok()?.next()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn member(host: &str) -> Member {
        Member::new(ServerId(2), host, 2888, 3888)
    }

    fn address(text: &str) -> Option<SocketAddr> {
        Some(text.parse().expect("an address"))
    }

    /// A name service that answers when and what the test says.
    fn service() -> (Sender<Option<SocketAddr>>, Receiver<HostPort>, Box<Resolve>) {
        let (answer, answers) = channel();
        let (ask, asked) = channel();
        let answers = Mutex::new(answers);
        let resolve = move |wanted: &HostPort| {
            ask.send(wanted.clone()).ok()?;
            answers.lock().ok()?.recv().ok()?
        };
        (answer, asked, Box::new(resolve))
    }

    fn wait_until(addresses: &Addresses, port: Port, wanted: Option<SocketAddr>) {
        let until = std::time::Instant::now() + PATIENCE;
        while addresses.find(ServerId(2), port) != wanted {
            assert!(std::time::Instant::now() < until, "{wanted:?} was not found");
            std::thread::yield_now();
        }
    }

    #[test]
    fn numbers_are_known_at_once_and_need_no_look_up() {
        let never = |_: &HostPort| -> Option<SocketAddr> { panic!("a number is no name") };
        let (addresses, _lookups) =
            Addresses::start_with(&[member("127.0.0.1")], Box::new(never)).expect("addresses");
        let find = |sid, port| addresses.find(ServerId(sid), port);
        assert_eq!(find(2, Port::Quorum), address("127.0.0.1:2888"));
        assert_eq!(find(2, Port::Election), address("127.0.0.1:3888"));
        assert_eq!((find(2, Port::Client), find(3, Port::Quorum)), (None, None));
    }

    #[test]
    fn a_name_service_that_does_not_answer_holds_up_nobody() {
        let (answer, asked, resolve) = service();
        let (addresses, lookups) =
            Addresses::start_with(&[member("peer")], resolve).expect("addresses");
        assert_eq!(asked.recv_timeout(PATIENCE), Ok(HostPort::new("peer", 2888)));
        // The look-up is under way; whoever asks meanwhile is told what is known.
        assert_eq!(addresses.find(ServerId(2), Port::Quorum), None);
        answer.send(address("10.0.0.1:2888")).expect("the service runs");
        assert_eq!(asked.recv_timeout(PATIENCE), Ok(HostPort::new("peer", 3888)));
        assert_eq!(addresses.find(ServerId(2), Port::Quorum), address("10.0.0.1:2888"));
        // The end waits for none either.
        drop(lookups);
    }

    #[test]
    fn a_name_is_looked_up_again_after_each_use_and_its_last_answer_stays() {
        let (answer, asked, resolve) = service();
        for first in ["10.0.0.1:2888", "10.0.0.1:3888"] {
            answer.send(address(first)).expect("the service runs");
        }
        let (addresses, _lookups) =
            Addresses::start_with(&[member("peer")], resolve).expect("addresses");
        assert_eq!(asked.iter().take(2).count(), 2);
        // Moved; then the name service knows nothing; then moved again.
        answer.send(address("10.0.0.2:2888")).expect("the service runs");
        wait_until(&addresses, Port::Quorum, address("10.0.0.2:2888"));
        answer.send(None).expect("the service runs");
        assert_eq!(addresses.find(ServerId(2), Port::Quorum), address("10.0.0.2:2888"));
        answer.send(address("10.0.0.3:2888")).expect("the service runs");
        wait_until(&addresses, Port::Quorum, address("10.0.0.3:2888"));
    }

    #[test]
    fn the_look_ups_end_with_the_server() {
        let (answer, asked, resolve) = service();
        for _ in 0..2 {
            answer.send(None).expect("the service runs");
        }
        let (addresses, lookups) =
            Addresses::start_with(&[member("peer")], resolve).expect("addresses");
        assert_eq!(asked.iter().take(2).count(), 2);
        drop(lookups);
        // The thread has let go of the service.
        assert!(asked.recv_timeout(PATIENCE).is_err());
        assert_eq!(addresses.find(ServerId(2), Port::Quorum), None);
    }
}
