//! A disk in memory that completes one operation at a time and can lose its power at any of them,
//! and a store on it. Does not judge what a store should give: the tests do.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};

use quorate_proto::{Durable, Epoch, ServerId, Zxid};
use quorate_storage::disk::{BLOCK_SIZE, DiskError, DiskOutput, FileId, OpenMode};
use quorate_storage::{DiskDone, DiskOp, Recovered, Store, StoreConfig, StoreEvent};
use quorate_wire::Frame;
use quorate_wire::native::proposal::ProposalEncoder;

pub(crate) const SECTOR: usize = 512;

/// A small generator of numbers that look random (xorshift), so that a seed names a run.
#[derive(Clone, Debug)]
pub(crate) struct Prng(u64);

impl Prng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a reader sees.
    data: Vec<u8>,
    /// What a power cut leaves for sure.
    durable: Vec<u8>,
    /// Writes since, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl Inode {
    fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
        if bytes.len() < offset + written.len() {
            bytes.resize(offset + written.len(), 0);
        }
        bytes[offset..offset + written.len()].copy_from_slice(written);
    }

    /// What was written here before cannot come back any more.
    fn settle(&mut self, offset: usize, synced: &[u8]) {
        for (at, old) in &mut self.unsynced {
            let start = offset.max(*at);
            let end = (offset + synced.len()).min(*at + old.len());
            if start < end {
                old[start - *at..end - *at].copy_from_slice(&synced[start - offset..end - offset]);
            }
        }
    }

    /// What is left of it: each sector written since the last sync is old or new.
    fn cut(&self, prng: &mut Prng) -> Vec<u8> {
        let mut image = self.durable.clone();
        for (offset, bytes) in &self.unsynced {
            // Whole, lost, or any subset of sectors.
            let style = prng.below(3);
            for (at, sector) in bytes.chunks(SECTOR).enumerate() {
                if style == 0 || (style == 1 && prng.below(2) == 0) {
                    Self::put(&mut image, offset + at * SECTOR, sector);
                }
            }
        }
        image
    }
}

#[derive(Clone, Debug)]
enum DirChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

