//! `Member`: one `server.N` line, who it is and where it is reached.
//!
//! Resolves no name: hosts stay as they are written.

use std::fmt;

use quorate_proto::ServerId;

/// A host and a port, as written: the host a name or an address, IPv6 without its brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host; empty stands for all of the machine's addresses, where one listens.
    pub host: String,
    /// The port; 0 lets the system choose, where one listens.
    pub port: u16,
}

impl HostPort {
    /// A host and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Whether a member votes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MemberRole {
    /// It votes, and may lead.
    #[default]
    Participant,
    /// It only follows.
    Observer,
}

/// Where one member's peers reach it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberAddress {
    /// Its host.
    pub host: String,
    /// Where its learners connect while it leads.
    pub quorum_port: u16,
    /// Where votes arrive.
    pub election_port: u16,
}

impl MemberAddress {
    /// The address that its learners connect to while it leads.
    pub fn quorum(&self) -> HostPort {
        HostPort::new(self.host.clone(), self.quorum_port)
    }

    /// The address that votes are sent to.
    pub fn election(&self) -> HostPort {
        HostPort::new(self.host.clone(), self.election_port)
    }
}

/// A member of the ensemble:
/// `server.N=host:quorumPort:electionPort[:participant|observer][;[clientHost:]clientPort]`, more
/// addresses separated by `|`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The N.
    pub sid: ServerId,
    /// Its addresses, at least one, the preferred one first.
    pub addresses: Vec<MemberAddress>,
    /// Whether it votes.
    pub role: MemberRole,
    /// Where its clients connect, if its line says so.
    pub client: Option<HostPort>,
}

impl Member {
    /// A participant with one address.
    pub fn new(
        sid: ServerId,
        host: impl Into<String>,
        quorum_port: u16,
        election_port: u16,
    ) -> Self {
        let addresses = vec![MemberAddress { host: host.into(), quorum_port, election_port }];
        Self { sid, addresses, role: MemberRole::Participant, client: None }
    }

    /// The same as an observer.
    #[must_use]
    pub fn observer(mut self) -> Self {
        self.role = MemberRole::Observer;
        self
    }

    /// Whether it votes.
    pub fn is_voter(&self) -> bool {
        self.role == MemberRole::Participant
    }

    /// Reads the value of a `server.N` line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(sid: ServerId, value: &str) -> Result<Self, String> {
        let (peers, client) = match value.split_once(';') {
            Some((peers, client)) => (peers, Some(parse_client(client)?)),
            None => (value, None),
        };
        let mut member = Self { sid, addresses: Vec::new(), role: MemberRole::default(), client };
        for (at, text) in peers.split('|').enumerate() {
            let (address, role) = parse_address(text.trim())?;
            member.addresses.push(address);
            match role {
                Some(role) if at == 0 || role == member.role => member.role = role,
                Some(_) => return Err("its addresses have different roles".to_owned()),
                None => {}
            }
        }
        Ok(member)
    }
}

/// The member's line, with which it parses back.
impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server.{}=", self.sid)?;
        for (at, address) in self.addresses.iter().enumerate() {
            let bar = if at == 0 { "" } else { "|" };
            write!(f, "{bar}{}:{}", address.quorum(), address.election_port)?;
            f.write_str(match self.role {
                MemberRole::Participant => ":participant",
                MemberRole::Observer => ":observer",
            })?;
        }
        match &self.client {
            Some(client) if client.host.is_empty() => write!(f, ";{}", client.port),
            Some(client) => write!(f, ";{client}"),
            None => Ok(()),
        }
    }
}

const EXPECTED: &str = "expected host:quorumPort:electionPort[:participant|observer]\
                        [;[clientHost:]clientPort], e.g. zoo1.example.com:2888:3888";

/// A host, which may be an IPv6 address in brackets, and what follows its colon.
fn split_host(text: &str) -> Result<(&str, &str), String> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(text) => {
            let (host, rest) = text.split_once(']').ok_or("']' is missing")?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    Ok((host, rest))
}

