//! `DiskRing`: executes storage's disk operations in one data directory, behind one ring.
//!
//! It knows no record and retries nothing: a failed or short write is final for its file, because
//! after one nobody knows what the disk holds (R3). Operations on one file are executed in the
//! order given, one at a time; operations on different files overlap.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::CString;
use std::fmt;
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::{opcode, squeue, types};
use quorate_storage::disk::{
    BLOCK_SIZE, DiskDone, DiskError, DiskOp, DiskOutput, FileId, Listing, OpId, OpenMode,
};
use quorate_wire::Frame;

use super::put;
use super::ring::{Completion, Ring, RingMode};
use crate::runtime::pool::{AlignedBuf, FixedPool};

/// Buffers kept for writes, and their length: together a quarter of the usual 8 MiB limit of
/// locked memory.
const FIXED_COUNT: u16 = 4;
const FIXED_LEN: usize = 512 * 1024;

/// The longest single read or write the kernel executes (MAX_RW_COUNT).
const TRANSFER_MAX: usize = 0x7fff_f000;

/// How long a drop waits for the disk before it gives the memory up.
const DROP_PATIENCE: Duration = Duration::from_secs(10);

/// The settings of a [`DiskRing`].
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The data directory, which must exist.
    pub dir: PathBuf,
    /// Whether files may be opened with `O_DIRECT` when storage asks for it.
    pub direct: bool,
    /// Entries of the submission queue, a power of two; the completion queue has four times as
    /// many.
    pub sq_entries: u32,
    /// The ring's mode; `None` for the best that the kernel offers.
    pub mode: Option<RingMode>,
}

impl DiskConfig {
    /// The defaults for a data directory: direct access, 64 entries.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), direct: true, sq_entries: 64, mode: None }
    }
}

/// The files of a data directory and their sizes, for recovery. Directories are left out.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // Storage's names are ASCII; any other is not ours.
        if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
            listing.push((name, metadata.len()));
        }
    }
    listing.sort();
    Ok(listing)
}

/// The disk of one thread.
#[derive(Debug)]
pub struct DiskRing {
    ring: Ring,
    /// Wrapped so that it can be leaked should the kernel not let go of it.
    memory: mem::ManuallyDrop<Memory>,
    dir: File,
    /// The address of this path is not given to the kernel; it is for messages.
    dir_path: PathBuf,
    files: BTreeMap<FileId, DiskFile>,
    /// False once the file system has refused `O_DIRECT`.
    direct: bool,
    /// Whether the pool's buffers are registered with the ring.
    registered: bool,
    ready: Vec<DiskDone>,
    under_way: usize,
    completions: Vec<Completion>,
}

/// Everything that operations under way point to.
#[derive(Debug)]
struct Memory {
    flights: Vec<Option<Flight>>,
    pool: FixedPool,
    zeros: Rc<AlignedBuf>,
}

#[derive(Debug)]
struct DiskFile {
    path: String,
    file: Option<File>,
    direct: bool,
    queue: VecDeque<DiskOp>,
    busy: bool,
    /// The error after which the file is not used again.
    failed: Option<i32>,
}

/// An operation that the kernel has.
#[derive(Debug)]
struct Flight {
    id: OpId,
    job: Job,
}

#[derive(Debug)]
enum Job {
    Open { file: FileId, path: CString, flags: i32 },
    Write { file: FileId, offset: u64, len: usize, buffer: WriteBuffer },
    Allocate { file: FileId, len: u64 },
    Sync { file: FileId },
    Read { file: FileId, read: Read },
    Rename { from: CString, to: CString },
    Remove { path: CString },
    SyncDir,
}

#[derive(Debug)]
enum WriteBuffer {
    Fixed(u16),
    Own(AlignedBuf),
    Zeros(Rc<AlignedBuf>),
}

/// A read, widened to whole blocks where that is needed.
#[derive(Debug)]
struct Read {
    buffer: AlignedBuf,
    /// Where the buffer begins in the file.
    start: u64,
    filled: usize,
    /// What was asked for, within the buffer.
    skip: usize,
    len: usize,
}