fn change_dir(dir: &mut BTreeMap<String, usize>, change: &DirChange) {
    match change {
        DirChange::Create(path, inode) => {
            dir.insert(path.clone(), *inode);
        }
        DirChange::Rename(from, to) => {
            if let Some(inode) = dir.remove(from) {
                dir.insert(to.clone(), inode);
            }
        }
        DirChange::Remove(path) => {
            dir.remove(path);
        }
    }
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDisk {
    inodes: Vec<Inode>,
    dir: BTreeMap<String, usize>,
    durable_dir: BTreeMap<String, usize>,
    dir_changes: Vec<DirChange>,
    open: BTreeMap<FileId, usize>,
    queue: VecDeque<DiskOp>,
    /// Fails the operation for which this says so.
    pub(crate) refuse: Option<fn(&DiskOp) -> bool>,
    /// Keeps the operations for which this says so from being done.
    pub(crate) hold: Option<fn(&DiskOp) -> bool>,
    /// How many operations were done.
    pub(crate) done: usize,
    /// The largest write that was seen, in bytes.
    pub(crate) write_max: usize,
    /// How many writes of zeros only were seen.
    pub(crate) fills: usize,
}

fn file_of(op: &DiskOp) -> Option<FileId> {
    match op {
        DiskOp::Open { file, .. }
        | DiskOp::Close { file }
        | DiskOp::Write { file, .. }
        | DiskOp::Allocate { file, .. }
        | DiskOp::Sync { file, .. }
        | DiskOp::Read { file, .. } => Some(*file),
        DiskOp::Rename { .. } | DiskOp::Remove { .. } | DiskOp::SyncDir { .. } => None,
    }
}

fn written(parts: &[Frame], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
    assert!(bytes.len() <= len, "more parts than length");
    bytes.resize(len, 0);
    bytes
}

impl FakeDisk {
    pub(crate) fn submit(&mut self, op: DiskOp) {
        self.queue.push_back(op);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The waiting operations.
    pub(crate) fn queue(&self) -> impl Iterator<Item = &DiskOp> {
        self.queue.iter()
    }

    /// Does one operation, which one `prng` says; order is kept on each file only.
    pub(crate) fn step(&mut self, prng: Option<&mut Prng>) -> Option<DiskDone> {
        if self.queue.is_empty() {
            return None;
        }
        let mut at = prng.map_or(0, |prng| prng.below(self.queue.len()));
        let file = file_of(&self.queue[at]);
        if file.is_some() {
            at = self.queue.iter().position(|op| file_of(op) == file).expect("it is there");
        }
        if let Some(hold) = self.hold {
            at = self.queue.iter().position(|op| !hold(op))?;
        }
        let op = self.queue.remove(at).expect("it is there");
        self.done += 1;
        self.execute(op)
    }

    fn execute(&mut self, op: DiskOp) -> Option<DiskDone> {
        let id = op.id();
        if self.refuse.is_some_and(|refuse| refuse(&op)) {
            let error = DiskError { what: "refused".to_string(), errno: 28 };
            return id.map(|id| DiskDone { id, result: Err(error) });
        }
        let mut output = DiskOutput::Done;
        match op {
            DiskOp::Open { file, path, mode, .. } => {
                let found = self.dir.get(&path).copied();
                let inode = match mode {
                    OpenMode::CreateNew => {
                        assert!(found.is_none(), "{path} is there already");
                        self.inodes.push(Inode::default());
                        let inode = self.inodes.len() - 1;
                        self.change(DirChange::Create(path, inode));
                        inode
                    }
                    OpenMode::Read | OpenMode::Write => {
                        found.unwrap_or_else(|| panic!("{path} is not there"))
                    }
                };
                assert!(self.open.insert(file, inode).is_none(), "a handle is used again");
            }
            DiskOp::Close { file } => {
                assert!(self.open.remove(&file).is_some(), "closed twice");
            }
            DiskOp::Write { file, offset, parts, len, sync, .. } => {
                assert!(offset.is_multiple_of(BLOCK_SIZE as u64) && len.is_multiple_of(BLOCK_SIZE));
                self.write_max = self.write_max.max(len);
                self.fills += usize::from(parts.is_empty());
                let bytes = written(&parts, len);
                let inode = &mut self.inodes[self.open[&file]];
                Inode::put(&mut inode.data, offset as usize, &bytes);
                if sync {
                    let len = inode.data.len().max(inode.durable.len());
                    inode.durable.resize(len, 0);
                    Inode::put(&mut inode.durable, offset as usize, &bytes);
                    inode.settle(offset as usize, &bytes);
                } else {
                    inode.unsynced.push((offset as usize, bytes));
                }
            }
            DiskOp::Allocate { file, len, .. } => {
                let inode = &mut self.inodes[self.open[&file]];
                inode.data.resize(len as usize, 0);
            }
            DiskOp::Sync { file, .. } => {
                let inode = &mut self.inodes[self.open[&file]];
                inode.durable = inode.data.clone();
                inode.unsynced.clear();
            }
            DiskOp::Read { file, offset, len, .. } => {
                assert!(offset.is_multiple_of(BLOCK_SIZE as u64), "a direct read is aligned");
                assert!(len.is_multiple_of(BLOCK_SIZE as u32), "a direct read is aligned");
                let data = &self.inodes[self.open[&file]].data;
                let start = data.len().min(offset as usize);
                let end = data.len().min(offset as usize + len as usize);
                output = DiskOutput::Bytes(Frame::copy_from(&data[start..end]));
            }
            DiskOp::Rename { from, to, .. } => {
                assert!(self.dir.contains_key(&from), "{from} is not there");
                self.change(DirChange::Rename(from, to));
            }
            DiskOp::Remove { path, .. } => {
                self.change(DirChange::Remove(path));
            }
            DiskOp::SyncDir { .. } => {
                self.durable_dir = self.dir.clone();
                self.dir_changes.clear();
            }
        }
        id.map(|id| DiskDone { id, result: Ok(output) })
    }

    fn change(&mut self, change: DirChange) {
        change_dir(&mut self.dir, &change);
        self.dir_changes.push(change);
    }

    /// The power goes: what was synced stays, of the rest some. Operations under way may have been
    /// done in whole, in part or not at all.
    pub(crate) fn crash(mut self, seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        while let Some(op) = self.queue.pop_front() {
            match op {
                DiskOp::Write { file, offset, parts, len, .. } => {
                    if let Some(inode) = self.open.get(&file) {
                        let bytes = written(&parts, len);
                        self.inodes[*inode].unsynced.push((offset as usize, bytes));
                    }
                }
                DiskOp::Open { mode: OpenMode::CreateNew, path, file, .. } => {
                    self.inodes.push(Inode::default());
                    self.open.insert(file, self.inodes.len() - 1);
                    self.dir_changes.push(DirChange::Create(path, self.inodes.len() - 1));
                }
                DiskOp::Rename { from, to, .. } => {
                    self.dir_changes.push(DirChange::Rename(from, to));
                }
                DiskOp::Remove { path, .. } => self.dir_changes.push(DirChange::Remove(path)),
                DiskOp::Open { .. }
                | DiskOp::Close { .. }
                | DiskOp::Allocate { .. }
                | DiskOp::Sync { .. }
                | DiskOp::Read { .. }
                | DiskOp::SyncDir { .. } => {}
            }
        }
        let mut dir = self.durable_dir;
        let kept = prng.below(self.dir_changes.len() + 1);
        for change in &self.dir_changes[..kept] {
            change_dir(&mut dir, change);
        }
        let mut after = Self::default();
        for (path, inode) in dir {
            let data = self.inodes[inode].cut(&mut prng);
            after.inodes.push(Inode { durable: data.clone(), data, unsynced: Vec::new() });
            after.dir.insert(path, after.inodes.len() - 1);
        }
        after.durable_dir = after.dir.clone();
        after
    }

    /// The process ends, the machine goes on: everything done is there.
    pub(crate) fn restart(self) -> Self {
        let mut after = Self::default();
        for (path, inode) in self.dir {
            let data = self.inodes[inode].data.clone();
            after.inodes.push(Inode { durable: data.clone(), data, unsynced: Vec::new() });
            after.dir.insert(path, after.inodes.len() - 1);
        }
        after.durable_dir = after.dir.clone();
        after
    }

    pub(crate) fn listing(&self) -> Vec<(String, u64)> {
        let size = |inode: &usize| self.inodes[*inode].data.len() as u64;
        self.dir.iter().map(|(path, inode)| (path.clone(), size(inode))).collect()
    }

    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        self.dir.keys().filter(|path| path.starts_with(prefix)).cloned().collect()
    }

    /// The bytes of a file, to look at or to damage.
    pub(crate) fn bytes(&mut self, path: &str) -> &mut Vec<u8> {
        let inode = *self.dir.get(path).unwrap_or_else(|| panic!("{path} is not there"));
        &mut self.inodes[inode].data
    }

    pub(crate) fn remove(&mut self, path: &str) {
        assert!(self.dir.remove(path).is_some(), "{path} is not there");
    }
}

pub(crate) fn z(epoch: u32, counter: u32) -> Zxid {
    Zxid::new(Epoch::new(epoch), counter)
}

pub(crate) fn record(zxid: Zxid, len: usize) -> Frame {
    let mut encoder = ProposalEncoder::with_blocks(len, 0);
    let body = encoder.begin(zxid, Zxid::ZERO);
    body.extend((0..len).map(|at| (zxid.as_u64() as usize + at) as u8));
    encoder.finish()
}

/// Everything small, so that a few operations reach every case.
pub(crate) fn small() -> StoreConfig {
    StoreConfig {
        segment_len: 8 * BLOCK_SIZE as u64,
        batch_len_max: 6000,
        body_len_max: 6000,
        chunk_len_max: 8000,
        fill_len: 4 * BLOCK_SIZE as u64,
        stream_len: 5000,
        snapshots_retained: 2,
        ..StoreConfig::new(ServerId(1), 77)
    }
}

/// A store and its disk.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) store: Store,
    pub(crate) disk: FakeDisk,
    pub(crate) events: Vec<StoreEvent>,
    pub(crate) prng: Option<Prng>,
}

