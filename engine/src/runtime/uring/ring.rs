//! `Ring`: an io_uring with the settings we want, submission in one enter, and draining.
//!
//! Knows no socket and no file; what a completion means is its owner's business.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use io_uring::{EnterFlags, IoUring, Probe, Submitter, opcode, squeue, types};
use thiserror::Error;

/// How the kernel runs completion work, best first. The older the kernel, the further down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingMode {
    /// Only when we ask, on our thread (`DEFER_TASKRUN`, Linux 6.1): no interruptions, big batches.
    Deferred,
    /// At our next system call (`COOP_TASKRUN`, Linux 5.19).
    Cooperative,
    /// By interrupting us.
    Plain,
}

/// Why io_uring cannot be used here, with the remedy.
#[derive(Debug, Error)]
pub enum UringError {
    /// The container's system call filter refuses it (Docker 25 and containerd do by default).
    #[error(
        "io_uring is refused by a seccomp filter: allow io_uring_setup, io_uring_enter and \
         io_uring_register (docker run --security-opt seccomp=<profile with these three>)"
    )]
    Seccomp,
    /// The host switched it off.
    #[error(
        "io_uring is disabled on this host (kernel.io_uring_disabled = {value}): \
         run `sysctl -w kernel.io_uring_disabled=0`"
    )]
    Sysctl {
        /// The setting: 1 for unprivileged processes, 2 for all.
        value: u8,
    },
    /// The kernel has none, or lacks an operation that we need.
    #[error(
        "this kernel's io_uring is too old ({missing} is missing): Linux 6.1 or newer is needed"
    )]
    TooOld {
        /// What is missing.
        missing: &'static str,
    },
    /// Locked memory ran out; before Linux 5.12 rings counted against it.
    #[error("io_uring got no memory: raise the limit of locked memory (ulimit -l, LimitMEMLOCK)")]
    Memory,
    /// Anything else.
    #[error("io_uring failed: {0}")]
    Other(#[source] io::Error),
}

impl From<UringError> for io::Error {
    fn from(error: UringError) -> Self {
        let kind = match &error {
            UringError::Seccomp | UringError::Sysctl { .. } => io::ErrorKind::PermissionDenied,
            UringError::TooOld { .. } => io::ErrorKind::Unsupported,
            UringError::Memory => io::ErrorKind::OutOfMemory,
            UringError::Other(other) => other.kind(),
        };
        Self::new(kind, error)
    }
}

/// Tells why setting up a ring failed. `disabled` is kernel.io_uring_disabled, if it exists.
fn explain(error: io::Error, disabled: Option<u8>) -> UringError {
    match (error.raw_os_error(), disabled) {
        (Some(libc::EPERM | libc::EACCES), Some(value @ 1..)) => UringError::Sysctl { value },
        (Some(libc::EPERM | libc::EACCES), _) => UringError::Seccomp,
        // The kernel has the setting, hence has io_uring: some filters answer ENOSYS.
        (Some(libc::ENOSYS), Some(_)) => UringError::Seccomp,
        (Some(libc::ENOSYS), None) => UringError::TooOld { missing: "io_uring" },
        (Some(libc::ENOMEM), _) => UringError::Memory,
        _ => UringError::Other(error),
    }
}

fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The operations without which nothing works; SEND_ZC came with 6.0 as multishot receive did,
/// which itself cannot be asked for.
const NEEDED: [(u8, &str); 11] = [
    (opcode::RecvMulti::CODE, "recv"),
    (opcode::SendZc::CODE, "multishot recv"),
    (opcode::Send::CODE, "send"),
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::AcceptMulti::CODE, "accept"),
    (opcode::Connect::CODE, "connect"),
    (opcode::AsyncCancel::CODE, "cancel"),
    (opcode::OpenAt::CODE, "openat"),
    (opcode::Fallocate::CODE, "fallocate"),
    (opcode::RenameAt::CODE, "renameat"),
    (opcode::UnlinkAt::CODE, "unlinkat"),
];

/// Checks at start that io_uring can be used, and how well.
///
/// # Errors
/// The reason, with the remedy in its text.
pub fn probe() -> Result<RingMode, UringError> {
    let ring = Ring::new(8, 16)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(UringError::Other)?;
    match NEEDED.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, missing)) => Err(UringError::TooOld { missing }),
        None => Ok(ring.mode),
    }
}

/// What an operation came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    /// What its entry said.
    pub(super) user_data: u64,
    /// The result, or a negative error number.
    pub(super) result: i32,
    /// `io_uring::cqueue` tells what they mean.
    pub(super) flags: u32,
}