impl DiskRing {
    /// A ring for the calling thread; completions ring `bell`, an eventfd, if there is one.
    ///
    /// # Errors
    /// When the directory cannot be opened or io_uring cannot be used.
    pub fn new(config: DiskConfig, bell: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let dir = File::open(&config.dir)?;
        let (sq, cq) = (config.sq_entries, 4 * config.sq_entries);
        let mut ring = Ring::open(config.mode, sq, cq)?;
        if let Some(bell) = bell {
            ring.register_eventfd(bell)?;
        }
        let pool = FixedPool::new(FIXED_COUNT, FIXED_LEN);
        let registered = register(&ring, &pool);
        let zeros = Rc::new(AlignedBuf::zeroed(BLOCK_SIZE));
        let memory = Memory { flights: Vec::new(), pool, zeros };
        Ok(Self {
            ring,
            memory: mem::ManuallyDrop::new(memory),
            dir,
            dir_path: config.dir,
            files: BTreeMap::new(),
            direct: config.direct,
            registered,
            ready: Vec::new(),
            under_way: 0,
            completions: Vec::new(),
        })
    }

    /// Takes an operation; it begins at the next [`flush`](Self::flush) or when the one before it
    /// on the same file is done.
    pub fn submit(&mut self, op: DiskOp) {
        match op {
            DiskOp::Open { file, ref path, .. } => {
                let opened = DiskFile {
                    path: path.clone(),
                    file: None,
                    direct: false,
                    queue: VecDeque::new(),
                    busy: false,
                    failed: None,
                };
                let before = self.files.insert(file, opened);
                assert!(before.is_none(), "storage never uses a file's handle twice");
                self.enqueue(file, op);
            }
            DiskOp::Write { file, .. }
            | DiskOp::Allocate { file, .. }
            | DiskOp::Sync { file, .. }
            | DiskOp::Read { file, .. }
            | DiskOp::Close { file } => self.enqueue(file, op),
            DiskOp::Rename { id, from, to } => self.rename(id, &from, &to),
            DiskOp::Remove { id, path } => self.remove(id, &path),
            DiskOp::SyncDir { id } => self.sync_dir(id),
        }
    }

    /// Hands everything submitted to the kernel, in one enter.
    ///
    /// # Panics
    /// When the kernel refuses the ring itself, which only a mistake of ours can bring about; a
    /// host turns it into an error.
    pub fn flush(&mut self) {
        self.ring.submit();
    }

    /// Appends what is done. Makes a system call only if the kernel says that it has work to do on
    /// this thread. What this lets begin is handed over at the next [`flush`](Self::flush).
    ///
    /// # Panics
    /// As [`flush`](Self::flush).
    pub fn poll(&mut self, done: &mut Vec<DiskDone>) {
        let mut completions = mem::take(&mut self.completions);
        self.ring.reap(&mut completions, usize::MAX);
        for completion in completions.drain(..) {
            self.handle(completion);
        }
        self.completions = completions;
        done.append(&mut self.ready);
    }

    /// Flushes, then sleeps until something is done or `timeout` has passed (`None`: for ever,
    /// unless nothing is pending). For a thread that waits for nothing else.
    ///
    /// # Panics
    /// As [`flush`](Self::flush).
    pub fn wait(&mut self, timeout: Option<Duration>) {
        if !self.ready.is_empty() || (self.under_way == 0 && timeout.is_none()) {
            self.flush();
        } else {
            self.ring.wait(timeout);
        }
    }

    /// Operations submitted and not reported yet, without those that have no outcome.
    pub fn pending(&self) -> usize {
        let queued = self.files.values().flat_map(|file| &file.queue);
        let queued = queued.filter(|op| op.id().is_some()).count();
        self.under_way + queued + self.ready.len()
    }

    /// Whether the thread may wait for the bell; asked after the bell is armed, as its last look.
    pub fn may_sleep(&self) -> bool {
        self.ready.is_empty() && self.ring.may_sleep()
    }

    /// Whether files are opened with `O_DIRECT` when storage asks for it.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    // Operations on an open file.

    fn enqueue(&mut self, id: FileId, op: DiskOp) {
        if let Some(file) = self.files.get_mut(&id) {
            file.queue.push_back(op);
            self.start_next(id);
        } else if let Some(op) = op.id() {
            let what = format!("file {}", id.0);
            self.report(op, Err(DiskError { what, errno: libc::EBADF }));
        }
    }

