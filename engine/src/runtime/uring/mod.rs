//! Our own io_uring rings: one for sockets, one for files, on the thread that uses them.
//!
//! `unsafe` lives here and in `runtime::pool` only; what this module exports is safe. It knows no
//! frame format and no record.
#![allow(unsafe_code)]

pub mod disk;
pub mod net;
mod receive;
mod ring;
mod send_queue;
pub(crate) mod sys;

pub use disk::{DiskConfig, DiskRing};
pub use net::{ConnId, NetConfig, NetEvent, NetRing, NetStats};
pub use ring::{RingMode, UringError, probe};

/// Puts something at the first free index.
fn put<T>(places: &mut Vec<Option<T>>, item: T) -> usize {
    let index = places.iter().position(Option::is_none).unwrap_or_else(|| {
        places.push(None);
        places.len() - 1
    });
    places[index] = Some(item);
    index
}
