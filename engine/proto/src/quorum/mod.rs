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

#[cfg(test)]
mod tests_lcg {
    //! Seeded numbers for tests; never part of the crate.

    pub(super) struct Lcg(u64);

    impl Lcg {
        pub(super) fn new(seed: u64) -> Self {
            Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x2545_f491_4f6c_dd1d)
        }

        pub(super) fn below(&mut self, bound: u64) -> u64 {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }
}
