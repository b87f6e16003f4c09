//! Room in the buffers from which frames are split, a block at a time.
//!
//! Keeps no list of blocks: the last frame of one frees it.

use bytes::BytesMut;

/// Bytes of a block: one allocation for some hundreds of replies, and all that a client can pin by not
/// reading one.
const BLOCK_LEN: usize = 16 * 1024;
/// Room that small frames find without another look.
const FRAME_LEN: usize = 256;

/// Makes room for a small frame. Longer ones grow the buffer by themselves.
pub(crate) fn make_room(out: &mut BytesMut) {
    if out.capacity() < FRAME_LEN {
        out.reserve(BLOCK_LEN);
    }
}