impl Rig {
    pub(crate) fn open(config: StoreConfig, disk: FakeDisk) -> Self {
        let store = Store::open(config, disk.listing());
        Self { store, disk, events: Vec::new(), prng: None }
    }

    /// A store that has recovered.
    pub(crate) fn start(config: StoreConfig, disk: FakeDisk) -> (Self, Recovered) {
        let mut rig = Self::open(config, disk);
        rig.settle();
        let recovered = rig.recovered();
        (rig, recovered)
    }

    /// Hands out everything there is to do.
    pub(crate) fn poll(&mut self) {
        loop {
            let mut moved = false;
            while let Some(op) = self.store.poll_op() {
                self.disk.submit(op);
                moved = true;
            }
            while let Some(event) = self.store.poll_event() {
                self.events.push(event);
                moved = true;
            }
            self.store.check_invariants();
            if !moved {
                return;
            }
        }
    }

    /// Lets the disk do one operation; false if it has nothing to do.
    pub(crate) fn step(&mut self) -> bool {
        self.poll();
        if self.disk.waiting() == 0 {
            return false;
        }
        let before = self.disk.done;
        if let Some(done) = self.disk.step(self.prng.as_mut()) {
            self.store.handle_done(done);
        }
        self.poll();
        self.disk.done != before
    }

