//! What the disk has confirmed: the only ground on which a machine may say that it has something.

use crate::{Epoch, Zxid};

/// A confirmation by the disk. A machine keeps each message whose truth depends on the disk until
/// the confirmation arrives (R1 of the safety rules).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// The promise not to follow lower epochs.
    AcceptedEpoch(Epoch),
    /// The epoch whose leader's initial history is held here.
    CurrentEpoch(Epoch),
    /// The log, contiguously up to and with this zxid.
    Log {
        /// The last durable zxid.
        through: Zxid,
    },
    /// The log ends at this zxid now; what came after it is gone for good.
    Truncated {
        /// The last zxid that was kept.
        to: Zxid,
    },
    /// A received snapshot, which replaces the log before it.
    Snapshot {
        /// The zxid at which it was cut.
        zxid: Zxid,
    },
}
