//! What load is put on: the client protocol, and the ways its bytes reach servers.

pub(crate) mod jute;
pub(crate) mod setup;
pub(crate) mod tcp;
