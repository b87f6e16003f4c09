//! Bounded queues between two threads: one producer, one consumer, never blocking either.
//!
//! A full queue is the producer's business: what does not fit waits in its own outbox, in order.
//! The queue decides neither what may be created while it is full nor what may be merged.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;

use super::bell::Bell;

/// A queue of at most `capacity` items. The consumer's bell is rung when there are new ones; the
/// producer's, so that it may sleep with items in its outbox, when a queue that was full is empty.
///
/// # Panics
/// If `capacity` is zero.
pub fn channel<T>(
    capacity: usize,
    consumer: Arc<Bell>,
    producer: Arc<Bell>,
) -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        queue: ArrayQueue::new(capacity),
        starved: CachePadded::new(AtomicBool::new(false)),
    });
    let theirs = Arc::clone(&shared);
    let sender = Sender { shared, consumer, outbox: VecDeque::new(), unannounced: false };
    (sender, Receiver { shared: theirs, producer })
}

struct Shared<T> {
    queue: ArrayQueue<T>,
    /// Whether the producer has items in its outbox and may be asleep.
    starved: CachePadded<AtomicBool>,
}

/// The producer's end.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
    consumer: Arc<Bell>,
    outbox: VecDeque<T>,
    /// Whether something was queued since the bell was last rung.
    unannounced: bool,
}

impl<T> Sender<T> {
    /// Queues an item, in the outbox if the queue is full. The consumer is told at the next
    /// [`flush`](Self::flush).
    pub fn push(&mut self, item: T) {
        if !self.outbox.is_empty() {
            self.outbox.push_back(item);
            return;
        }
        match self.shared.queue.push(item) {
            Ok(()) => self.unannounced = true,
            Err(item) => self.outbox.push_back(item),
        }
    }

    /// Moves what fits from the outbox to the queue and rings the consumer's bell if anything was
    /// queued since the last flush. Once per turn, after its pushes. Tells whether the outbox is
    /// empty.
    pub fn flush(&mut self) -> bool {
        if !self.outbox.is_empty() && !self.empty_outbox() {
            // Announce first, then look again: either we see the room that the consumer made, or
            // it sees that we starve.
            self.shared.starved.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.empty_outbox() {
                self.shared.starved.store(false, Ordering::Relaxed);
            }
        }
        if self.unannounced {
            self.unannounced = false;
            self.consumer.ring();
        }
        self.outbox.is_empty()
    }

    fn empty_outbox(&mut self) -> bool {
        while let Some(item) = self.outbox.pop_front() {
            match self.shared.queue.push(item) {
                Ok(()) => self.unannounced = true,
                Err(item) => {
                    self.outbox.push_front(item);
                    return false;
                }
            }
        }
        true
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("queued", &self.shared.queue.len())
            .field("overflow", &self.outbox.len())
            .finish_non_exhaustive()
    }
}

/// The consumer's end.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    producer: Arc<Bell>,
}

impl<T> Receiver<T> {
    /// The oldest item. `None` also tells a producer that waits for room.
    pub fn pop(&mut self) -> Option<T> {
        let item = self.shared.queue.pop();
        if item.is_none() {
            self.feed();
        }
        item
    }

    /// Wakes the producer if it waits for room. The queue was just seen empty, so a producer that
    /// found it full did so before; the fence makes its announcement visible here.
    fn feed(&self) {
        fence(Ordering::SeqCst);
        if self.shared.starved.load(Ordering::Relaxed)
            && self.shared.starved.swap(false, Ordering::AcqRel)
        {
            // The producer may be awake and about to arm its bell, and its last look before it
            // sleeps is not for room. So it is woken whether it says that it sleeps or not.
            self.producer.ring_anyway();
        }
    }