/// What an enter came to.
enum Entered {
    Submitted(usize),
    /// Completions must be taken first, memory is short for now, or a signal came.
    Busy,
}

impl Entered {
    /// # Panics
    /// On an error that says that we use the ring wrongly, or that it is gone: there is nobody who
    /// could go on without it.
    fn refused(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ETIME) => Self::Busy,
            _ => panic!("io_uring_enter was refused: {error}"),
        }
    }
}

/// One ring, used by the thread that made it.
pub(super) struct Ring {
    uring: IoUring,
    mode: RingMode,
    /// Entries that found the submission queue full.
    spill: VecDeque<squeue::Entry>,
    /// Completions taken out to make room while submitting.
    backlog: Vec<Completion>,
    /// Whether completions may be kept from signalling the eventfd while we are awake.
    can_silence: bool,
    /// Whether the owner asks before it sleeps; one that never did must not miss a signal.
    is_asked: Cell<bool>,
    silenced: Cell<bool>,
    enters: Cell<u64>,
    /// With `SINGLE_ISSUER` the kernel refuses every other thread, and `may_sleep` relies on it.
    _on_its_thread: PhantomData<*mut ()>,
}

impl Ring {
    /// A ring in this mode; `None` for the best that the kernel offers. Lengths are powers of two.
    pub(super) fn open(mode: Option<RingMode>, sq: u32, cq: u32) -> io::Result<Self> {
        match mode {
            None => Ok(Self::new(sq, cq)?),
            Some(mode) => Self::in_mode(mode, sq, cq),
        }
    }

    /// A ring in the best mode that the kernel offers.
    fn new(sq: u32, cq: u32) -> Result<Self, UringError> {
        let mut refused = None;
        for mode in [RingMode::Deferred, RingMode::Cooperative, RingMode::Plain] {
            match Self::in_mode(mode, sq, cq) {
                Ok(ring) => return Ok(ring),
                // EINVAL is a flag that this kernel does not know.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refused = Some(error),
                Err(error) => return Err(explain(error, io_uring_disabled())),
            }
            tracing::info!(?mode, "this kernel does not offer the ring mode");
        }
        let error = refused.unwrap_or_else(|| io::ErrorKind::Unsupported.into());
        Err(explain(error, io_uring_disabled()))
    }