fn parse_address(text: &str) -> Result<(MemberAddress, Option<MemberRole>), String> {
    let (host, rest) = split_host(text)?;
    let parts: Vec<&str> = rest.split(':').collect();
    if host.is_empty() || !(2..=3).contains(&parts.len()) {
        return Err(format!("{text:?} is no member: {EXPECTED}"));
    }
    let quorum_port = parse_port(parts[0], "quorum port")?;
    let election_port = parse_port(parts[1], "election port")?;
    if quorum_port == election_port {
        return Err(format!("quorum port and election port are both {quorum_port}"));
    }
    let role = parts.get(2).map(|text| parse_role(text)).transpose()?;
    Ok((MemberAddress { host: host.to_owned(), quorum_port, election_port }, role))
}

/// `participant` or `observer`, in any case.
pub(super) fn parse_role(text: &str) -> Result<MemberRole, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "participant" => Ok(MemberRole::Participant),
        "observer" => Ok(MemberRole::Observer),
        _ => Err(format!("{text:?} is no role: expected participant or observer")),
    }
}

fn parse_client(text: &str) -> Result<HostPort, String> {
    let text = text.trim();
    let (host, port) = match split_host(text)? {
        (port, "") => ("", port),
        both => both,
    };
    Ok(HostPort::new(host, parse_port(port, "client port")?))
}

pub(super) fn parse_port(text: &str, what: &str) -> Result<u16, String> {
    let port = text.trim().parse().ok().filter(|&port| port != 0);
    port.ok_or_else(|| format!("{text:?} is no {what}: expected a number from 1 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Member, String> {
        Member::parse(ServerId(3), value)
    }

    #[test]
    fn a_plain_line_is_a_participant_without_client_address() {
        let member = parse("zoo3:2888:3888").unwrap();
        assert_eq!(member, Member::new(ServerId(3), "zoo3", 2888, 3888));
        assert!(member.is_voter());
    }

    #[test]
    fn role_and_client_address_are_read() {
        let member = parse("10.0.0.3:2888:3888:observer;10.0.0.4:2181").unwrap();
        assert_eq!(member.role, MemberRole::Observer);
        assert_eq!(member.client, Some(HostPort::new("10.0.0.4", 2181)));
        let member = parse("h:1:2:PARTICIPANT;2181").unwrap();
        assert_eq!(member.client, Some(HostPort::new("", 2181)));
    }

    #[test]
    fn ipv6_stands_in_brackets() {
        let member = parse("[2001:db8::1]:2888:3888;[::1]:2181").unwrap();
        assert_eq!(member.addresses[0].host, "2001:db8::1");
        assert_eq!(member.client, Some(HostPort::new("::1", 2181)));
        assert_eq!(member.addresses[0].quorum().to_string(), "[2001:db8::1]:2888");
    }

    #[test]
    fn several_addresses_share_a_role() {
        let member = parse("a:1:2:observer|b:3:4:observer").unwrap();
        assert_eq!(member.addresses.len(), 2);
        assert_eq!(member.role, MemberRole::Observer);
        assert!(parse("a:1:2|b:3:4:observer").is_err());
    }

    #[test]
    fn a_member_prints_as_the_line_it_is_parsed_from() {
        for value in ["a:1:2:participant", "[::1]:1:2:observer;[::1]:3", "a:1:2:participant;9"] {
            assert_eq!(parse(value).unwrap().to_string(), format!("server.3={value}"));
        }
    }

    #[test]
    fn bad_lines_say_what_is_expected() {
        for (value, expected) in [
            ("zoo3", "expected host:quorumPort"),
            ("zoo3:2888", "expected host:quorumPort"),
            (":1:2", "expected host:quorumPort"),
            ("a:1:2:observer:x", "expected host:quorumPort"),
            ("zoo3:2888:2888", "are both 2888"),
            ("zoo3:0:3888", "\"0\" is no quorum port"),
            ("zoo3:1:70000", "\"70000\" is no election port"),
            ("zoo3:1:2:leader", "expected participant or observer"),
            ("zoo3:1:2;", "is no client port"),
            ("[::1:1:2", "']' is missing"),
            ("", "expected host:quorumPort"),
        ] {
            let problem = parse(value).unwrap_err();
            assert!(problem.contains(expected), "{value}: {problem}");
        }
    }
}
