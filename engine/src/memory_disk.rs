//! A disk in memory, for measuring what the rest of a server costs: nothing on it survives.
//!
//! Executes the same operations as the real one and completes each at once.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use quorate_storage::disk::{DiskDone, DiskError, DiskOp, DiskOutput, FileId, OpId, OpenMode};
use quorate_wire::Frame;

use crate::runtime::uring::disk::copy_parts;

#[derive(Debug, Default)]
pub(crate) struct MemoryDisk {
    files: HashMap<String, Vec<u8>>,
    open: HashMap<FileId, String>,
    done: VecDeque<DiskDone>,
}

impl MemoryDisk {
    pub(crate) fn poll(&mut self) -> Option<DiskDone> {
        self.done.pop_front()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.done.is_empty()
    }

    pub(crate) fn submit(&mut self, op: DiskOp) {
        let (id, result) = match op {
            DiskOp::Open { id, file, path, mode, .. } => (id, self.open(file, path, mode)),
            DiskOp::Close { file } => {
                self.open.remove(&file);
                return;
            }
            DiskOp::Write { id, file, offset, parts, len, .. } => {
                (id, self.write(file, offset as usize, &parts, len))
            }
            DiskOp::Allocate { id, file, len } => (
                id,
                self.file(file).map(|bytes| {
                    let len = (len as usize).max(bytes.len());
                    bytes.resize(len, 0);
                    DiskOutput::Done
                }),
            ),
            DiskOp::Sync { id, .. } | DiskOp::SyncDir { id } => (id, Ok(DiskOutput::Done)),
            DiskOp::Read { id, file, offset, len } => (
                id,
                self.file(file).map(|bytes| {
                    let start = (offset as usize).min(bytes.len());
                    let end = (start + len as usize).min(bytes.len());
                    DiskOutput::Bytes(Frame::from(Bytes::copy_from_slice(&bytes[start..end])))
                }),
            ),
            DiskOp::Rename { id, from, to } => (id, self.rename(&from, to)),
            DiskOp::Remove { id, path } => {
                self.files.remove(&path);
                (id, Ok(DiskOutput::Done))
            }
        };
        self.finish(id, result);
    }

    fn finish(&mut self, id: OpId, result: Result<DiskOutput, DiskError>) {
        self.done.push_back(DiskDone { id, result });
    }

    fn file(&mut self, file: FileId) -> Result<&mut Vec<u8>, DiskError> {
        let path = self.open.get(&file).ok_or_else(|| missing("a file that is not open"))?;
        self.files.get_mut(path).ok_or_else(|| missing(path))
    }

    fn open(
        &mut self,
        file: FileId,
        path: String,
        mode: OpenMode,
    ) -> Result<DiskOutput, DiskError> {
        let exists = self.files.contains_key(&path);
        match mode {
            OpenMode::Read | OpenMode::Write if !exists => return Err(missing(&path)),
            OpenMode::CreateNew if exists => {
                return Err(DiskError { what: format!("create {path}"), errno: libc::EEXIST });
            }
            OpenMode::CreateNew => {
                self.files.insert(path.clone(), Vec::new());
            }
            OpenMode::Read | OpenMode::Write => {}
        }
        self.open.insert(file, path);
        Ok(DiskOutput::Done)
    }

    fn write(
        &mut self,
        file: FileId,
        offset: usize,
        parts: &[Frame],
        len: usize,
    ) -> Result<DiskOutput, DiskError> {
        let bytes = self.file(file)?;
        if bytes.len() < offset + len {
            bytes.resize(offset + len, 0);
        }
        let bytes = &mut bytes[offset..offset + len];
        let end = copy_parts(parts, bytes);
        bytes[end..].fill(0);
        Ok(DiskOutput::Done)
    }

    fn rename(&mut self, from: &str, to: String) -> Result<DiskOutput, DiskError> {
        let bytes = self.files.remove(from).ok_or_else(|| missing(from))?;
        for path in self.open.values_mut().filter(|path| *path == from) {
            path.clone_from(&to);
        }
        self.files.insert(to, bytes);
        Ok(DiskOutput::Done)
    }
}

fn missing(path: &str) -> DiskError {
    DiskError { what: path.to_owned(), errno: libc::ENOENT }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(disk: &mut MemoryDisk, op: DiskOp) -> Result<DiskOutput, DiskError> {
        disk.submit(op);
        disk.poll().expect("every operation completes at once").result
    }

    #[test]
    fn what_was_written_is_read_back_and_padded() {
        let mut disk = MemoryDisk::default();
        let (id, file) = (OpId(1), FileId(1));
        let path = "a".to_owned();
        let open = DiskOp::Open { id, file, path, mode: OpenMode::CreateNew, direct: false };
        assert_eq!(done(&mut disk, open), Ok(DiskOutput::Done));
        let parts = vec![Frame::copy_from(b"ab"), Frame::copy_from(b"c")];
        let write = DiskOp::Write { id, file, offset: 2, parts, len: 4, sync: true };
        assert_eq!(done(&mut disk, write), Ok(DiskOutput::Done));
        let read = DiskOp::Read { id, file, offset: 0, len: 100 };
        let bytes = DiskOutput::Bytes(Frame::copy_from(b"\0\0abc\0"));
        assert_eq!(done(&mut disk, read), Ok(bytes));
    }

    #[test]
    fn a_missing_file_is_an_error_with_its_name() {
        let mut disk = MemoryDisk::default();
        let (id, file) = (OpId(1), FileId(1));
        let path = "gone".to_owned();
        let open = DiskOp::Open { id, file, path, mode: OpenMode::Read, direct: false };
        assert_eq!(done(&mut disk, open), Err(missing("gone")));
    }
}
