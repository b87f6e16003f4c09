//! `DiskRing` over real files.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate::runtime::uring::RingMode;
use quorate::runtime::uring::disk::{DiskConfig, DiskRing, list};
use quorate_storage::disk::{
    BLOCK_SIZE, DiskDone, DiskError, DiskOp, DiskOutput, FileId, OpId, OpenMode,
};
use quorate_wire::Frame;
use tempfile::TempDir;

/// Longer than anything here takes, so that a lost completion fails the test.
const PATIENCE: Duration = Duration::from_secs(30);
const FILE: FileId = FileId(1);

struct Disk {
    ring: DiskRing,
    next: u64,
}

impl Disk {
    fn new(dir: &Path) -> Self {
        Self::with(DiskConfig::new(dir))
    }

    fn with(config: DiskConfig) -> Self {
        Self { ring: DiskRing::new(config, None).unwrap(), next: 0 }
    }

    fn submit(&mut self, op: impl FnOnce(OpId) -> DiskOp) -> OpId {
        let id = OpId(self.next);
        self.next += 1;
        self.ring.submit(op(id));
        id
    }

    /// Waits until nothing is pending.
    fn settle(&mut self) -> Vec<DiskDone> {
        let until = Instant::now() + PATIENCE;
        let mut done = Vec::new();
        self.ring.poll(&mut done);
        while self.ring.pending() > 0 {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} operations are pending still", self.ring.pending());
            self.ring.wait(Some(left));
            self.ring.poll(&mut done);
        }
        done
    }

    fn run(&mut self, op: impl FnOnce(OpId) -> DiskOp) -> Result<DiskOutput, DiskError> {
        let id = self.submit(op);
        let mut done = self.settle();
        assert_eq!(done.len(), 1);
        let done = done.remove(0);
        assert_eq!(done.id, id);
        done.result
    }
}

fn open(file: FileId, path: &str, mode: OpenMode, direct: bool) -> impl FnOnce(OpId) -> DiskOp {
    let path = path.to_owned();
    move |id| DiskOp::Open { id, file, path, mode, direct }
}

fn write(
    file: FileId,
    offset: u64,
    parts: &[&[u8]],
    len: usize,
    sync: bool,
) -> impl FnOnce(OpId) -> DiskOp {
    let parts = parts.iter().map(|part| Frame::copy_from(part)).collect();
    move |id| DiskOp::Write { id, file, offset, parts, len, sync }
}

fn read(file: FileId, offset: u64, len: u32) -> impl FnOnce(OpId) -> DiskOp {
    move |id| DiskOp::Read { id, file, offset, len }
}

fn bytes(result: Result<DiskOutput, DiskError>) -> Vec<u8> {
    match result {
        Ok(DiskOutput::Bytes(frame)) => frame.to_vec(),
        other => panic!("expected bytes: {other:?}"),
    }
}

fn errno(result: Result<DiskOutput, DiskError>) -> i32 {
    match result {
        Err(error) => error.errno,
        other => panic!("expected an error: {other:?}"),
    }
}

const DONE: Result<DiskOutput, DiskError> = Ok(DiskOutput::Done);

#[test]
fn what_is_written_is_read_back_in_every_mode_and_either_access() {
    for mode in [RingMode::Deferred, RingMode::Cooperative, RingMode::Plain] {
        for direct in [true, false] {
            let dir = TempDir::new().unwrap();
            let mut disk =
                Disk::with(DiskConfig { direct, mode: Some(mode), ..DiskConfig::new(dir.path()) });
            assert_eq!(disk.run(open(FILE, "log.1", OpenMode::CreateNew, true)), DONE);
            let parts: [&[u8]; 3] = [&[1; 100], &[2; 5000], &[]];
            assert_eq!(disk.run(write(FILE, 0, &parts, 2 * BLOCK_SIZE, true)), DONE);
            let expected = [vec![1; 100], vec![2; 5000], vec![0; 3092]].concat();
            assert!(bytes(disk.run(read(FILE, 0, 8192))) == expected);
            assert!(fs::read(dir.path().join("log.1")).unwrap() == expected);
            // Within a block, over a block's end, over the file's end, behind it.
            assert!(bytes(disk.run(read(FILE, 99, 2))) == [1, 2]);
            assert!(bytes(disk.run(read(FILE, 4000, 200))) == expected[4000..4200]);
            assert!(bytes(disk.run(read(FILE, 8100, 500))) == expected[8100..]);
            assert!(bytes(disk.run(read(FILE, 9000, 10))).is_empty());
            assert!(bytes(disk.run(read(FILE, 1 << 20, 10))).is_empty());
            assert!(bytes(disk.run(read(FILE, 5, 0))).is_empty());
        }
    }
}

