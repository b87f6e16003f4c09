//! Addresses and listeners, before any shard runs.
//!
//! Resolving may block for seconds, so it happens here and never on a shard; from then on there
//! are only socket addresses.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

/// Why an address cannot be used.
#[derive(Debug, Error)]
pub enum AddressError {
    /// Not `host:port`, or the name service does not know the host.
    #[error("{name} cannot be resolved: {error}")]
    Unresolved {
        /// What was to be resolved.
        name: String,
        /// What the name service said.
        #[source]
        error: io::Error,
    },
    /// Somebody, perhaps another server of ours, listens there.
    #[error("{address} is in use by another process")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The address belongs to none of this machine's interfaces.
    #[error("{address} is not an address of this machine")]
    NotOurs {
        /// The address.
        address: SocketAddr,
    },
    /// Ports below 1024 need a privilege.
    #[error("listening on {address} is not permitted")]
    NotPermitted {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("listening on {address} failed: {error}")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// The addresses of `host:port`, in the name service's order; at least one. Blocks.
///
/// # Errors
/// [`AddressError::Unresolved`].
pub fn resolve(name: &str) -> Result<Vec<SocketAddr>, AddressError> {
    let unresolved = |error| AddressError::Unresolved { name: name.to_owned(), error };
    let addresses: Vec<_> = name.to_socket_addrs().map_err(unresolved)?.collect();
    if addresses.is_empty() {
        return Err(unresolved(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    Ok(addresses)
}

/// Listens on `address`. The kernel completes up to `backlog` connections ahead of their
/// acceptance, or `net.core.somaxconn` if that is less.
///
/// The socket may be bound again while connections of a predecessor are still in TIME_WAIT
/// (`SO_REUSEADDR`), but not beside a living one: with `SO_REUSEPORT` a second server on the same
/// port would take half of the connections without anybody noticing.
///
/// # Errors
/// Any but [`AddressError::Unresolved`].
pub fn bind(address: SocketAddr, backlog: u32) -> Result<TcpListener, AddressError> {
    listen(address, backlog).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => AddressError::InUse { address },
        io::ErrorKind::AddrNotAvailable => AddressError::NotOurs { address },
        io::ErrorKind::PermissionDenied => AddressError::NotPermitted { address },
        _ => AddressError::Other { address, error },
    })
}

fn listen(address: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // [::] and 0.0.0.0 of one port are two addresses, on every distribution.
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(backlog).unwrap_or(i32::MAX))?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_listener_on_a_port_is_an_error_that_says_so() {
        let first = bind("127.0.0.1:0".parse().unwrap(), 16).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address, 16).unwrap_err();
        assert!(matches!(error, AddressError::InUse { address: used } if used == address));
        assert_eq!(error.to_string(), format!("{address} is in use by another process"));
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        let error = bind("192.0.2.1:2181".parse().unwrap(), 16).unwrap_err();
        assert!(matches!(error, AddressError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn names_without_port_or_host_do_not_resolve() {
        for name in ["localhost", "", ":", "host.invalid:2181", "127.0.0.1:99999"] {
            let error = resolve(name).unwrap_err();
            assert!(error.to_string().starts_with(name), "{error}");
        }
        let addresses = resolve("127.0.0.1:2181").unwrap();
        assert_eq!(addresses, ["127.0.0.1:2181".parse::<SocketAddr>().unwrap()]);
    }
}
