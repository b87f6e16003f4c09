//! Who votes, and when enough of them agree: membership, predicates, and watermarks per voter.
//!
//! Pure arithmetic. Knows no packet, no phase and no time.

mod ack_table;
mod hierarchical;
mod membership;
mod verifier;

pub use ack_table::AckTable;
pub use hierarchical::Hierarchical;
pub use membership::Membership;
pub use verifier::QuorumVerifier;
