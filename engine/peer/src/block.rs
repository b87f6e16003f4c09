//! Frames are encoded into a buffer that they share, a block at a time.
//!
//! Keeps no list of blocks: the last frame of one frees it.

use bytes::BytesMut;
use quorate_wire::Frame;

/// Bytes of a block: one allocation for some hundreds of replies, and all that a client can pin by not
/// reading one.
const BLOCK_LEN: usize = 16 * 1024;
/// Room that small frames find without another look.
const FRAME_LEN: usize = 256;

/// Encodes one frame and splits it off. One that finds no room grows the buffer by itself.
pub(crate) fn frame(out: &mut BytesMut, encode: impl FnOnce(&mut BytesMut)) -> Frame {
    if out.capacity() < FRAME_LEN {
        out.reserve(BLOCK_LEN);
    }
    encode(out);
    Frame::from(out.split().freeze())
}