    /// Begins the file's next operation if none is under way.
    fn start_next(&mut self, id: FileId) {
        while let Some(file) = self.files.get_mut(&id) {
            if file.busy {
                return;
            }
            let Some(op) = file.queue.pop_front() else { return };
            // Only closing has no outcome.
            let Some(op_id) = op.id() else {
                self.files.remove(&id);
                return;
            };
            let started = match file.failed {
                None => self.start(op),
                Some(errno) => {
                    let what = format!("{} (failed before)", file.path);
                    Err(DiskError { what, errno })
                }
            };
            if let Err(error) = started {
                self.report(op_id, Err(error));
            }
        }
    }

    fn start(&mut self, op: DiskOp) -> Result<(), DiskError> {
        match op {
            DiskOp::Open { id, file, path, mode, direct } => {
                let path = relative(&path).ok_or_else(|| invalid(format!("open {path}")))?;
                let direct = if direct && self.direct { libc::O_DIRECT } else { 0 };
                self.open(id, file, path, open_flags(mode) | libc::O_CLOEXEC | direct);
            }
            DiskOp::Write { id, file, offset, parts, len, sync } => {
                let aligned =
                    offset.is_multiple_of(BLOCK_SIZE as u64) && len.is_multiple_of(BLOCK_SIZE);
                let total: usize = parts.iter().map(|part| part.len()).sum();
                let direct = self.files[&file].direct;
                if len == 0 || len > TRANSFER_MAX || total > len || (direct && !aligned) {
                    return Err(invalid(format!("write {len} bytes at {offset}, {total} given")));
                }
                let buffer = self.gather(&parts, len);
                self.write(id, file, offset, len, sync, buffer);
            }
            DiskOp::Allocate { id, file, len } => {
                let entry = opcode::Fallocate::new(self.fd(file), len).build();
                // SAFETY: points to nothing.
                unsafe { self.fly_file(id, Job::Allocate { file, len }, entry) };
            }
            DiskOp::Sync { id, file } => {
                let flags = types::FsyncFlags::DATASYNC;
                let entry = opcode::Fsync::new(self.fd(file)).flags(flags).build();
                // SAFETY: points to nothing.
                unsafe { self.fly_file(id, Job::Sync { file }, entry) };
            }
            DiskOp::Read { id, file, offset, len } => {
                let read = Read::new(offset, len as usize, self.files[&file].direct);
                self.read(id, file, read);
            }
            DiskOp::Close { .. }
            | DiskOp::Rename { .. }
            | DiskOp::Remove { .. }
            | DiskOp::SyncDir { .. } => unreachable!("not queued on a file, or taken before"),
        }
        Ok(())
    }

    fn fd(&self, id: FileId) -> types::Fd {
        let file = self.files.get(&id).and_then(|file| file.file.as_ref());
        types::Fd(file.expect("opened before anything else, or failed").as_raw_fd())
    }

    fn open(&mut self, id: OpId, file: FileId, path: CString, flags: i32) {
        self.files.get_mut(&file).expect("being opened").direct = flags & libc::O_DIRECT != 0;
        let entry = opcode::OpenAt::new(types::Fd(self.dir.as_raw_fd()), path.as_ptr())
            .flags(flags)
            .mode(0o640)
            .build();
        // SAFETY: the path's bytes are on the heap and stay in the job.
        unsafe { self.fly_file(id, Job::Open { file, path, flags }, entry) };
    }

    /// Lays the parts into an aligned buffer and pads them with zeros.
    fn gather(&mut self, parts: &[Frame], len: usize) -> WriteBuffer {
        let memory = &mut *self.memory;
        if parts.iter().all(|part| part.is_empty()) {
            if memory.zeros.len() < len {
                memory.zeros = Rc::new(AlignedBuf::zeroed(len));
            }
            return WriteBuffer::Zeros(Rc::clone(&memory.zeros));
        }
        match memory.pool.take(len) {
            Some(index) => {
                let end = copy_parts(parts, memory.pool.buffer(index));
                memory.pool.buffer(index)[end..len].fill(0);
                WriteBuffer::Fixed(index)
            }
            None => {
                let mut own = AlignedBuf::zeroed(len);
                copy_parts(parts, &mut own);
                WriteBuffer::Own(own)
            }
        }
    }

