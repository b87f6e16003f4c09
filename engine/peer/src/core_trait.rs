//! The one shape of everything pure: inputs in, effects out, time as an argument.
//!
//! A core owns no clock, socket, file, thread or random source (R48). Whoever drives it hands it
//! inputs, then drains its effects, then asserts its invariants.

use quorate_proto::Instant;

/// A pure state machine of a server.
pub trait Core {
    /// What can happen to it.
    type Input;
    /// What it wants done.
    type Effect;

    /// Takes one input. `now` never runs backwards.
    fn handle(&mut self, now: Instant, input: Self::Input);

    /// Lets it act on time passing; called when [`Core::poll_timeout`] is due, harmless earlier.
    fn handle_timeout(&mut self, now: Instant);

    /// The next thing to be done; drained after each batch of inputs.
    fn poll_effect(&mut self) -> Option<Self::Effect>;

    /// When [`Core::handle_timeout`] wants to be called next.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Asserts what must hold between batches.
    ///
    /// # Panics
    /// If an invariant is broken: the server must stop before another byte leaves (R47).
    fn check_invariants(&self);
}
