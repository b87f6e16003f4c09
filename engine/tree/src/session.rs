//! Session ids and passwords, and `SessionTracker`: who owns which session and when it ends.
//!
//! The tracker exists on the leader only and is not replicated: a new leader gives every session its
//! full time-out (R30). Which sessions exist is the tree's business.

use alloc::vec::Vec;
use core::time::Duration;

use quorate_proto::{Instant, ServerId, SessionId};

use crate::ErrorCode;
use crate::expiry::{Bucket, ExpiryQueue};
use crate::hash::IdMap;

/// Makes ids of new sessions: the server's low byte, 40 bits of milliseconds, a 16-bit count
/// (`client.md` 1.3).
///
/// With wall-clock milliseconds an id does not come again after a restart, unless more than 65,536
/// sessions were opened per millisecond or the clock was set back meanwhile.
#[derive(Clone, Debug)]
pub struct SessionIds {
    server: u64,
    last: u64,
}

impl SessionIds {
    const MASK: u64 = (1 << 56) - 1;

    /// Ids of this server. 255 is the mark of TTL nodes and must not be a server's id where those
    /// are in use.
    pub const fn new(sid: ServerId) -> Self {
        Self { server: sid.0 << 56, last: 0 }
    }

    /// The next id, at this time in milliseconds since 1970. Never 0 or 2^63, which have other
    /// meanings, and never twice.
    pub fn next(&mut self, wall_ms: i64) -> SessionId {
        let from_clock = (wall_ms as u64) << 16 & Self::MASK;
        self.last = from_clock.max((self.last + 1) & Self::MASK).max(1);
        SessionId(self.server | self.last)
    }
}

/// The password that ZooKeeper derives from a session id: the first 16 bytes of `java.util.Random`
/// seeded with the id and a constant. It is no secret; it is kept so that clients can move between
/// ZooKeeper and this server.
pub fn password(session: SessionId) -> [u8; 16] {
    const MULTIPLIER: u64 = 0x5_deec_e66d;
    const MASK: u64 = (1 << 48) - 1;
    let mut seed = (session.0 ^ 0xb341_5c00 ^ MULTIPLIER) & MASK;
    let mut password = [0; 16];
    for word in password.chunks_exact_mut(4) {
        seed = seed.wrapping_mul(MULTIPLIER).wrapping_add(0xb) & MASK;
        word.copy_from_slice(&((seed >> 16) as u32).to_le_bytes());
    }
    password
}

/// Whether this is the session's password; takes the same time for every password of 16 bytes.
pub fn password_matches(session: SessionId, presented: &[u8]) -> bool {
    let expected = password(session);
    if presented.len() != expected.len() {
        return false;
    }
    let differing = expected.iter().zip(presented).fold(0, |acc, (a, b)| acc | (a ^ b));
    core::hint::black_box(differing) == 0
}

#[derive(Clone, Copy, Debug)]
struct Tracked<O> {
    timeout: Duration,
    owner: Option<O>,
    closing: bool,
    /// When it is due.
    due: Bucket,
    /// The bucket that lists it, at or before `due`.
    filed: Bucket,
}

/// A session that is known and not closing.
fn alive<O>(
    sessions: &mut IdMap<SessionId, Tracked<O>>,
    session: SessionId,
) -> Option<&mut Tracked<O>> {
    sessions.get_mut(&session).filter(|tracked| !tracked.closing)
}

/// The leader's clocks and owners of sessions. `O` says whose connection a session came through: a
/// client's of this server, or a learner's.
#[derive(Debug)]
pub struct SessionTracker<O> {
    sessions: IdMap<SessionId, Tracked<O>>,
    queue: ExpiryQueue,
}

impl<O: Copy + Eq> SessionTracker<O> {
    /// No sessions; `tick` is the width of a bucket (tickTime).
    pub fn new(tick: Duration) -> Self {
        Self { sessions: IdMap::default(), queue: ExpiryQueue::new(tick) }
    }

    /// Number of tracked sessions, closing ones included.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether no session is tracked.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Begins to lead with the replicated sessions: all get their full time-out, none has an owner.
    pub fn lead(
        &mut self,
        now: Instant,
        sessions: impl IntoIterator<Item = (SessionId, Duration)>,
    ) {
        self.sessions.clear();
        self.queue.clear();
        for (session, timeout) in sessions {
            self.add(session, timeout, None, now);
        }
    }

