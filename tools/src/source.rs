//! A file as the storage crate's readers want it.
//!
//! Understands nothing of what it reads.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

use quorate_storage::inspect::ByteSource;
use quorate_wire::Frame;

/// A file that is read in pieces.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    len: u64,
    failure: Option<io::Error>,
}

impl FileSource {
    /// Opens it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len, failure: None })
    }

    /// Why it could not be read on; what was found then is not the file's fault.
    pub const fn take_failure(&mut self) -> Option<io::Error> {
        self.failure.take()
    }

    fn fill(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }
}

impl ByteSource for &mut FileSource {
    fn read_at(&mut self, offset: u64, len: usize) -> Frame {
        // Not more than there is: a length in a damaged file may be any number.
        let there = self.len.saturating_sub(offset);
        let mut buffer = vec![0; len.min(usize::try_from(there).unwrap_or(usize::MAX))];
        match self.fill(offset, &mut buffer) {
            Ok(count) => buffer.truncate(count),
            Err(error) => {
                self.failure.get_or_insert(error);
                buffer.clear();
            }
        }
        Frame::from(bytes::Bytes::from(buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn reads_end_at_the_end_of_the_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut source = FileSource::open(file.path()).unwrap();
        assert_eq!(&(&mut source).read_at(7, 100)[..], b"789");
        assert!((&mut source).read_at(u64::MAX, usize::MAX).is_empty());
        assert!(source.take_failure().is_none());
    }
}
