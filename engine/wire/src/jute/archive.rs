//! Jute's primitives: `Reader` over received bytes, `Writer` onto a buffer.
//!
//! Knows no record beyond those used everywhere (Id, ACL, Stat). There is no recursion, and no
//! length or count is believed before the bytes that it promises are there.

use alloc::boxed::Box;
use alloc::vec::Vec;

use bytes::{BufMut, BytesMut};
use quorate_proto::Zxid;
use quorate_tree::acl::Id;
use quorate_tree::{Acl, Permissions, Stat};

use crate::DecodeError;

/// Bytes of a Stat.
pub const STAT_LEN: usize = 68;
/// The fewest bytes of an ACL: perms and two lengths.
const ACL_LEN_MIN: usize = 12;
/// The fewest bytes of a buffer or a string: its length.
const BUFFER_LEN_MIN: usize = 4;

/// Reads jute fields one after the other. What it hands out borrows from the received bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes have not been read.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    #[inline]
    fn chunk<const N: usize>(&mut self, what: &'static str) -> Result<&'a [u8; N], DecodeError> {
        let (chunk, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(chunk)
    }

    /// An int.
    ///
    /// # Errors
    /// Like all its neighbours, [`DecodeError::Truncated`] with `what` if the bytes end too early.
    #[inline]
    pub fn int(&mut self, what: &'static str) -> Result<i32, DecodeError> {
        self.chunk(what).map(|bytes| i32::from_be_bytes(*bytes))
    }

    /// A long.
    ///
    /// # Errors
    /// See [`int`](Self::int).
    #[inline]
    pub fn long(&mut self, what: &'static str) -> Result<i64, DecodeError> {
        self.chunk(what).map(|bytes| i64::from_be_bytes(*bytes))
    }

    /// A long that is a zxid.
    ///
    /// # Errors
    /// See [`int`](Self::int).
    #[inline]
    pub fn zxid(&mut self, what: &'static str) -> Result<Zxid, DecodeError> {
        self.chunk(what).map(|bytes| Zxid::from_u64(u64::from_be_bytes(*bytes)))
    }

    /// A boolean; every non-zero byte is true, as in Java.
    ///
    /// # Errors
    /// See [`int`](Self::int).
    #[inline]
    pub fn boolean(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        self.chunk::<1>(what).map(|[byte]| *byte != 0)
    }

    /// A buffer or a ustring; `None` is null (length -1), which differs from empty.
    ///
    /// # Errors
    /// See [`int`](Self::int); [`DecodeError::BadLength`] for any other negative length.
    #[inline]
    pub fn buffer(&mut self, what: &'static str) -> Result<Option<&'a [u8]>, DecodeError> {
        let len = self.int(what)?;
        let Ok(len) = usize::try_from(len) else {
            return if len == -1 { Ok(None) } else { Err(self.bad_length(len)) };
        };
        let (bytes, rest) =
            self.rest.split_at_checked(len).ok_or(DecodeError::Truncated { what })?;
        self.rest = rest;
        Ok(Some(bytes))
    }

    /// A buffer or a ustring that must not be null.
    ///
    /// # Errors
    /// See [`buffer`](Self::buffer); [`DecodeError::BadValue`] for null.
    #[inline]
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], DecodeError> {
        self.buffer(what)?.ok_or(DecodeError::BadValue { what })
    }

    /// A vector's count, bounded by the bytes that are left if each element has at least
    /// `element_len_min`. Null and every negative count are 0, as in Java.
    ///
    /// # Errors
    /// See [`int`](Self::int); [`DecodeError::BadLength`] for more elements than can follow.
    pub fn count(
        &mut self,
        element_len_min: usize,
        what: &'static str,
    ) -> Result<usize, DecodeError> {
        let count = self.int(what)?;
        let max = self.rest.len() / element_len_min;
        match usize::try_from(count) {
            Ok(count) if count > max => {
                Err(DecodeError::BadLength { got: count as i64, max: max as u64 })
            }
            Ok(count) => Ok(count),
            Err(_) => Ok(0),
        }
    }

    /// A vector of ustrings, none of them null.
    ///
    /// # Errors
    /// See [`count`](Self::count) and [`bytes`](Self::bytes).
    pub fn strings(&mut self, what: &'static str) -> Result<Vec<&'a [u8]>, DecodeError> {
        let count = self.count(BUFFER_LEN_MIN, what)?;
        let mut strings = Vec::with_capacity(count);
        for _ in 0..count {
            strings.push(self.bytes(what)?);
        }
        Ok(strings)
    }

    /// A vector of ACLs; a null vector and an empty one are the same, and so are null and empty
    /// schemes and ids, none of which any tree accepts.
    ///
    /// # Errors
    /// See [`count`](Self::count) and [`buffer`](Self::buffer).
    pub fn acl(&mut self) -> Result<Vec<Acl>, DecodeError> {
        const WHAT: &str = "access control list";
        let count = self.count(ACL_LEN_MIN, WHAT)?;
        let mut acl = Vec::with_capacity(count);
        for _ in 0..count {
            let perms = Permissions(self.int(WHAT)?);
            let scheme = Box::from(self.buffer(WHAT)?.unwrap_or_default());
            let id = Box::from(self.buffer(WHAT)?.unwrap_or_default());
            acl.push(Acl { perms, id: Id { scheme, id } });
        }
        Ok(acl)
    }

    /// A Stat.
    ///
    /// # Errors
    /// See [`int`](Self::int).
    pub fn stat(&mut self) -> Result<Stat, DecodeError> {
        const WHAT: &str = "stat";
        Ok(Stat {
            czxid: self.zxid(WHAT)?,
            mzxid: self.zxid(WHAT)?,
            ctime: self.long(WHAT)?,
            mtime: self.long(WHAT)?,
            version: self.int(WHAT)?,
            cversion: self.int(WHAT)?,
            aversion: self.int(WHAT)?,
            ephemeral_owner: self.long(WHAT)?,
            data_length: self.int(WHAT)?,
            num_children: self.int(WHAT)?,
            pzxid: self.zxid(WHAT)?,
        })
    }

    fn bad_length(&self, len: i32) -> DecodeError {
        DecodeError::BadLength { got: len.into(), max: self.rest.len() as u64 }
    }
}

/// Appends jute fields to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut BytesMut,
}

impl<'a> Writer<'a> {
    /// A writer that appends to `out`.
    pub const fn new(out: &'a mut BytesMut) -> Self {
        Self { out }
    }

    /// An int.
    #[inline]
    pub fn int(&mut self, value: i32) {
        self.out.put_i32(value);
    }

    /// A long.
    #[inline]
    pub fn long(&mut self, value: i64) {
        self.out.put_i64(value);
    }

    /// A zxid as a long.
    #[inline]
    pub fn zxid(&mut self, zxid: Zxid) {
        self.out.put_u64(zxid.as_u64());
    }

    /// A boolean.
    #[inline]
    pub fn boolean(&mut self, value: bool) {
        self.out.put_u8(value.into());
    }

    /// A buffer; `None` is null.
    #[inline]
    pub fn buffer(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bytes(bytes),
            None => self.int(-1),
        }
    }

    /// A buffer or a ustring that is not null.
    #[inline]
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.out.reserve(4 + bytes.len());
        self.count(bytes.len());
        self.out.extend_from_slice(bytes);
    }

    /// A length or a vector's count. What is written was received under a frame limit or is a list
    /// in memory, far below 2^31.
    #[inline]
    pub fn count(&mut self, count: usize) {
        self.int(i32::try_from(count).expect("a length is far below 2 GiB"));
    }

    /// What `fill` writes, behind its length: every message of the client protocol, and each record
    /// inside a multi.
    #[inline]
    pub fn framed(&mut self, fill: impl FnOnce(&mut Self)) {
        let start = self.out.len();
        self.int(0);
        fill(self);
        let len = i32::try_from(self.out.len() - start - 4).expect("a record is below 2 GiB");
        self.out[start..start + 4].copy_from_slice(&len.to_be_bytes());
    }

    /// Bytes that are encoded already.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// A vector of ACLs.
    pub fn acl(&mut self, acl: &[Acl]) {
        self.count(acl.len());
        for entry in acl {
            self.int(entry.perms.0);
            self.bytes(&entry.id.scheme);
            self.bytes(&entry.id.id);
        }
    }

    /// A vector of ustrings.
    pub fn strings<S: AsRef<[u8]>>(&mut self, strings: impl IntoIterator<Item = S>) {
        let at = self.out.len();
        self.int(0);
        let mut count = 0usize;
        for string in strings {
            self.bytes(string.as_ref());
            count += 1;
        }
        let count = i32::try_from(count).expect("a list in memory is far below 2^31");
        self.out[at..at + 4].copy_from_slice(&count.to_be_bytes());
    }

    /// A Stat, as one copy.
    pub fn stat(&mut self, stat: &Stat) {
        let mut bytes = [0; STAT_LEN];
        bytes[..8].copy_from_slice(&stat.czxid.as_u64().to_be_bytes());
        bytes[8..16].copy_from_slice(&stat.mzxid.as_u64().to_be_bytes());
        bytes[16..24].copy_from_slice(&stat.ctime.to_be_bytes());
        bytes[24..32].copy_from_slice(&stat.mtime.to_be_bytes());
        bytes[32..36].copy_from_slice(&stat.version.to_be_bytes());
        bytes[36..40].copy_from_slice(&stat.cversion.to_be_bytes());
        bytes[40..44].copy_from_slice(&stat.aversion.to_be_bytes());
        bytes[44..52].copy_from_slice(&stat.ephemeral_owner.to_be_bytes());
        bytes[52..56].copy_from_slice(&stat.data_length.to_be_bytes());
        bytes[56..60].copy_from_slice(&stat.num_children.to_be_bytes());
        bytes[60..].copy_from_slice(&stat.pzxid.as_u64().to_be_bytes());
        self.raw(&bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, assert_truncation_fails, hex};

    const WHAT: &str = "test";

    #[test]
    fn null_and_empty_stay_apart() {
        let mut out = BytesMut::new();
        let mut writer = Writer::new(&mut out);
        writer.buffer(None);
        writer.buffer(Some(b""));
        writer.buffer(Some(b"x"));
        assert_eq!(out, hex("ffffffff 00000000 00000001 78"));
        let mut reader = Reader::new(&out);
        assert_eq!(reader.buffer(WHAT), Ok(None));
        assert_eq!(reader.buffer(WHAT), Ok(Some(&b""[..])));
        assert_eq!(reader.buffer(WHAT), Ok(Some(&b"x"[..])));
        assert_eq!(reader.remaining(), 0);
        let null = hex("ffffffff");
        assert_eq!(Reader::new(&null).bytes(WHAT), Err(DecodeError::BadValue { what: WHAT }));
    }

    #[test]
    fn lengths_and_counts_that_the_bytes_cannot_hold_are_refused() {
        let bytes = hex("7fffffff 00");
        let truncated = Err(DecodeError::Truncated { what: WHAT });
        assert_eq!(Reader::new(&bytes).buffer(WHAT), truncated);
        let bytes = hex("fffffffe 00");
        let negative = Err(DecodeError::BadLength { got: -2, max: 1 });
        assert_eq!(Reader::new(&bytes).buffer(WHAT), negative);
        let bytes = hex("7fffffff 00000000 00000000");
        let count = DecodeError::BadLength { got: i32::MAX.into(), max: 2 };
        assert_eq!(Reader::new(&bytes).strings(WHAT), Err(count));
        let count = DecodeError::BadLength { got: i32::MAX.into(), max: 0 };
        assert_eq!(Reader::new(&bytes).acl(), Err(count));
        // Java reads null and every negative count as no element.
        for bytes in ["ffffffff", "80000000", "00000000"] {
            assert_eq!(Reader::new(&hex(bytes)).acl(), Ok(Vec::new()));
        }
    }

    #[test]
    fn any_stat_and_any_list_come_back() {
        let mut rng = Rng::new(31);
        for _ in 0..100 {
            let stat = crate::testing::stat(&mut rng);
            let acl = crate::testing::acl(&mut rng);
            let mut out = BytesMut::new();
            let mut writer = Writer::new(&mut out);
            writer.stat(&stat);
            writer.acl(&acl);
            writer.strings(acl.iter().map(|entry| &entry.id.id));
            let read = |bytes: &[u8]| {
                let mut reader = Reader::new(bytes);
                let all = (reader.stat()?, reader.acl()?, reader.strings(WHAT)?.len());
                Ok::<_, DecodeError>(all)
            };
            assert_eq!(read(&out), Ok((stat, acl.clone(), acl.len())));
            assert_truncation_fails(&out, |bytes| read(bytes).is_err());
        }
    }

    #[test]
    fn every_non_zero_byte_is_true() {
        for byte in 0..=u8::MAX {
            assert_eq!(Reader::new(&[byte]).boolean(WHAT), Ok(byte != 0));
        }
    }
}
