//! `portable!`: structs that are their own archive, read by rkyv and written field by field.
//!
//! Knows no packet.

use rkyv::rend::unaligned::{i32_ule, i64_ule, u32_ule, u64_ule};

/// A field that can be written in its archived form.
pub(crate) trait Field {
    /// Writes the field at `at` and says where the next one begins.
    fn put(&self, out: &mut [u8], at: usize) -> usize;
}

macro_rules! little_endian {
    ($($archived:ty),*) => {$(
        impl Field for $archived {
            #[inline(always)]
            fn put(&self, out: &mut [u8], at: usize) -> usize {
                let end = at + size_of::<Self>();
                out[at..end].copy_from_slice(&self.to_native().to_le_bytes());
                end
            }
        }
    )*};
}

little_endian!(i32_ule, i64_ule, u32_ule, u64_ule);

impl Field for u8 {
    #[inline(always)]
    fn put(&self, out: &mut [u8], at: usize) -> usize {
        out[at] = *self;
        at + 1
    }
}

impl<const N: usize> Field for [u8; N] {
    #[inline(always)]
    fn put(&self, out: &mut [u8], at: usize) -> usize {
        out[at..at + N].copy_from_slice(self);
        at + N
    }
}

/// Declares a wire struct of the given size in bytes. The size and the alignment of 1 are asserted
/// when compiling: a changed field is a new version of the format, never the same one.
macro_rules! portable {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident [$len:literal] {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, rkyv::Portable, rkyv::bytecheck::CheckBytes)]
        #[bytecheck(crate = rkyv::bytecheck)]
        #[repr(C)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $ty,)*
        }

        const _: () = assert!(size_of::<$name>() == $len && align_of::<$name>() == 1);

        impl $name {
            /// The struct's size in bytes.
            $vis const LEN: usize = $len;

            /// The struct in place at the start of `bytes`; `None` if they are fewer than its size.
            #[inline]
            $vis fn read(bytes: &[u8]) -> Option<&Self> {
                let bytes = bytes.get(..$len)?;
                rkyv::access::<Self, rkyv::rancor::Failure>(bytes).ok()
            }

            /// The struct's bytes.
            #[inline]
            $vis fn to_bytes(self) -> [u8; $len] {
                let mut out = [0; $len];
                let mut at = 0;
                $(at = $crate::native::portable::Field::put(&self.$field, &mut out, at);)*
                debug_assert_eq!(at, $len);
                out
            }
        }
    };
}
