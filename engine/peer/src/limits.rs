//! Every bound of the server, with the relations between them checked when compiling.
//!
//! Decides nothing: whoever reaches a bound decides what follows.

/// The bounds of a server. All have defaults that fit a small machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Proposals that may be outstanding; past it the tree core stops taking requests.
    pub outstanding_max: usize,
    /// Committed proposals kept in memory for learners that come back soon.
    pub window_max: usize,
    /// Requests that one client connection may have in the pipeline; past it it is not read.
    pub pipeline_max: usize,
    /// Bytes of one client frame, jute.maxbuffer.
    pub client_frame_max: u32,
    /// Bytes of one client frame before its session is open.
    pub connect_frame_max: u32,
    /// Bytes of one native frame's body.
    pub body_max: u32,
    /// Bytes that may be held for a learner while it synchronises or does not drain.
    pub backlog_max: usize,
    /// Bytes that may be queued towards a client that does not read.
    pub client_backlog_max: usize,
    /// Bytes of one piece of a snapshot.
    pub chunk_len: usize,
    /// Connections that have not introduced themselves yet.
    pub strangers_max: usize,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        outstanding_max: 64 * 1024,
        window_max: 16 * 1024,
        pipeline_max: 4096,
        client_frame_max: 0xf_ffff,
        connect_frame_max: 16 * 1024,
        body_max: 4 * 1024 * 1024,
        backlog_max: 256 * 1024 * 1024,
        client_backlog_max: 64 * 1024 * 1024,
        chunk_len: 256 * 1024,
        strangers_max: 1024,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const _: () = {
    let l = Limits::DEFAULT;
    // A request that passed the client's door, with what prep adds, must fit a proposal.
    assert!(l.body_max as usize > 2 * l.client_frame_max as usize);
    // A learner that is level must be able to hold all that is outstanding.
    assert!(l.backlog_max > 16 * l.chunk_len);
    assert!(l.connect_frame_max < l.client_frame_max);
};