    /// Tracks a session from the moment its createSession is proposed. One that is tracked already
    /// gets the new time-out and owner.
    pub fn add(&mut self, session: SessionId, timeout: Duration, owner: Option<O>, now: Instant) {
        let due = self.queue.bucket(now, timeout);
        let fresh = Tracked { timeout, owner, closing: false, due, filed: due };
        if let Some(tracked) = alive(&mut self.sessions, session)
            && tracked.filed <= due
        {
            // Its bucket lists it still; that of a closing session may be gone.
            *tracked = Tracked { filed: tracked.filed, ..fresh };
            return;
        }
        self.sessions.insert(session, fresh);
        self.queue.file(session, due);
    }

    /// The session was heard of: its time-out starts anew. False if it is unknown or closing.
    pub fn touch(&mut self, session: SessionId, now: Instant) -> bool {
        let Some(tracked) = alive(&mut self.sessions, session) else { return false };
        tracked.due = tracked.due.max(self.queue.bucket(now, tracked.timeout));
        true
    }

    /// A client re-attached: touches the session and makes `owner` its owner (R32). False if it is
    /// unknown or closing; nothing changes then.
    pub fn revalidate(&mut self, session: SessionId, owner: O, now: Instant) -> bool {
        if let Some(tracked) = alive(&mut self.sessions, session) {
            tracked.owner = Some(owner);
        }
        self.touch(session, now)
    }

    /// Whether `owner` may make a request for the session. After a change of leader the first
    /// request says who the owner is.
    ///
    /// # Errors
    /// SessionExpired for an unknown or closing session, SessionMoved for another's.
    pub fn check_owner(&mut self, session: SessionId, owner: O) -> Result<(), ErrorCode> {
        let tracked = alive(&mut self.sessions, session).ok_or(ErrorCode::SessionExpired)?;
        let present = *tracked.owner.get_or_insert(owner);
        if present == owner { Ok(()) } else { Err(ErrorCode::SessionMoved) }
    }

    /// The session's owner, if a request or a revalidation named one.
    pub fn owner(&self, session: SessionId) -> Option<O> {
        self.sessions.get(&session).and_then(|tracked| tracked.owner)
    }

    /// The session's closeSession is proposed: from here on it can do nothing. False if it is
    /// unknown or closing already.
    pub fn close(&mut self, session: SessionId) -> bool {
        let Some(tracked) = alive(&mut self.sessions, session) else { return false };
        tracked.closing = true;
        true
    }

    /// The session's closeSession was applied.
    pub fn remove(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }

    /// Appends the sessions whose time is up to `expired` and marks them closing; each needs a
    /// closeSession of its own. Nothing expires twice.
    pub fn expire(&mut self, now: Instant, expired: &mut Vec<SessionId>) {
        while let Some((bucket, mut sessions)) = self.queue.take_due(now) {
            for session in sessions.drain(..) {
                let Some(tracked) = alive(&mut self.sessions, session) else { continue };
                if tracked.filed != bucket {
                    continue;
                }
                if tracked.due > bucket {
                    tracked.filed = tracked.due;
                    self.queue.file(session, tracked.due);
                } else {
                    tracked.closing = true;
                    expired.push(session);
                }
            }
            self.queue.reuse(sessions);
        }
    }

    /// When [`SessionTracker::expire`] may have something to do; not later than the first expiry.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.queue.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    const TICK: Duration = Duration::from_secs(2);
    const S: SessionId = SessionId(7);

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn expired(tracker: &mut SessionTracker<u8>, ms: u64) -> Vec<SessionId> {
        let mut expired = Vec::new();
        tracker.expire(at(ms), &mut expired);
        expired
    }

    #[test]
    fn the_password_is_that_of_javas_random() {
        let golden = 0x3bdd_69c2_d0f7_5f25_ba6e_cba9_6845_aa97u128.to_be_bytes();
        let session = SessionId(0x0100_0021_34d3_0004);
        assert_eq!(password(session), golden);
        assert!(password_matches(session, &golden));
        assert!(!password_matches(session, &golden[..15]));
        assert!(!password_matches(session, &[0; 16]));
        assert!(!password_matches(session, b""));
    }

    #[test]
    fn session_ids_carry_server_and_time_and_never_repeat() {
        let mut ids = SessionIds::new(ServerId(1));
        let ms = 0x01a2_08db_c0f3;
        assert_eq!(ids.next(ms), SessionId(0x01a2_08db_c0f3_0000), "low 40 bits of the time");
        let mut seen = BTreeSet::new();
        for step in 0..200_000i64 {
            // The clock stands still, then goes back.
            let wall = if step < 100_000 { ms + 1 } else { ms - step };
            assert!(seen.insert(ids.next(wall)), "step {step}");
        }
        assert_ne!(SessionIds::new(ServerId(0)).next(0), SessionId(0));
        assert_ne!(SessionIds::new(ServerId(128)).next(0), SessionId(1 << 63));
    }