    /// Whether there is nothing to pop.
    pub fn is_empty(&self) -> bool {
        self.shared.queue.is_empty()
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.shared.queue.len()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Far longer than any wake-up takes, so that a lost one fails the test instead of hanging it.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

    fn bell() -> Arc<Bell> {
        Arc::new(Bell::new().unwrap())
    }

    fn is_rung(bell: &Bell) -> bool {
        use std::os::fd::AsFd;
        super::super::uring::sys::wait_readable(bell.as_fd(), Some(Duration::ZERO)).unwrap()
    }

    #[test]
    fn overflow_waits_in_the_outbox_and_keeps_its_order() {
        let (mut sender, mut receiver) = channel(2, bell(), bell());
        for item in 0..5 {
            sender.push(item);
        }
        assert!(!sender.flush());
        assert_eq!(sender.outbox.len(), 3);
        let mut seen = Vec::new();
        loop {
            while let Some(item) = receiver.pop() {
                seen.push(item);
            }
            if sender.flush() && receiver.is_empty() {
                break;
            }
            sender.push(100 + seen.len());
        }
        assert!(seen.starts_with(&[0, 1, 2, 3, 4]));
        assert!(seen.is_sorted());
    }

    #[test]
    fn a_batch_rings_once_and_an_idle_flush_not_at_all() {
        let consumer = bell();
        let (mut sender, _receiver) = channel(8, Arc::clone(&consumer), bell());
        consumer.arm();
        sender.flush();
        assert!(!is_rung(&consumer));
        sender.push(1);
        sender.push(2);
        assert!(!is_rung(&consumer));
        sender.flush();
        assert!(is_rung(&consumer));
    }

    #[test]
    fn a_producer_that_waits_for_room_is_woken_when_the_queue_is_empty() {
        let (consumer, producer) = (bell(), bell());
        let (mut sender, mut receiver) = channel(1, consumer, Arc::clone(&producer));
        sender.push(1);
        sender.push(2);
        assert!(!sender.flush());
        assert_eq!(receiver.pop(), Some(1));
        assert!(!is_rung(&producer));
        assert_eq!(receiver.pop(), None);
        assert!(is_rung(&producer));
        assert!(sender.flush());
        assert_eq!(receiver.pop(), Some(2));
    }

    /// Both sides sleep whenever they may, so that every lost wake-up is a hang.
    #[test]
    fn two_sleeping_threads_lose_neither_items_nor_wakeups() {
        const ITEMS: u64 = 200_000;
        let (consumer, producer) = (bell(), bell());
        let (mut sender, mut receiver) = channel(64, Arc::clone(&consumer), Arc::clone(&producer));
        let reader = thread::spawn(move || {
            let mut expected = 0;
            while expected < ITEMS {
                while let Some(item) = receiver.pop() {
                    assert_eq!(item, expected);
                    expected += 1;
                }
                consumer.arm();
                if receiver.is_empty() && expected < ITEMS {
                    assert!(consumer.wait(PATIENCE).unwrap(), "a wake-up was lost");
                }
                consumer.disarm();
            }
        });
        let mut next = 0;
        while next < ITEMS {
            for _ in 0..(next % 97 + 1).min(ITEMS - next) {
                sender.push(next);
                next += 1;
            }
            while !sender.flush() {
                assert!(producer.wait(PATIENCE).unwrap(), "a wake-up was lost");
            }
        }
        reader.join().unwrap();
    }

    #[test]
    fn parked_ping_pong_loses_no_wakeup() {
        const HOPS: u32 = 20_000;
        let (left, right) = (bell(), bell());
        let (mut to_right, mut at_right) = channel(4, Arc::clone(&right), Arc::clone(&left));
        let (mut to_left, mut at_left) = channel(4, Arc::clone(&left), Arc::clone(&right));
        let echo = thread::spawn(move || {
            let mut hops = 0;
            while hops < HOPS {
                if let Some(item) = at_right.pop() {
                    hops += 1;
                    to_left.push(item);
                    to_left.flush();
                    continue;
                }
                right.arm();
                if at_right.is_empty() {
                    assert!(right.wait(PATIENCE).unwrap(), "a wake-up was lost");
                }
                right.disarm();
            }
        });
        for hop in 0..HOPS {
            to_right.push(hop);
            to_right.flush();
            loop {
                if let Some(item) = at_left.pop() {
                    assert_eq!(item, hop);
                    break;
                }
                left.arm();
                if at_left.is_empty() {
                    assert!(left.wait(PATIENCE).unwrap(), "a wake-up was lost");
                }
                left.disarm();
            }
        }
        echo.join().unwrap();
    }
}
