//! A server's disk in memory: completions when asked for, and power cuts that lose what was not
//! synced. Tears no single write: storage's own tests do.

use std::collections::{BTreeMap, VecDeque};

use quorate_storage::disk::{DiskOutput, FileId, Listing, OpenMode};
use quorate_storage::{DiskDone, DiskOp};
use quorate_wire::Frame;

use super::prng::Prng;

#[derive(Clone, Debug, Default)]
struct File {
    /// What a reader sees.
    data: Vec<u8>,
    /// What a power cut leaves for sure.
    durable: Vec<u8>,
    /// Writes since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

impl File {
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
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: Vec<File>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    open: BTreeMap<FileId, usize>,
    queue: VecDeque<DiskOp>,
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if bytes.len() < offset + written.len() {
        bytes.resize(offset + written.len(), 0);
    }
    bytes[offset..offset + written.len()].copy_from_slice(written);
}

impl Disk {
    pub(crate) fn submit(&mut self, op: DiskOp) {
        self.queue.push_back(op);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn listing(&self) -> Listing {
        let size = |file: &usize| self.files[*file].data.len() as u64;
        self.names.iter().map(|(name, file)| (name.clone(), size(file))).collect()
    }

    /// Does the oldest operation.
    pub(crate) fn step(&mut self) -> Option<DiskDone> {
        loop {
            if let Some(done) = self.execute()? {
                return Some(done);
            }
        }
    }

    fn execute(&mut self) -> Option<Option<DiskDone>> {
        let mut output = DiskOutput::Done;
        let id = match self.queue.pop_front()? {
            DiskOp::Open { id, file, path, mode, .. } => {
                let found = match mode {
                    OpenMode::CreateNew => {
                        assert!(!self.names.contains_key(&path), "{path} is there already");
                        self.files.push(File::default());
                        self.names.insert(path, self.files.len() - 1);
                        self.files.len() - 1
                    }
                    OpenMode::Read | OpenMode::Write => self.names[&path],
                };
                self.open.insert(file, found);
                id
            }
            DiskOp::Close { file } => {
                self.open.remove(&file);
                return Some(None);
            }
            DiskOp::Write { id, file, offset, parts, len, sync } => {
                let mut bytes: Vec<u8> =
                    parts.iter().flat_map(|part| part.iter().copied()).collect();
                bytes.resize(len, 0);
                let file = &mut self.files[self.open[&file]];
                put(&mut file.data, offset as usize, &bytes);
                if sync {
                    let len = file.data.len().max(file.durable.len());
                    file.durable.resize(len, 0);
                    put(&mut file.durable, offset as usize, &bytes);
                    file.settle(offset as usize, &bytes);
                } else {
                    file.unsynced.push((offset as usize, bytes));
                }
                id
            }
            DiskOp::Allocate { id, file, len } => {
                self.files[self.open[&file]].data.resize(len as usize, 0);
                id
            }
            DiskOp::Sync { id, file } => {
                let file = &mut self.files[self.open[&file]];
                file.durable = file.data.clone();
                file.unsynced.clear();
                id
            }
            DiskOp::Read { id, file, offset, len } => {
                let data = &self.files[self.open[&file]].data;
                let start = data.len().min(offset as usize);
                let end = data.len().min(offset as usize + len as usize);
                output = DiskOutput::Bytes(Frame::copy_from(&data[start..end]));
                id
            }
            DiskOp::Rename { id, from, to } => {
                let file = self.names.remove(&from).expect("what is renamed is there");
                self.names.insert(to, file);
                id
            }
            DiskOp::Remove { id, path } => {
                self.names.remove(&path);
                id
            }
            DiskOp::SyncDir { id } => {
                self.durable_names = self.names.clone();
                id
            }
        };
        Some(Some(DiskDone { id, result: Ok(output) }))
    }

    /// The process ends, the machine goes on: everything that was done is there.
    pub(crate) fn stop(&mut self) {
        self.queue.clear();
        self.open.clear();
        for file in &mut self.files {
            file.durable = file.data.clone();
            file.unsynced.clear();
        }
        self.durable_names = self.names.clone();
    }

    /// The power goes: of what was not synced, each write and the names are there or not.
    pub(crate) fn crash(&mut self, prng: &mut Prng) {
        self.queue.clear();
        self.open.clear();
        for file in &mut self.files {
            for (offset, bytes) in core::mem::take(&mut file.unsynced) {
                if prng.one_in(2) {
                    put(&mut file.durable, offset, &bytes);
                }
            }
            file.data = file.durable.clone();
        }
        if prng.one_in(2) {
            self.durable_names = self.names.clone();
        }
        self.names = self.durable_names.clone();
    }

    /// The directory is emptied, as by an operator or a lost volume.
    pub(crate) fn wipe(&mut self) {
        *self = Self::default();
    }

    /// The bytes of the first file whose name starts so, to be damaged.
    pub(crate) fn bytes(&mut self, prefix: &str) -> &mut Vec<u8> {
        let (_, file) =
            self.names.iter().find(|(name, _)| name.starts_with(prefix)).expect("a file so named");
        &mut self.files[*file].data
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }
}