    /// A ring in one mode.
    fn in_mode(mode: RingMode, sq: u32, cq: u32) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(cq);
        match mode {
            RingMode::Deferred => {
                builder.setup_submit_all().setup_single_issuer();
                builder.setup_defer_taskrun().setup_taskrun_flag();
            }
            RingMode::Cooperative => {
                builder.setup_submit_all().setup_coop_taskrun().setup_taskrun_flag();
            }
            RingMode::Plain => {}
        }
        let uring = builder.build(sq)?;
        if !uring.params().is_feature_nodrop() || !uring.params().is_feature_ext_arg() {
            return Err(io::Error::from_raw_os_error(libc::ENOSYS));
        }
        Ok(Self {
            uring,
            mode,
            spill: VecDeque::new(),
            backlog: Vec::new(),
            can_silence: false,
            is_asked: Cell::new(false),
            silenced: Cell::new(false),
            enters: Cell::new(0),
            _on_its_thread: PhantomData,
        })
    }

    /// How many `io_uring_enter` calls were made.
    pub(super) fn enters(&self) -> u64 {
        self.enters.get()
    }

    /// For registering buffers.
    pub(super) fn submitter(&self) -> Submitter<'_> {
        self.uring.submitter()
    }

    /// From now on completions make `eventfd` readable.
    ///
    /// While awake we keep the kernel from doing so where that is safe: in deferred mode
    /// completions are only ever posted by our own thread, and what the kernel does from outside
    /// (queue task work, set a flag, look whether to signal) is ordered by the locked operations
    /// of x86. Elsewhere every completion signals, which costs a stale count now and then.
    pub(super) fn register_eventfd(&mut self, eventfd: BorrowedFd<'_>) -> io::Result<()> {
        self.submitter().register_eventfd(eventfd.as_raw_fd())?;
        self.can_silence = self.mode == RingMode::Deferred && cfg!(target_arch = "x86_64");
        Ok(())
    }

    /// Queues an entry; nothing happens before [`submit`](Self::submit). Order is kept.
    ///
    /// # Safety
    /// What the entry points to must stay valid, and unaliased where the kernel writes, until its
    /// (last) completion has been reaped.
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: the caller's promise.
        if !self.spill.is_empty() || unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.spill.push_back(entry);
        }
    }

    /// Hands everything queued to the kernel, with one enter if it fits, and lets the kernel run
    /// deferred work on the way. Makes no system call when nothing is queued.
    pub(super) fn submit(&mut self) {
        loop {
            self.fill_from_spill();
            let queued = self.uring.submission().len();
            if queued == 0 {
                return;
            }
            match self.enter(queued) {
                // Without room for more: the next turn tries again.
                Entered::Submitted(0) => return,
                Entered::Submitted(_) => {}
                Entered::Busy => {
                    if self.drain_to_backlog() == 0 {
                        return;
                    }
                }
            }
        }
    }

    fn fill_from_spill(&mut self) {
        let mut queue = self.uring.submission();
        while let Some(entry) = self.spill.front() {
            // SAFETY: promised when the entry was pushed.
            if unsafe { queue.push(entry) }.is_err() {
                return;
            }
            self.spill.pop_front();
        }
    }

    /// Submits so many entries and lets the kernel run deferred work.
    fn enter(&mut self, submit: usize) -> Entered {
        self.count_enter();
        let submit = u32::try_from(submit).expect("the queue's length is a u32");
        let flags = EnterFlags::GETEVENTS.bits();
        // SAFETY: plain integers and no argument; the entries' validity was promised at `push`.
        let entered = unsafe { self.submitter().enter::<libc::sigset_t>(submit, 0, flags, None) };
        match entered {
            Ok(count) => Entered::Submitted(count),
            Err(error) => Entered::refused(error),
        }
    }

    fn count_enter(&self) {
        self.enters.set(self.enters.get() + 1);
    }

    fn drain_to_backlog(&mut self) -> usize {
        let before = self.backlog.len();
        drain(&mut self.uring, &mut self.backlog);
        self.backlog.len() - before
    }

    /// Appends what has completed, about `limit` at most. Makes a system call only if there is
    /// nothing to take and the kernel says that work waits to be run on our thread.
    pub(super) fn reap(&mut self, into: &mut Vec<Completion>, limit: usize) {
        self.silence();
        into.append(&mut self.backlog);
        drain(&mut self.uring, into);
        if !into.is_empty() {
            return;
        }
        // Deferred work is run in slices of about twenty; hence the loop. An enter that brings
        // nothing ends it: the flag is a hint (see `settle`) and may stay set with no work behind
        // it. If there was work after all, the next turn or `may_sleep` finds it.
        while into.len() < limit && self.has_deferred_work() {
            self.enter(0);
            let before = into.len();
            drain(&mut self.uring, into);
            if into.len() == before {
                return;
            }
        }
    }

    fn has_deferred_work(&mut self) -> bool {
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    fn silence(&mut self) {
        if self.can_silence && self.is_asked.get() && !self.silenced.get() {
            self.uring.completion().disable_eventfd();
            self.silenced.set(true);
        }
    }

    /// Makes completions signal the eventfd again, then looks whether one came before that. Only
    /// if this is true may the thread wait for the eventfd.
    pub(super) fn may_sleep(&self) -> bool {
        self.is_asked.set(true);
        if !self.spill.is_empty() || !self.backlog.is_empty() {
            return false;
        }
        // SAFETY: the ring belongs to one thread and no other view of its queues is alive: every
        // method makes its own and drops it before it returns.
        let mut completions = unsafe { self.uring.completion_shared() };
        if self.silenced.get() {
            completions.enable_eventfd();
            self.silenced.set(false);
        }
        // The store above must be visible before the loads below, as in `Bell::arm`.
        fence(Ordering::SeqCst);
        // SAFETY: as above.
        let entries = unsafe { self.uring.submission_shared() };
        completions.sync();
        if !completions.is_empty() || !entries.is_empty() || entries.cq_overflow() {
            return false;
        }
        if entries.taskrun() {
            self.settle();
            completions.sync();
        }
        completions.is_empty()
    }

    /// Has the kernel run deferred work until there is a completion or no work is left.
    ///
    /// `TASKRUN` alone tells neither. The kernel clears the flag, then takes the list of work;
    /// what another CPU adds in between sets the flag and is run at once, so that the flag stays
    /// behind, and an enter that finds the list empty does not clear it (seen on Linux 6.18).
    /// Waiting for one completion, for no time at all, is what makes the kernel go on past its
    /// slices. Work added later signals the eventfd, whatever the flag was.
    fn settle(&self) {
        let now = timespec(Duration::ZERO);
        self.wait_for_one(&types::SubmitArgs::new().timespec(&now));
    }

    /// Submits everything and waits for a completion, at most `timeout` (`None`: for ever).
    pub(super) fn wait(&mut self, timeout: Option<Duration>) {
        self.submit();
        if !self.backlog.is_empty() {
            return;
        }
        let timespec = timeout.map(timespec).unwrap_or_default();
        let mut args = types::SubmitArgs::new();
        if timeout.is_some() {
            args = args.timespec(&timespec);
        }
        self.wait_for_one(&args);
    }

    /// Submits what is in the queue and waits for a completion, as `args` say.
    fn wait_for_one(&self, args: &types::SubmitArgs<'_, '_>) {
        // Waiting for the disk or a peer is not waiting for I/O in the sense of load figures.
        let flags = match self.uring.params().is_feature_no_iowait() {
            true => EnterFlags::NO_IOWAIT,
            false => EnterFlags::empty(),
        };
        self.count_enter();
        if let Err(error) = self.submitter().submit_with_args_and_flags(1, args, flags) {
            Entered::refused(error);
        }
    }
}