    /// Runs until nothing is left to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..1_000_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the store does not come to rest");
    }

    pub(crate) fn recovered(&self) -> Recovered {
        let found = self.events.iter().find_map(|event| match event {
            StoreEvent::Recovered(recovered) => Some(recovered.clone()),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("did not recover: {:?}", self.events.last()))
    }

    pub(crate) fn failure(&self) -> Option<&quorate_storage::StoreError> {
        self.events.iter().find_map(|event| match event {
            StoreEvent::Failed(error) => Some(error),
            _ => None,
        })
    }

    pub(crate) fn records(&self) -> Vec<Zxid> {
        let zxids = self.events.iter().filter_map(|event| match event {
            StoreEvent::Record { zxid, frame } => {
                let body = frame.len() - 32;
                assert_eq!(frame, &record(*zxid, body), "another record than was appended");
                Some(*zxid)
            }
            _ => None,
        });
        zxids.collect()
    }

    pub(crate) fn chunks(&self) -> Vec<Vec<u8>> {
        let chunks = self.events.iter().filter_map(|event| match event {
            StoreEvent::SnapshotChunk { bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        });
        chunks.collect()
    }

    pub(crate) fn durables(&self) -> Vec<Durable> {
        let durables = self.events.iter().filter_map(|event| match event {
            StoreEvent::Durable(durable) => Some(*durable),
            _ => None,
        });
        durables.collect()
    }

    pub(crate) fn append(&mut self, zxid: Zxid, len: usize) {
        self.store.append(zxid, record(zxid, len));
    }

    /// Appends counters `from..=to` of `epoch`, each in its own batch.
    pub(crate) fn append_each(
        &mut self,
        epoch: u32,
        counters: std::ops::RangeInclusive<u32>,
        len: usize,
    ) {
        for counter in counters {
            self.append(z(epoch, counter), len);
            self.settle();
        }
    }

    pub(crate) fn promise(&mut self, epoch: u32) {
        self.store.save_epochs(Epoch::new(epoch), Epoch::new(epoch));
        self.settle();
    }
}
