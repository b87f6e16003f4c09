//! `SendQueue`: what one connection has yet to send, as few and as large sends as possible.
//!
//! Submits nothing. At most one send is under way; everything queued meanwhile leaves together.

use std::fmt;

use quorate_wire::Frame;

/// Frames below this length are copied together, longer ones are sent from where they lie. Below
/// 1 KiB copying wins by up to 1.8 times, from 4 KiB on gathering does.
const COPY_MAX: usize = 4096;

/// The kernel's bound on the pieces of one send (UIO_MAXIOV).
const PIECES_MAX: usize = 1024;

/// A copy buffer that grew beyond this in a burst is given back to the allocator.
const KEEP_MAX: usize = 256 * 1024;

/// The frames of one connection that the kernel has not taken yet.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    /// Grows while `flying` is sent.
    next: Batch,
    /// Not touched while a send of it is under way.
    flying: Batch,
    /// Bytes in both.
    queued: usize,
    gather: Option<Box<Gather>>,
}

/// The pieces of one send that needs more than one. The kernel may read it until the send is done.
struct Gather {
    header: libc::msghdr,
    pieces: Vec<libc::iovec>,
}

/// One send, for the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Transmit {
    /// One run of bytes.
    Run {
        /// Where it starts.
        start: *const u8,
        /// How long it is.
        len: usize,
    },
    /// Several runs.
    Gather(*const libc::msghdr),
}

#[derive(Debug, Default)]
struct Batch {
    copied: Vec<u8>,
    parts: Vec<Part>,
    /// The first part not sent completely, and how much of it is gone.
    part: usize,
    part_sent: usize,
    /// How much of `copied` belongs to parts sent completely.
    copied_sent: usize,
}

#[derive(Debug)]
enum Part {
    /// The next so many bytes of `copied`.
    Copied(usize),
    Shared(Frame),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Copied(len) => *len,
            Self::Shared(frame) => frame.len(),
        }
    }
}

impl SendQueue {
    /// Queues a frame behind all others. An empty one is nothing to send.
    pub(super) fn push(&mut self, frame: Frame) {
        if frame.is_empty() {
            return;
        }
        self.queued += frame.len();
        self.next.push(frame);
    }

    /// Bytes that the kernel has not taken.
    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// What to send now; `None` if there is nothing. The pointers stay valid until
    /// [`complete`](Self::complete), if the queue is not dropped before.
    pub(super) fn start(&mut self) -> Option<Transmit> {
        if self.flying.is_done() {
            self.flying.clear();
            std::mem::swap(&mut self.flying, &mut self.next);
        }
        if self.flying.is_done() {
            return None;
        }
        let mut runs = self.flying.runs();
        let (start, len) = runs.next()?;
        let Some(second) = runs.next() else { return Some(Transmit::Run { start, len }) };
        let gather = self.gather.get_or_insert_with(Gather::new);
        gather.pieces.clear();
        let first = [(start, len), second];
        gather.pieces.extend(first.into_iter().chain(runs).take(PIECES_MAX).map(piece));
        gather.header.msg_iov = gather.pieces.as_mut_ptr();
        gather.header.msg_iovlen = gather.pieces.len() as _;
        Some(Transmit::Gather(&raw const gather.header))
    }

    /// The kernel has taken `sent` bytes of the last [`start`](Self::start).
    pub(super) fn complete(&mut self, sent: usize) {
        debug_assert!(sent <= self.queued, "no more is sent than was queued");
        self.queued = self.queued.saturating_sub(sent);
        self.flying.advance(sent);
    }
}

fn piece((start, len): (*const u8, usize)) -> libc::iovec {
    libc::iovec { iov_base: start.cast_mut().cast(), iov_len: len }
}

impl Batch {
    fn push(&mut self, frame: Frame) {
        if frame.len() >= COPY_MAX {
            self.parts.push(Part::Shared(frame));
            return;
        }
        self.copied.extend_from_slice(&frame);
        match self.parts.last_mut() {
            Some(Part::Copied(len)) => *len += frame.len(),
            Some(Part::Shared(_)) | None => self.parts.push(Part::Copied(frame.len())),
        }
    }

    fn is_done(&self) -> bool {
        self.part == self.parts.len()
    }

    fn clear(&mut self) {
        self.parts.clear();
        self.copied.clear();
        if self.copied.capacity() > KEEP_MAX {
            self.copied = Vec::new();
        }
        (self.part, self.part_sent, self.copied_sent) = (0, 0, 0);
    }

