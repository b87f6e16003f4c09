//! Access control entries and permission bits, as ZooKeeper stores them; what they allow (`allows`),
//! what of a request is stored (`stored`), and what others are shown (`masked`).
//!
//! Authenticates nobody: the ids of a connection come from its server.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::net::IpAddr;

use crate::ErrorCode;

/// Permission bits; any 32-bit value is stored as given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id {
    /// The authentication scheme.
    pub scheme: Box<[u8]>,
    /// The identity within the scheme.
    pub id: Box<[u8]>,
}

/// One entry of an access control list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl Id {
    fn is_anyone(&self) -> bool {
        &*self.scheme == b"world" && &*self.id == b"anyone"
    }

    /// Whether this id of a connection is what an entry asks for (`client.md` 2.13).
    fn satisfies(&self, wanted: &Self) -> bool {
        if self.scheme != wanted.scheme {
            return false;
        }
        match &*self.scheme {
            b"ip" => ip_matches(&wanted.id, &self.id),
            // An entry `sasl:super` takes any sasl id; it is not the superuser's bypass.
            b"sasl" => self.id == wanted.id || &*wanted.id == b"super",
            _ => self.id == wanted.id,
        }
    }
}

/// Whether this list is [`Acl::open`] and nothing else.
pub fn is_open(acl: &[Acl]) -> bool {
    matches!(acl, [only] if only.perms == Permissions::ALL && only.id.is_anyone())
}

/// Whether a node with this list lets a connection with these ids do what is wanted. No list allows
/// everything, and so does an id of scheme `super`.
pub fn allows(acl: &[Acl], wanted: Permissions, ids: &[Id]) -> bool {
    if acl.is_empty() {
        return true;
    }
    let granted = |entry: &&Acl| entry.perms.allows(wanted);
    acl.iter().filter(granted).any(|entry| entry.id.is_anyone())
        || ids.iter().any(|id| &*id.scheme == b"super")
        || acl.iter().filter(granted).any(|entry| ids.iter().any(|id| id.satisfies(&entry.id)))
}

/// Entries beyond which a list is refused: every entry is looked at for every access. Distinct
/// `auth` entries times ids would otherwise grow without bound before any length is checked.
const ENTRIES_MAX: usize = 4096;

/// What create and setACL store of the list they bring: exact duplicates dropped, `auth` replaced by
/// the connection's authenticated ids, order kept (`PrepRequestProcessor.fixupACL`).
///
/// # Errors
/// [`ErrorCode::InvalidAcl`] if the list is empty or has more than 4096 entries, names an unknown
/// scheme, or an id that its scheme does not accept.
pub fn stored(acl: Vec<Acl>, ids: &[Id]) -> Result<Vec<Acl>, ErrorCode> {
    if let [only] = &acl[..]
        && only.id.is_anyone()
    {
        return Ok(acl);
    }
    if acl.is_empty() {
        return Err(ErrorCode::InvalidAcl);
    }
    let mut fixed: Vec<Acl> = Vec::with_capacity(acl.len());
    let mut seen = BTreeSet::new();
    for entry in &acl {
        if !seen.insert(entry) {
            continue;
        }
        if fixed.len() >= ENTRIES_MAX {
            return Err(ErrorCode::InvalidAcl);
        }
        if &*entry.id.scheme == b"auth" {
            let proved = ids.iter().filter(|id| is_authenticated(&id.scheme)).take(ENTRIES_MAX);
            let before = fixed.len();
            fixed.extend(proved.map(|id| Acl { perms: entry.perms, id: id.clone() }));
            if fixed.len() == before {
                return Err(ErrorCode::InvalidAcl);
            }
        } else if is_valid(&entry.id) {
            fixed.push(entry.clone());
        } else {
            return Err(ErrorCode::InvalidAcl);
        }
    }
    if fixed.len() > ENTRIES_MAX {
        return Err(ErrorCode::InvalidAcl);
    }
    Ok(fixed)
}

/// The list as getACL shows it to a caller without ADMIN: what follows the user of a digest id
/// becomes `:x`.
pub fn masked(acl: &[Acl]) -> Vec<Acl> {
    let mask = |entry: &Acl| {
        let colon = entry.id.id.iter().position(|byte| *byte == b':');
        match colon {
            Some(colon) if &*entry.id.scheme == b"digest" => {
                let mut id = Vec::from(&entry.id.id[..colon]);
                id.extend_from_slice(b":x");
                Acl {
                    perms: entry.perms,
                    id: Id { scheme: entry.id.scheme.clone(), id: id.into() },
                }
            }
            Some(_) | None => entry.clone(),
        }
    };
    acl.iter().map(mask).collect()
}

/// Schemes whose ids were proved by their connection, which an address is not.
fn is_authenticated(scheme: &[u8]) -> bool {
    matches!(scheme, b"digest" | b"sasl" | b"x509")
}

fn is_valid(id: &Id) -> bool {
    match &*id.scheme {
        b"world" => &*id.id == b"anyone",
        b"digest" => id.id.iter().filter(|byte| **byte == b':').count() == 1,
        b"ip" => parse_network(&id.id).is_some(),
        _ => false,
    }
}

fn parse_address(text: &[u8]) -> Option<IpAddr> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// An address as 128 bits from the top, and how many of them count.
fn address_bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