    fn write(
        &mut self,
        id: OpId,
        file: FileId,
        offset: u64,
        len: usize,
        sync: bool,
        buffer: WriteBuffer,
    ) {
        let fd = self.fd(file);
        let flags = if sync { libc::RWF_DSYNC } else { 0 };
        let count = u32::try_from(len).expect("at most TRANSFER_MAX");
        let start = match &buffer {
            WriteBuffer::Fixed(index) => self.memory.pool.buffer(*index).address(),
            WriteBuffer::Own(own) => own.address(),
            WriteBuffer::Zeros(zeros) => zeros.address(),
        };
        let entry = match &buffer {
            WriteBuffer::Fixed(index) if self.registered => {
                opcode::WriteFixed::new(fd, start, count, *index)
                    .offset(offset)
                    .rw_flags(flags)
                    .build()
            }
            _ => opcode::Write::new(fd, start, count).offset(offset).rw_flags(flags).build(),
        };
        // SAFETY: the buffer holds `len` bytes at an address that does not change; it stays in the
        // job, or taken from the pool, until the write is done.
        unsafe { self.fly_file(id, Job::Write { file, offset, len, buffer }, entry) };
    }

    fn read(&mut self, id: OpId, file: FileId, read: Read) {
        let rest = (read.buffer.len() - read.filled).min(TRANSFER_MAX);
        let start = read.buffer.address().wrapping_add(read.filled);
        let count = u32::try_from(rest).expect("at most TRANSFER_MAX");
        let entry = opcode::Read::new(self.fd(file), start, count)
            .offset(read.start + read.filled as u64)
            .build();
        // SAFETY: the rest of the buffer, which stays in the job.
        unsafe { self.fly_file(id, Job::Read { file, read }, entry) };
    }

    // Operations on names.

    fn rename(&mut self, id: OpId, from: &str, to: &str) {
        let (Some(from), Some(to)) = (relative(from), relative(to)) else {
            return self.report(id, Err(invalid(format!("rename {from} to {to}"))));
        };
        let dir = types::Fd(self.dir.as_raw_fd());
        let entry = opcode::RenameAt::new(dir, from.as_ptr(), dir, to.as_ptr()).build();
        // SAFETY: the paths' bytes are on the heap and stay in the job.
        unsafe { self.fly(id, Job::Rename { from, to }, entry) };
    }

    fn remove(&mut self, id: OpId, path: &str) {
        let Some(path) = relative(path) else {
            return self.report(id, Err(invalid(format!("remove {path}"))));
        };
        let dir = types::Fd(self.dir.as_raw_fd());
        let entry = opcode::UnlinkAt::new(dir, path.as_ptr()).build();
        // SAFETY: the path's bytes are on the heap and stay in the job.
        unsafe { self.fly(id, Job::Remove { path }, entry) };
    }

    fn sync_dir(&mut self, id: OpId) {
        let entry = opcode::Fsync::new(types::Fd(self.dir.as_raw_fd())).build();
        // SAFETY: points to nothing.
        unsafe { self.fly(id, Job::SyncDir, entry) };
    }

    // Under way and done.

    /// # Safety
    /// As [`Ring::push`]; what the entry points to must be owned by the job.
    unsafe fn fly_file(&mut self, id: OpId, job: Job, entry: squeue::Entry) {
        if let Some(file) = job.file().and_then(|file| self.files.get_mut(&file)) {
            file.busy = true;
        }
        // SAFETY: the caller's promise.
        unsafe { self.fly(id, job, entry) }
    }

    /// # Safety
    /// As `fly_file`.
    unsafe fn fly(&mut self, id: OpId, job: Job, entry: squeue::Entry) {
        let index = put(&mut self.memory.flights, Flight { id, job });
        self.under_way += 1;
        // SAFETY: the caller's promise; a flight is dropped only when its completion is handled.
        unsafe { self.ring.push(entry.user_data(index as u64)) };
    }

    fn handle(&mut self, completion: Completion) {
        let Flight { id, job } = usize::try_from(completion.user_data)
            .ok()
            .and_then(|index| self.memory.flights.get_mut(index))
            .and_then(Option::take)
            .expect("every completion is of an operation under way");
        self.under_way -= 1;
        let result = match completion.result {
            errno @ ..0 => Err(-errno),
            count => Ok(count.cast_unsigned()),
        };
        let file = job.file();
        if let Some(file) = file.and_then(|file| self.files.get_mut(&file)) {
            file.busy = false;
        }
        self.land(id, job, result);
        if let Some(file) = file {
            self.start_next(file);
        }
    }