#[test]
fn writes_longer_than_the_pool_s_buffers_and_many_at_once_are_whole() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    for file in 0..8 {
        disk.submit(open(FileId(file), &format!("f{file}"), OpenMode::CreateNew, true));
        for index in 0..10u64 {
            let len = [BLOCK_SIZE, 512 * 1024, 3 << 20][index as usize % 3];
            let fill = vec![(file * 10 + index) as u8; len - 10];
            disk.submit(write(FileId(file), index * (4 << 20), &[&fill], len, index % 2 == 0));
        }
    }
    let done = disk.settle();
    assert_eq!(done.len(), 88);
    assert!(done.iter().all(|done| done.result == DONE), "{done:?}");
    for file in 0..8 {
        let content = fs::read(dir.path().join(format!("f{file}"))).unwrap();
        for index in 0..10u64 {
            let len = [BLOCK_SIZE, 512 * 1024, 3 << 20][index as usize % 3];
            let start = index as usize * (4 << 20);
            let (fill, pad) = content[start..start + len].split_at(len - 10);
            assert!(fill.iter().all(|&byte| byte == (file * 10 + index) as u8));
            assert!(pad.iter().all(|&byte| byte == 0), "padding of a used buffer is zero");
        }
    }
}

#[test]
fn operations_on_one_file_happen_in_the_order_given() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    let mut ids = vec![disk.submit(open(FILE, "f", OpenMode::CreateNew, true))];
    for round in 0..50u8 {
        ids.push(disk.submit(write(FILE, 0, &[&[round; 4096]], BLOCK_SIZE, false)));
        ids.push(disk.submit(read(FILE, 0, 1)));
    }
    disk.ring.submit(DiskOp::Close { file: FILE });
    let done = disk.settle();
    assert!(done.iter().map(|done| done.id).eq(ids));
    let read: Vec<_> = done
        .into_iter()
        .filter(|done| matches!(done.result, Ok(DiskOutput::Bytes(_))))
        .flat_map(|done| bytes(done.result))
        .collect();
    assert!(read.into_iter().eq(0..50));
}

#[test]
fn a_closed_file_takes_no_more_and_its_name_can_be_opened_again() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    disk.submit(open(FILE, "f", OpenMode::CreateNew, true));
    disk.submit(write(FILE, 0, &[&[5; 10]], BLOCK_SIZE, true));
    disk.ring.submit(DiskOp::Close { file: FILE });
    disk.settle();
    assert_eq!(errno(disk.run(read(FILE, 0, 1))), libc::EBADF);
    assert_eq!(disk.run(open(FileId(2), "f", OpenMode::Read, true)), DONE);
    assert!(bytes(disk.run(read(FileId(2), 9, 2))) == [5, 0]);
    let error = disk.run(open(FileId(3), "f", OpenMode::CreateNew, true));
    assert_eq!(errno(error), libc::EEXIST);
}

#[test]
fn after_a_failed_write_the_file_is_not_used_again() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    fs::write(dir.path().join("f"), [7; 4096]).unwrap();
    disk.submit(open(FILE, "f", OpenMode::Read, false));
    let failed = disk.submit(write(FILE, 0, &[&[1]], BLOCK_SIZE, true));
    disk.submit(read(FILE, 0, 1));
    disk.submit(|id| DiskOp::Sync { id, file: FILE });
    let done = disk.settle();
    assert_eq!(done[0].result, DONE);
    assert_eq!(done[1].id, failed);
    for done in &done[1..] {
        let error = done.result.clone().unwrap_err();
        assert_eq!(error.errno, libc::EBADF);
        assert!(error.what.contains('f'), "{}", error.what);
    }
    disk.ring.submit(DiskOp::Close { file: FILE });
    assert_eq!(disk.ring.pending(), 0);
}

#[test]
fn a_missing_file_fails_its_opening_and_what_was_queued_behind() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    disk.submit(open(FILE, "missing", OpenMode::Write, true));
    disk.submit(read(FILE, 0, 10));
    let done = disk.settle();
    assert_eq!(done.len(), 2);
    for done in done {
        let error = done.result.unwrap_err();
        assert_eq!(error.errno, libc::ENOENT);
        assert!(error.what.contains("missing"), "{}", error.what);
    }
}

