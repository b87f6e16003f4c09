//! The tree's behaviour as a client and a server see it: requests in, outcomes and events out.
//!
//! No bytes of any encoding appear here.

mod cuts;
mod operations;
mod server;
mod twin;
mod watching;