    #[test]
    fn a_session_ends_at_the_first_tick_after_its_timeout() {
        let mut tracker = SessionTracker::new(TICK);
        tracker.add(S, Duration::from_secs(4), Some(1), at(500));
        assert_eq!(tracker.next_expiry(), Some(at(6000)));
        assert_eq!(expired(&mut tracker, 5999), []);
        assert_eq!(expired(&mut tracker, 6000), [S]);
        assert_eq!(expired(&mut tracker, 60_000), [], "nothing expires twice");
        assert!(!tracker.touch(S, at(6001)), "an expired session is closing");
        assert_eq!(tracker.check_owner(S, 1), Err(ErrorCode::SessionExpired));
        tracker.remove(S);
        assert!(tracker.is_empty());
    }

    #[test]
    fn a_touch_starts_the_timeout_anew() {
        let mut tracker = SessionTracker::new(TICK);
        tracker.add(S, Duration::from_secs(4), None, at(0));
        for second in 1..100 {
            assert!(tracker.touch(S, at(second * 1000)));
            assert_eq!(expired(&mut tracker, second * 1000), []);
        }
        assert_eq!(expired(&mut tracker, 103_999), []);
        assert_eq!(expired(&mut tracker, 104_000), [S]);
    }

    #[test]
    fn a_late_report_of_an_early_touch_does_not_shorten_a_life() {
        let mut tracker = SessionTracker::<u8>::new(TICK);
        tracker.add(S, Duration::from_secs(4), None, at(10_000));
        assert!(tracker.touch(S, at(1000)));
        assert_eq!(expired(&mut tracker, 15_999), []);
        assert_eq!(expired(&mut tracker, 16_000), [S]);
    }

    #[test]
    fn a_new_leader_grants_full_timeouts_and_knows_no_owners() {
        let mut tracker = SessionTracker::new(TICK);
        tracker.add(SessionId(1), Duration::from_secs(4), Some(1), at(0));
        let sessions = [(S, Duration::from_secs(4)), (SessionId(8), Duration::from_secs(40))];
        tracker.lead(at(100_000), sessions);
        assert_eq!(tracker.len(), 2);
        assert_eq!(expired(&mut tracker, 105_999), []);
        assert_eq!(expired(&mut tracker, 106_000), [S]);
        assert_eq!(
            tracker.check_owner(SessionId(8), 3),
            Ok(()),
            "the first request names the owner"
        );
        assert_eq!(tracker.check_owner(SessionId(8), 4), Err(ErrorCode::SessionMoved));
        assert_eq!(tracker.owner(SessionId(8)), Some(3));
    }

    #[test]
    fn revalidation_moves_a_session_and_the_former_owner_is_refused() {
        let mut tracker = SessionTracker::new(TICK);
        tracker.add(S, Duration::from_secs(4), Some(1), at(0));
        assert!(tracker.revalidate(S, 2, at(1000)));
        assert_eq!(tracker.check_owner(S, 1), Err(ErrorCode::SessionMoved));
        assert_eq!(tracker.check_owner(S, 2), Ok(()));
        assert!(tracker.close(S));
        assert!(!tracker.close(S));
        assert!(!tracker.revalidate(S, 1, at(2000)), "a closing session cannot move");
        assert!(!tracker.revalidate(SessionId(99), 1, at(2000)));
        assert_eq!(expired(&mut tracker, 60_000), [], "a closing session does not expire");
    }

    #[test]
    fn ten_thousand_sessions_expire_at_once_in_a_fixed_order() {
        let mut tracker = SessionTracker::<u8>::new(TICK);
        let ids: Vec<SessionId> = (1..=10_000).map(SessionId).collect();
        tracker.lead(at(0), ids.iter().map(|id| (*id, Duration::from_secs(4))));
        assert_eq!(expired(&mut tracker, 6000), ids);
    }

    #[test]
    fn a_session_that_comes_back_after_its_expiry_expires_again() {
        let mut tracker = SessionTracker::<u8>::new(TICK);
        tracker.add(S, Duration::from_secs(4), None, at(0));
        assert_eq!(expired(&mut tracker, 6000), [S]);
        tracker.add(S, Duration::from_secs(4), None, at(6000));
        assert!(tracker.touch(S, at(7000)));
        assert_eq!(expired(&mut tracker, 11_999), []);
        assert_eq!(expired(&mut tracker, 12_000), [S]);
    }

    #[test]
    fn a_shorter_timeout_on_a_second_add_is_honoured() {
        let mut tracker = SessionTracker::<u8>::new(TICK);
        tracker.add(S, Duration::from_secs(40), None, at(0));
        tracker.add(S, Duration::from_secs(4), None, at(0));
        assert_eq!(expired(&mut tracker, 6000), [S]);
        assert_eq!(expired(&mut tracker, 60_000), []);
    }
}