    /// What is left of each part.
    fn runs(&self) -> impl Iterator<Item = (*const u8, usize)> {
        let mut copied = self.copied_sent;
        let mut skip = self.part_sent;
        self.parts[self.part..].iter().map(move |part| {
            let bytes = match part {
                Part::Copied(len) => {
                    copied += len;
                    &self.copied[copied - len..copied]
                }
                Part::Shared(frame) => frame,
            };
            let rest = &bytes[std::mem::take(&mut skip)..];
            (rest.as_ptr(), rest.len())
        })
    }

    fn advance(&mut self, mut sent: usize) {
        while let Some(part) = self.parts.get(self.part) {
            let left = part.len() - self.part_sent;
            if sent < left {
                self.part_sent += sent;
                return;
            }
            sent -= left;
            if let Part::Copied(len) = part {
                self.copied_sent += len;
            }
            self.part += 1;
            self.part_sent = 0;
        }
        debug_assert_eq!(sent, 0, "no more is sent than the batch holds");
        // Frames are let go at once: the log may be waiting for their memory.
        self.clear();
    }
}

impl Gather {
    fn new() -> Box<Self> {
        // SAFETY: msghdr is plain integers and pointers; all zeros is an empty message.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, pieces: Vec::new() })
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gather({} pieces)", self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a send, as the kernel would read them.
    fn read(transmit: Transmit) -> Vec<u8> {
        match transmit {
            Transmit::Run { start, len } => {
                // SAFETY: the queue is alive and not completed.
                unsafe { std::slice::from_raw_parts(start, len) }.into()
            }
            Transmit::Gather(header) => {
                // SAFETY: as above.
                let pieces =
                    unsafe { std::slice::from_raw_parts((*header).msg_iov, (*header).msg_iovlen) };
                let piece = |piece: &libc::iovec| {
                    // SAFETY: as above.
                    unsafe {
                        std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
                    }
                };
                pieces.iter().flat_map(piece).copied().collect()
            }
        }
    }

    fn frame(byte: u8, len: usize) -> Frame {
        Frame::copy_from(&vec![byte; len])
    }

    #[test]
    fn small_frames_leave_as_one_run() {
        let mut queue = SendQueue::default();
        for byte in 0..32 {
            queue.push(frame(byte, 64));
        }
        let transmit = queue.start().unwrap();
        assert!(matches!(transmit, Transmit::Run { len: 2048, .. }));
        queue.complete(2048);
        assert!(queue.start().is_none());
        assert_eq!(queue.queued(), 0);
    }

    #[test]
    fn a_large_frame_is_sent_from_where_it_lies() {
        let mut queue = SendQueue::default();
        let large = frame(7, COPY_MAX);
        queue.push(large.clone());
        let Some(Transmit::Run { start, .. }) = queue.start() else { panic!("one run") };
        assert_eq!(start, large.as_ptr());
    }

    #[test]
    fn what_is_queued_during_a_send_waits_for_it() {
        let mut queue = SendQueue::default();
        queue.push(frame(1, 10));
        let first = queue.start().unwrap();
        queue.push(frame(2, 10));
        queue.push(frame(3, 5000));
        assert_eq!(read(first), [1; 10]);
        assert_eq!(queue.queued(), 5020);
        queue.complete(10);
        assert_eq!(read(queue.start().unwrap()), [vec![2; 10], vec![3; 5000]].concat());
    }

    #[test]
    fn more_pieces_than_one_send_takes_go_in_several() {
        let mut queue = SendQueue::default();
        let mut expected = Vec::new();
        for index in 0..3000u32 {
            let part = frame(index as u8, if index % 2 == 0 { 3 } else { COPY_MAX });
            expected.extend_from_slice(&part);
            queue.push(part);
        }
        let mut sent = Vec::new();
        while let Some(transmit) = queue.start() {
            let bytes = read(transmit);
            queue.complete(bytes.len());
            sent.extend(bytes);
        }
        assert!(sent == expected);
    }

    #[test]
    fn sends_cut_anywhere_lose_and_repeat_nothing() {
        for step in [1, 7, 63, 4095, 4096, 4097, 9000] {
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for index in 0..12u8 {
                let part = frame(index, [1, 100, 4096, 5000][usize::from(index) % 4]);
                expected.extend_from_slice(&part);
                queue.push(part);
            }
            let mut sent = Vec::new();
            while let Some(transmit) = queue.start() {
                let bytes = read(transmit);
                let taken = bytes.len().min(step);
                sent.extend_from_slice(&bytes[..taken]);
                queue.complete(taken);
                assert_eq!(queue.queued(), expected.len() - sent.len());
            }
            assert!(sent == expected, "step {step}");
        }
    }
}
