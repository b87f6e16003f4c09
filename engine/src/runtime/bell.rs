//! `Bell`: wakes one sleeping consumer, without a system call while it is awake.
//!
//! It carries no information beyond "look again": a ring may be early, late or for nothing.
//!
//! The two sides follow a store-then-look protocol, with a sequentially consistent fence between
//! store and look on both sides. Without the fences the producer may miss `sleeping` while the
//! consumer misses the item, and the item waits until the next one comes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::uring::sys;

/// The bell of one consumer thread; whoever gives it work rings it. One per consumer, not per
/// queue.
pub struct Bell {
    sleeping: CachePadded<AtomicBool>,
    eventfd: File,
}

impl Bell {
    /// A new bell, its consumer awake.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { sleeping: CachePadded::new(AtomicBool::new(false)), eventfd: sys::eventfd()? })
    }

    /// Called by a producer after it has published its work, once per batch. Makes a system call
    /// only if the consumer sleeps, and only one of several producers makes it.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            self.ring_anyway();
        }
    }

    /// Wakes the consumer whether or not it says that it sleeps.
    pub fn ring_anyway(&self) {
        // Can only fail when the count is at its maximum, and then the consumer is awake for sure.
        if let Err(error) = (&self.eventfd).write_all(&1u64.to_ne_bytes()) {
            tracing::error!(%error, "a bell could not be rung");
        }
    }

    /// Called by the consumer before its last look at its queues; after it, sleep only if they are
    /// all empty, else [`disarm`](Self::disarm).
    pub fn arm(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Called by the consumer when it goes on working.
    pub fn disarm(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }

    /// Sleeps until the bell rings or `timeout` has passed (`None`: for ever), and tells whether
    /// it rang. For threads of their own; a shard waits for [`as_fd`](Self::as_fd) through its
    /// executor.
    ///
    /// # Errors
    /// When the system refuses to wait, which is not expected.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        let rang = sys::wait_readable(self.eventfd.as_fd(), timeout)?;
        if rang {
            let mut count = [0; 8];
            // Does not block: it is readable, and only the consumer reads it.
            (&self.eventfd).read_exact(&mut count)?;
        }
        Ok(rang)
    }
}

impl AsFd for Bell {
    /// The eventfd: readable after a ring. Rings also signal their completions here.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bell(sleeping: {})", self.sleeping.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rung(bell: &Bell) -> bool {
        sys::wait_readable(bell.as_fd(), Some(Duration::ZERO)).unwrap()
    }

    #[test]
    fn a_bell_makes_no_system_call_while_its_consumer_is_awake() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!rung(&bell));
        bell.arm();
        bell.ring();
        assert!(rung(&bell));
    }

    #[test]
    fn only_the_first_ring_after_arming_wakes() {
        let bell = Bell::new().unwrap();
        bell.arm();
        bell.ring();
        assert!(bell.wait(None).unwrap());
        bell.ring();
        assert!(!rung(&bell));
    }

    #[test]
    fn a_disarmed_bell_stays_silent() {
        let bell = Bell::new().unwrap();
        bell.arm();
        bell.disarm();
        bell.ring();
        assert!(!rung(&bell));
        bell.ring_anyway();
        assert!(rung(&bell));
    }
}