    /// Reports the outcome, or begins the operation's next step.
    fn land(&mut self, id: OpId, job: Job, result: Result<u32, i32>) {
        match job {
            Job::Open { file, path, flags } => self.land_open(id, file, path, flags, result),
            Job::Write { file, offset, len, buffer } => {
                if let WriteBuffer::Fixed(index) = buffer {
                    self.memory.pool.give_back(index);
                }
                let result = match result {
                    // A short write of a regular file: the disk is full or failing.
                    Ok(count) if count as usize != len => Err(libc::EIO),
                    result => result,
                };
                self.land_final(id, file, result, format_args!("write {len} bytes at {offset} of"));
            }
            Job::Sync { file } => self.land_final(id, file, result, format_args!("sync")),
            Job::Allocate { file, len } => {
                let result = self.land_allocate(file, len, result);
                self.report_about(id, file, result, format_args!("allocate {len} bytes of"));
            }
            Job::Read { file, read } => self.land_read(id, file, read, result),
            Job::Rename { from, to } => {
                self.report(id, outcome(result, format_args!("rename {from:?} to {to:?}")));
            }
            Job::Remove { path } => {
                let result = if result == Err(libc::ENOENT) { Ok(0) } else { result };
                self.report(id, outcome(result, format_args!("remove {path:?}")));
            }
            Job::SyncDir => {
                let dir_path = &self.dir_path;
                self.report(id, outcome(result, format_args!("sync directory {dir_path:?}")));
            }
        }
    }

