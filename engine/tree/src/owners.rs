//! `Owners`: which slots each session owns, and how many bytes their paths take in a closeSession.
//!
//! Does not know what a slot holds: whoever files one remembers its place in the session's list.

use alloc::vec::Vec;

use quorate_proto::SessionId;

use crate::hash::IdMap;

#[derive(Debug, Default)]
struct Owned {
    slots: Vec<u32>,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(crate) struct Owners(IdMap<SessionId, Owned>);

impl Owners {
    /// Files a slot under its session and gives its place there.
    pub(crate) fn add(&mut self, session: SessionId, slot: u32, path_len: usize) -> u32 {
        let owned = self.0.entry(session).or_default();
        owned.slots.push(slot);
        owned.bytes += 4 + path_len;
        owned.slots.len() as u32 - 1
    }

    /// Takes the slot at this place out of its session's list; gives the one that stands there now.
    #[must_use]
    pub(crate) fn remove(
        &mut self,
        session: SessionId,
        place: u32,
        path_len: usize,
    ) -> Option<u32> {
        let owned = self.0.get_mut(&session).expect("an owned slot is in its session's list");
        owned.slots.swap_remove(place as usize);
        owned.bytes -= 4 + path_len;
        let moved = owned.slots.get(place as usize).copied();
        if owned.slots.is_empty() {
            self.0.remove(&session);
        }
        moved
    }

    /// What the session owns.
    pub(crate) fn slots(&self, session: SessionId) -> &[u32] {
        self.0.get(&session).map_or(&[], |owned| &owned.slots)
    }

    /// Bytes of the paths, with 4 for each length: what the session's closeSession must hold.
    pub(crate) fn bytes(&self, session: SessionId) -> usize {
        self.0.get(&session).map_or(0, |owned| owned.bytes)
    }

    /// What all sessions own together.
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(|owned| owned.slots.len()).sum()
    }
}