/// `address` or `address/bits`.
fn parse_network(text: &[u8]) -> Option<(IpAddr, u8)> {
    let (address, bits) = match text.iter().position(|byte| *byte == b'/') {
        Some(slash) => (&text[..slash], Some(&text[slash + 1..])),
        None => (text, None),
    };
    let address = parse_address(address)?;
    let (_, width) = address_bits(address);
    let bits = match bits {
        Some(bits) => core::str::from_utf8(bits).ok()?.parse().ok()?,
        None => width,
    };
    (bits <= width).then_some((address, bits))
}

fn ip_matches(network: &[u8], address: &[u8]) -> bool {
    let (Some((network, bits)), Some(address)) = (parse_network(network), parse_address(address))
    else {
        return false;
    };
    let ((network, width), (address, address_width)) =
        (address_bits(network), address_bits(address));
    let differing = network ^ address;
    width == address_width && (bits == 0 || differing >> (128 - u32::from(bits)) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(scheme: &str, id: &str) -> Id {
        Id { scheme: scheme.as_bytes().into(), id: id.as_bytes().into() }
    }

    fn entry(perms: i32, scheme: &str, text: &str) -> Acl {
        Acl { perms: Permissions(perms), id: id(scheme, text) }
    }

    #[test]
    fn an_entry_grants_only_its_bits_to_its_ids() {
        let acl = [entry(1, "world", "anyone"), entry(2, "digest", "bob:hash")];
        let bob = [id("ip", "10.0.0.1"), id("digest", "bob:hash")];
        assert!(allows(&acl, Permissions::READ, &[]));
        assert!(!allows(&acl, Permissions::WRITE, &[]));
        assert!(allows(&acl, Permissions::WRITE, &bob));
        assert!(!allows(&acl, Permissions::ADMIN, &bob));
        assert!(allows(&acl, Permissions::ADMIN, &[id("super", "")]));
        assert!(!allows(&acl, Permissions::WRITE, &[id("x509", "bob:hash")]));
        assert!(allows(&[], Permissions::ADMIN, &[]));
    }

    #[test]
    fn addresses_match_by_masked_bits_of_their_own_family() {
        let allowed = |network: &str, address: &str| {
            allows(&[entry(31, "ip", network)], Permissions::READ, &[id("ip", address)])
        };
        assert!(allowed("10.1.2.3", "10.1.2.3"));
        assert!(!allowed("10.1.2.3", "10.1.2.4"));
        assert!(allowed("10.1.0.0/16", "10.1.2.4"));
        assert!(!allowed("10.1.0.0/16", "10.2.2.4"));
        assert!(allowed("0.0.0.0/0", "10.2.2.4"));
        assert!(!allowed("0.0.0.0/0", "::1"));
        assert!(allowed("fe80::/10", "fe80::1"));
        assert!(allowed("::/0", "fe80::1"));
        assert!(!allowed("fe80::/10", "10.2.2.4"));
    }

    #[test]
    fn lists_are_judged_before_they_are_stored() {
        let refused = |acl: &[Acl]| {
            assert_eq!(stored(acl.to_vec(), &[]), Err(ErrorCode::InvalidAcl), "{acl:?}");
        };
        refused(&[]);
        refused(&[entry(31, "world", "somebody")]);
        refused(&[entry(31, "nowhere", "x")]);
        refused(&[entry(31, "digest", "nocolon")]);
        refused(&[entry(31, "digest", "a:b:c")]);
        refused(&[entry(31, "ip", "10.0.0.1/33")]);
        refused(&[entry(31, "ip", "10.0.0")]);
        refused(&[entry(31, "auth", "")]);
        let kept = [entry(255, "world", "anyone"), entry(0, "digest", "a:b")];
        assert_eq!(stored(kept.to_vec(), &[]).unwrap(), kept);
    }

    #[test]
    fn auth_becomes_every_authenticated_id_and_duplicates_go() {
        let ids = [id("ip", "10.0.0.1"), id("digest", "a:b"), id("digest", "c:d")];
        let sent = [entry(3, "auth", "ignored"), entry(1, "world", "anyone")];
        let twice = [sent.clone(), sent].concat();
        let expected =
            [entry(3, "digest", "a:b"), entry(3, "digest", "c:d"), entry(1, "world", "anyone")];
        assert_eq!(stored(twice, &ids).unwrap(), expected);
    }

    #[test]
    fn an_expanded_list_is_bounded_before_it_is_built() {
        let ids: Vec<Id> = (0..100).map(|n| id("digest", &alloc::format!("u{n}:h"))).collect();
        let auth = |n| entry(n, "auth", "");
        let few: Vec<Acl> = (0..40).map(auth).collect();
        assert_eq!(stored(few, &ids).unwrap().len(), 4000);
        let many: Vec<Acl> = (0..50_000).map(auth).collect();
        assert_eq!(stored(many, &ids), Err(ErrorCode::InvalidAcl));
    }

    #[test]
    fn the_secret_part_of_digest_ids_is_masked() {
        let acl = [entry(31, "digest", "bob:hash"), entry(1, "ip", "::1")];
        assert_eq!(masked(&acl), [entry(31, "digest", "bob:x"), entry(1, "ip", "::1")]);
    }
}