    fn land_open(
        &mut self,
        id: OpId,
        file: FileId,
        path: CString,
        flags: i32,
        result: Result<u32, i32>,
    ) {
        match result {
            Ok(fd) => {
                // SAFETY: the kernel just gave us this descriptor and nobody else knows it.
                let fd = unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) };
                if let Some(opened) = self.files.get_mut(&file) {
                    opened.file = Some(File::from(fd));
                }
                self.report(id, Ok(DiskOutput::Done));
            }
            Err(libc::EINVAL) if flags & libc::O_DIRECT != 0 => {
                tracing::warn!(dir = ?self.dir_path, "the file system refuses unbuffered access");
                self.direct = false;
                // The kernel creates the file before it asks whether O_DIRECT is possible.
                self.open(id, file, path, flags & !(libc::O_DIRECT | libc::O_EXCL));
            }
            Err(_) => self.land_final(id, file, result, format_args!("open")),
        }
    }

    /// An outcome after which, if bad, the file is not used again.
    fn land_final(
        &mut self,
        id: OpId,
        file: FileId,
        result: Result<u32, i32>,
        what: fmt::Arguments<'_>,
    ) {
        if let (Err(errno), Some(file)) = (result, self.files.get_mut(&file)) {
            file.failed = Some(errno);
        }
        self.report_about(id, file, result, what);
    }

    /// A file system that cannot reserve space is no failure, but the length must be as asked.
    fn land_allocate(&self, file: FileId, len: u64, result: Result<u32, i32>) -> Result<u32, i32> {
        match result {
            Err(libc::EOPNOTSUPP | libc::ENOSYS) | Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let file = self.files.get(&file).and_then(|file| file.file.as_ref());
        let set = file.map_or(Ok(()), |file| match file.metadata()?.len() == len {
            true => Ok(()),
            false => file.set_len(len),
        });
        set.map(|()| 0).map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    fn land_read(&mut self, id: OpId, file: FileId, mut read: Read, result: Result<u32, i32>) {
        match result {
            Ok(count) => {
                read.filled += count as usize;
                if count > 0 && read.may_go_on() {
                    self.read(id, file, read);
                } else {
                    self.report(id, Ok(DiskOutput::Bytes(read.into_frame())));
                }
            }
            Err(libc::EINTR) => self.read(id, file, read),
            Err(_) => {
                let (len, at) = (read.len, read.start + read.skip as u64);
                self.report_about(id, file, result, format_args!("read {len} bytes at {at} of"));
            }
        }
    }

    /// Reports an outcome; behind `what` comes the file's path.
    fn report_about(
        &mut self,
        id: OpId,
        file: FileId,
        result: Result<u32, i32>,
        what: fmt::Arguments<'_>,
    ) {
        let path = self.files.get(&file).map_or("", |file| &file.path);
        self.report(id, outcome(result, format_args!("{what} {path}")));
    }

    fn report(&mut self, id: OpId, result: Result<DiskOutput, DiskError>) {
        self.ready.push(DiskDone { id, result });
    }
}

impl Drop for DiskRing {
    fn drop(&mut self) {
        // What is queued and not begun is dropped, as in a crash.
        self.files.values_mut().for_each(|file| file.queue.clear());
        let deadline = Instant::now() + DROP_PATIENCE;
        let mut done = Vec::new();
        while self.under_way > 0 && Instant::now() < deadline {
            self.ring.wait(Some(Duration::from_millis(100)));
            self.poll(&mut done);
        }
        if self.under_way == 0 {
            // SAFETY: dropped here and nowhere else, and not used after.
            unsafe { mem::ManuallyDrop::drop(&mut self.memory) };
        } else {
            // Freed memory that the kernel still reads or writes would be somebody else's.
            tracing::error!("a disk operation does not end; its memory is kept");
        }
    }
}

impl Job {
    /// The open file that it is about.
    fn file(&self) -> Option<FileId> {
        match self {
            Self::Open { file, .. }
            | Self::Write { file, .. }
            | Self::Allocate { file, .. }
            | Self::Sync { file }
            | Self::Read { file, .. } => Some(*file),
            Self::Rename { .. } | Self::Remove { .. } | Self::SyncDir => None,
        }
    }
}

impl Read {
    fn new(offset: u64, len: usize, direct: bool) -> Self {
        let block = BLOCK_SIZE as u64;
        let start = if direct { offset - offset % block } else { offset };
        let skip = usize::try_from(offset - start).expect("less than a block");
        let whole = if direct { (skip + len).next_multiple_of(BLOCK_SIZE) } else { skip + len };
        Self { buffer: AlignedBuf::zeroed(whole.max(1)), start, filled: 0, skip, len }
    }

    /// Whether a short read may be continued: not when full, and not from within a block, which
    /// only the end of a file leaves behind in direct access.
    fn may_go_on(&self) -> bool {
        self.filled < self.skip + self.len
            && (!self.buffer.len().is_multiple_of(BLOCK_SIZE)
                || self.filled.is_multiple_of(BLOCK_SIZE))
    }

    fn into_frame(self) -> Frame {
        let end = self.filled.clamp(self.skip, self.skip + self.len);
        Frame::from(Bytes::from_owner(self.buffer).slice(self.skip..end))
    }
}

/// Copies the parts to the beginning of the buffer, tells where they end.
pub(crate) fn copy_parts(parts: &[Frame], buffer: &mut [u8]) -> usize {
    let mut end = 0;
    for part in parts {
        buffer[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    end
}

/// The error of an operation that storage may not ask for.
fn invalid(what: String) -> DiskError {
    DiskError { what, errno: libc::EINVAL }
}

/// An outcome as it is reported; `what` is made a text only if it is an error.
fn outcome(result: Result<u32, i32>, what: fmt::Arguments<'_>) -> Result<DiskOutput, DiskError> {
    match result {
        Ok(_) => Ok(DiskOutput::Done),
        Err(errno) => Err(DiskError { what: what.to_string(), errno }),
    }
}

const fn open_flags(mode: OpenMode) -> i32 {
    match mode {
        OpenMode::Read => libc::O_RDONLY,
        OpenMode::Write => libc::O_RDWR,
        OpenMode::CreateNew => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
    }
}

/// A path within the data directory, for the kernel; `None` if it leads out of it.
fn relative(path: &str) -> Option<CString> {
    let inside = !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|p| p == "..");
    if inside { CString::new(path).ok() } else { None }
}

/// Registers the pool's buffers, so that the kernel need not pin their pages for each write. When
/// locked memory is short, writes go without.
fn register(ring: &Ring, pool: &FixedPool) -> bool {
    let pieces: Vec<libc::iovec> = pool
        .buffers()
        .iter()
        .map(|buffer| libc::iovec { iov_base: buffer.address().cast(), iov_len: buffer.len() })
        .collect();
    // SAFETY: the buffers belong to the pool, which outlives the ring's operations; registered
    // pages stay the kernel's until the ring is closed, whatever we do with ours.
    match unsafe { ring.submitter().register_buffers(&pieces) } {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "write buffers are not registered: raise ulimit -l");
            false
        }
    }
}