fn drain(uring: &mut IoUring, into: &mut Vec<Completion>) {
    let completions = uring.completion();
    into.extend(completions.map(|entry| Completion {
        user_data: entry.user_data(),
        result: entry.result(),
        flags: entry.flags(),
    }));
}

/// A duration as the kernel wants it.
pub(super) fn timespec(duration: Duration) -> types::Timespec {
    types::Timespec::new().sec(duration.as_secs()).nsec(duration.subsec_nanos())
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("mode", &self.mode)
            .field("spill", &self.spill.len())
            .field("enters", &self.enters())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::ptr;
    use std::sync::atomic::AtomicU32;

    use super::super::sys;
    use super::*;

    const MODES: [RingMode; 3] = [RingMode::Deferred, RingMode::Cooperative, RingMode::Plain];

    fn nop(ring: &mut Ring, user_data: u64) {
        // SAFETY: a no-op points to nothing.
        unsafe { ring.push(opcode::Nop::new().build().user_data(user_data)) }
    }

    #[test]
    fn io_uring_can_be_used_here() {
        assert!(MODES.contains(&probe().unwrap()));
    }

    #[test]
    fn more_entries_than_the_queue_holds_keep_their_order_in_every_mode() {
        for mode in MODES {
            let mut ring = Ring::in_mode(mode, 8, 16).unwrap();
            for user_data in 0..100 {
                nop(&mut ring, user_data);
            }
            let mut seen = Vec::new();
            while seen.len() < 100 {
                ring.submit();
                let mut batch = Vec::new();
                ring.reap(&mut batch, 64);
                seen.extend(batch.iter().map(|completion| completion.user_data));
            }
            assert!(seen.iter().copied().eq(0..100), "{mode:?}: {seen:?}");
            assert!(ring.may_sleep(), "{mode:?}");
        }
    }

    #[test]
    fn an_idle_ring_makes_no_system_call_and_may_sleep() {
        let mut ring = Ring::new(8, 16).unwrap();
        let mut none = Vec::new();
        for _ in 0..100 {
            ring.submit();
            ring.reap(&mut none, 64);
        }
        assert_eq!(ring.enters(), 0);
        assert!(ring.may_sleep());
        nop(&mut ring, 1);
        assert!(!ring.may_sleep(), "an entry waits to be submitted");
        ring.submit();
        assert!(!ring.may_sleep(), "a completion waits to be reaped");
    }

    /// A timeout completes from outside our thread, which is where the eventfd matters.
    #[test]
    fn a_completion_after_may_sleep_signals_the_eventfd_in_every_mode() {
        for mode in MODES {
            let mut ring = Ring::in_mode(mode, 8, 16).unwrap();
            let eventfd = sys::eventfd().unwrap();
            ring.register_eventfd(eventfd.as_fd()).unwrap();
            let time = timespec(Duration::from_millis(2));
            let mut seen = Vec::new();
            assert!(ring.may_sleep());
            ring.reap(&mut seen, 64);
            assert_eq!(ring.silenced.get(), mode == RingMode::Deferred && ring.can_silence);
            // SAFETY: `time` outlives the operation.
            unsafe { ring.push(opcode::Timeout::new(&raw const time).build().user_data(9)) };
            ring.submit();
            if ring.may_sleep() {
                let patience = Some(Duration::from_secs(20));
                assert!(sys::wait_readable(eventfd.as_fd(), patience).unwrap(), "{mode:?}");
            }
            ring.reap(&mut seen, 64);
            assert_eq!(seen.len(), 1, "{mode:?}");
            assert_eq!(seen[0].result, -libc::ETIME);
        }
    }

    /// The kernel's page of queue indices and flags, mapped once more.
    struct Flags {
        page: *mut libc::c_void,
        at: usize,
    }

    impl Flags {
        const LENGTH: usize = 4096;

        fn of(ring: &Ring) -> Self {
            // SAFETY: `Parameters` is a transparent wrapper of `io_uring_params`: 30 words.
            let words = unsafe { *ptr::from_ref(ring.uring.params()).cast::<[u32; 30]>() };
            let (protection, fd) = (libc::PROT_READ | libc::PROT_WRITE, ring.uring.as_raw_fd());
            // SAFETY: a new mapping, where the kernel likes; offset 0 is the submission ring.
            let page = unsafe {
                libc::mmap(ptr::null_mut(), Self::LENGTH, protection, libc::MAP_SHARED, fd, 0)
            };
            assert_ne!(page, libc::MAP_FAILED);
            // Ten words before `sq_off`, and `flags` is its fifth.
            Self { page, at: words[14] as usize }
        }

        fn word(&self) -> &AtomicU32 {
            assert!(self.at + 4 <= Self::LENGTH);
            // SAFETY: inside the mapping, aligned, and the kernel too changes it atomically.
            unsafe { &*self.page.byte_add(self.at).cast::<AtomicU32>() }
        }
    }

    impl Drop for Flags {
        fn drop(&mut self) {
            // SAFETY: our own mapping, and no reference to it outlives us.
            unsafe { libc::munmap(self.page, Self::LENGTH) };
        }
    }

    const TASKRUN: u32 = 1 << 2;

    /// The kernel leaves the flag behind when work is added just before it takes the list.
    #[test]
    fn a_stale_taskrun_flag_neither_traps_nor_keeps_awake() {
        for mode in MODES {
            let (done, is_done) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let mut ring = Ring::in_mode(mode, 8, 16).unwrap();
                let eventfd = sys::eventfd().unwrap();
                ring.register_eventfd(eventfd.as_fd()).unwrap();
                let flags = Flags::of(&ring);
                assert_eq!(flags.word().fetch_or(TASKRUN, Ordering::SeqCst), 0);
                assert!(ring.has_deferred_work(), "the right word of the right page");

                let mut seen = Vec::new();
                ring.reap(&mut seen, 64);
                assert!(seen.is_empty());
                assert!(ring.may_sleep(), "{mode:?}");

                // A completion is not lost behind it: seen, or signalled.
                let time = timespec(Duration::from_millis(2));
                // SAFETY: `time` outlives the operation.
                unsafe { ring.push(opcode::Timeout::new(&raw const time).build().user_data(9)) };
                ring.submit();
                flags.word().fetch_or(TASKRUN, Ordering::SeqCst);
                if ring.may_sleep() {
                    let patience = Some(Duration::from_secs(20));
                    assert!(sys::wait_readable(eventfd.as_fd(), patience).unwrap(), "{mode:?}");
                }
                ring.reap(&mut seen, 64);
                assert_eq!(seen.len(), 1, "{mode:?}");
                done.send(()).unwrap();
            });
            let patience = Duration::from_secs(30);
            assert_eq!(is_done.recv_timeout(patience), Ok(()), "{mode:?}: trapped, or failed");
        }
    }

    #[test]
    fn a_wait_ends_with_its_timeout() {
        let mut ring = Ring::new(8, 16).unwrap();
        ring.wait(Some(Duration::from_millis(1)));
        assert!(ring.may_sleep());
    }

    #[test]
    fn a_refusal_names_its_cause_and_the_remedy() {
        let errno = io::Error::from_raw_os_error;
        let text = |error, disabled| explain(error, disabled).to_string();
        assert!(text(errno(libc::EPERM), Some(2)).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(text(errno(libc::EPERM), Some(0)).contains("seccomp"));
        assert!(text(errno(libc::EPERM), None).contains("seccomp"));
        assert!(text(errno(libc::ENOSYS), Some(0)).contains("seccomp"));
        assert!(text(errno(libc::ENOSYS), None).contains("too old"));
        assert!(text(errno(libc::ENOMEM), None).contains("ulimit -l"));
        let error = io::Error::from(explain(errno(libc::EPERM), Some(1)));
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    }
}
