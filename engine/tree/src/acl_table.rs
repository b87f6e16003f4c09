//! `AclTable`: each distinct access control list once, however many nodes have it.
//!
//! The open list has a fixed number and is not counted, so that nodes without special rights cost
//! nothing.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::acl::{self, Acl};

/// The number of `world:anyone` with all permissions.
pub(crate) const OPEN: u32 = 0;

#[derive(Debug)]
struct Shared {
    list: Arc<[Acl]>,
    nodes: usize,
}

#[derive(Debug)]
pub(crate) struct AclTable {
    lists: Vec<Shared>,
    free: Vec<u32>,
    /// Sorted rather than hashed: clients choose the lists.
    index: BTreeMap<Arc<[Acl]>, u32>,
}

impl AclTable {
    pub(crate) fn new() -> Self {
        let open: Arc<[Acl]> = Arc::new([Acl::open()]);
        Self {
            lists: Vec::from([Shared { list: open, nodes: 0 }]),
            free: Vec::new(),
            index: BTreeMap::new(),
        }
    }

    pub(crate) fn list(&self, number: u32) -> &Arc<[Acl]> {
        &self.lists[number as usize].list
    }

    /// The list, unless it is the open one.
    pub(crate) fn closed(&self, number: u32) -> Option<&Arc<[Acl]>> {
        (number != OPEN).then(|| self.list(number))
    }

    /// The list's number, for one more node.
    pub(crate) fn intern(&mut self, list: &[Acl]) -> u32 {
        if acl::is_open(list) {
            return OPEN;
        }
        if let Some(number) = self.index.get(list).copied() {
            self.lists[number as usize].nodes += 1;
            return number;
        }
        let list: Arc<[Acl]> = Arc::from(list);
        let shared = Shared { list: list.clone(), nodes: 1 };
        let number = match self.free.pop() {
            Some(number) => {
                self.lists[number as usize] = shared;
                number
            }
            None => {
                self.lists.push(shared);
                self.lists.len() as u32 - 1
            }
        };
        self.index.insert(list, number);
        number
    }

    /// One node less has this list.
    pub(crate) fn release(&mut self, number: u32) {
        if number == OPEN {
            return;
        }
        let shared = &mut self.lists[number as usize];
        shared.nodes -= 1;
        if shared.nodes == 0 {
            self.index.remove(&shared.list);
            shared.list = Arc::new([]);
            self.free.push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acl::Permissions;

    #[test]
    fn equal_lists_share_a_number_until_the_last_node_lets_go() {
        let mut table = AclTable::new();
        let read = [Acl::world(Permissions::READ)];
        assert_eq!(table.intern(&[Acl::open()]), OPEN);
        let number = table.intern(&read);
        assert_eq!(table.intern(&read), number);
        assert_eq!(**table.list(number), read);
        table.release(number);
        assert_eq!(table.intern(&read), number);
        table.release(number);
        table.release(number);
        assert_eq!(table.intern(&[Acl::world(Permissions::WRITE)]), number, "the number is reused");
        assert_eq!(table.index.len(), 1);
    }
}