#[test]
fn writes_that_storage_may_not_ask_for_are_refused() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    disk.run(open(FILE, "f", OpenMode::CreateNew, true)).unwrap();
    assert!(disk.ring.is_direct(), "the file system of this test offers O_DIRECT");
    let too_long: &[u8] = &[0; 5000];
    for op in [
        write(FILE, 1, &[], BLOCK_SIZE, false),
        write(FILE, 0, &[], 100, false),
        write(FILE, 0, &[too_long], BLOCK_SIZE, false),
    ] {
        assert_eq!(errno(disk.run(op)), libc::EINVAL);
    }
    assert_eq!(disk.run(write(FILE, 0, &[&[1]], BLOCK_SIZE, true)), DONE);
}

#[test]
fn zeros_are_written_and_a_reserved_file_has_its_length() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    disk.run(open(FILE, "spare", OpenMode::CreateNew, true)).unwrap();
    let len = 4 << 20;
    assert_eq!(disk.run(|id| DiskOp::Allocate { id, file: FILE, len }), DONE);
    assert_eq!(fs::metadata(dir.path().join("spare")).unwrap().len(), len);
    assert_eq!(disk.run(write(FILE, 0, &[&[9; 4096]], BLOCK_SIZE, false)), DONE);
    for step in 0..32u64 {
        disk.submit(write(FILE, step * (128 << 10), &[], 128 << 10, false));
    }
    assert!(disk.settle().iter().all(|done| done.result == DONE));
    assert_eq!(disk.run(|id| DiskOp::Sync { id, file: FILE }), DONE);
    let content = fs::read(dir.path().join("spare")).unwrap();
    assert!(content.len() as u64 == len && content.iter().all(|&byte| byte == 0));
    assert_eq!(disk.run(|id| DiskOp::Allocate { id, file: FILE, len: 4096 }), DONE);
    assert_eq!(fs::metadata(dir.path().join("spare")).unwrap().len(), 4096);
}

#[test]
fn names_are_changed_and_removed_and_the_directory_synced() {
    let dir = TempDir::new().unwrap();
    fs::create_dir(dir.path().join("inner")).unwrap();
    let mut disk = Disk::new(dir.path());
    fs::write(dir.path().join("old"), b"new content").unwrap();
    fs::write(dir.path().join("inner/name"), b"replaced").unwrap();
    let rename = |id| DiskOp::Rename { id, from: "old".into(), to: "inner/name".into() };
    assert_eq!(disk.run(rename), DONE);
    assert_eq!(fs::read(dir.path().join("inner/name")).unwrap(), b"new content");
    assert_eq!(errno(disk.run(rename)), libc::ENOENT);
    assert_eq!(disk.run(|id| DiskOp::SyncDir { id }), DONE);
    let remove = |id| DiskOp::Remove { id, path: "inner/name".into() };
    assert_eq!(disk.run(remove), DONE);
    assert!(!dir.path().join("inner/name").exists());
    assert_eq!(disk.run(remove), DONE, "one that is not there is no failure");
}

#[test]
fn a_path_out_of_the_data_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    for (file, path) in (10..).zip(["/etc/passwd", "../x", "a/../../x", "", "nul\0"]) {
        let opened = disk.run(open(FileId(file), path, OpenMode::Read, false));
        assert_eq!(errno(opened), libc::EINVAL, "{path:?}");
        let removed = disk.run(|id| DiskOp::Remove { id, path: path.into() });
        assert_eq!(errno(removed), libc::EINVAL, "{path:?}");
    }
}

#[test]
fn a_dropped_ring_waits_for_what_the_kernel_has() {
    let dir = TempDir::new().unwrap();
    let mut disk = Disk::new(dir.path());
    disk.run(open(FILE, "f", OpenMode::CreateNew, true)).unwrap();
    disk.submit(write(FILE, 0, &[&[3; 4096]], BLOCK_SIZE, true));
    disk.ring.flush();
    drop(disk);
    assert!(fs::read(dir.path().join("f")).unwrap() == [3; 4096]);
}

#[test]
fn the_listing_holds_files_with_their_sizes_and_no_directories() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("b"), b"12").unwrap();
    fs::write(dir.path().join("a"), b"").unwrap();
    fs::create_dir(dir.path().join("inner")).unwrap();
    assert_eq!(list(dir.path()).unwrap(), [("a".to_owned(), 0), ("b".to_owned(), 2)]);
}
