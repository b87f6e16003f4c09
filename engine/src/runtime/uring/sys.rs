//! The few system calls that std does not offer: eventfd, ppoll, CPU affinity.
//!
//! Knows no ring. Every function is safe to call with any argument.

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use glommio::io::BufferedFile;

/// A new eventfd with count zero. It blocks when read at zero: io_uring answers a read of a
/// non-blocking eventfd with EAGAIN at once, and then nobody could wait for it through a ring.
pub(crate) fn eventfd() -> io::Result<File> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Waits until `fd` can be read, for at most `timeout` (`None`: for ever). Tells whether it can.
/// A signal ends the wait early, as if the time had passed.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: one pollfd, and a timespec or null, all alive during the call; the mask is null.
    let ready = unsafe { libc::ppoll(&raw mut poll, 1, time, ptr::null()) };
    match ready {
        0 => Ok(false),
        1.. => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            error => Err(error),
        },
    }
}

/// The CPUs this thread may run on, ascending.
pub(crate) fn affinity() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is plain bits; all zeros is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is as long as we say; pid 0 is the calling thread.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let max = 8 * size_of_val(&set);
    // SAFETY: `cpu` is below the number of bits in the set.
    Ok((0..max).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Binds the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` for a CPU that does not exist or that the process's cpuset does not hold.
pub(crate) fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: as in `affinity`.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    if cpu >= 8 * size_of_val(&set) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: `cpu` is below the number of bits in the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is as long as we say; pid 0 is the calling thread.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A descriptor as glommio's file, the only way it offers to wait for a foreign one. The file
/// closes it.
pub(crate) fn buffered_file(fd: OwnedFd) -> BufferedFile {
    // SAFETY: the descriptor is open, and ours to give away.
    unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn an_eventfd_is_readable_only_after_a_write() {
        let eventfd = eventfd().unwrap();
        assert!(!wait_readable(eventfd.as_fd(), Some(Duration::ZERO)).unwrap());
        (&eventfd).write_all(&1u64.to_ne_bytes()).unwrap();
        assert!(wait_readable(eventfd.as_fd(), None).unwrap());
    }

    #[test]
    fn a_thread_can_be_pinned_within_its_mask_and_nowhere_else() {
        std::thread::spawn(|| {
            let cpu = *affinity().unwrap().last().unwrap();
            pin(cpu).unwrap();
            assert_eq!(affinity().unwrap(), [cpu]);
            assert_eq!(pin(1 << 20).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        })
        .join()
        .unwrap();
    }
}
