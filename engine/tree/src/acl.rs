//! Access control entries and permission bits, as ZooKeeper stores them.

use alloc::boxed::Box;

/// Permission bits; any 32-bit value is stored as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Permissions(pub i32);

impl Permissions {
    /// getData, getChildren, exists, watch events.
    pub const READ: Self = Self(1);
    /// setData.
    pub const WRITE: Self = Self(2);
    /// Creating children of the node.
    pub const CREATE: Self = Self(4);
    /// Deleting children of the node.
    pub const DELETE: Self = Self(8);
    /// setACL.
    pub const ADMIN: Self = Self(16);
    /// All of them.
    pub const ALL: Self = Self(31);

    /// Whether any of the wanted bits is granted.
    pub const fn allows(self, wanted: Self) -> bool {
        self.0 & wanted.0 != 0
    }
}

/// Who: a scheme (`world`, `auth`, `digest`, `ip`, …) and an id within it. Ids are raw bytes:
/// Java writes supplementary characters in a way that is not UTF-8, and what is forwarded is never
/// normalised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    /// The authentication scheme.
    pub scheme: Box<[u8]>,
    /// The identity within the scheme.
    pub id: Box<[u8]>,
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acl {
    /// What is granted.
    pub perms: Permissions,
    /// To whom.
    pub id: Id,
}

impl Acl {
    /// `world:anyone` with all permissions, ZooKeeper's `OPEN_ACL_UNSAFE`.
    pub fn open() -> Self {
        Self::world(Permissions::ALL)
    }

    /// `world:anyone` with the given permissions.
    pub fn world(perms: Permissions) -> Self {
        Self { perms, id: Id { scheme: Box::from(&b"world"[..]), id: Box::from(&b"anyone"[..]) } }
    }
}
