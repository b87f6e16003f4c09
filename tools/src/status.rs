//! `quorate status`: what servers say of themselves over their client port.
//!
//! Asks quorate's own word `qsta` first, and ZooKeeper's `srvr` where that is not known. Changes
//! nothing on the server.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Far more than a server with thousands of learners would say.
const ANSWER_LEN_MAX: u64 = 4 * 1024 * 1024;

/// What one server says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its id; ZooKeeper does not tell.
    pub sid: Option<u64>,
    /// leader, follower, observer, standalone, looking, or what else it says.
    pub role: String,
    /// The epoch.
    pub epoch: Option<u64>,
    /// Whom it follows.
    pub leader: Option<u64>,
    /// The last transaction that it has applied.
    pub zxid: String,
    /// The last one that it knows to be committed.
    pub committed: Option<String>,
    /// The last one that it has proposed or logged.
    pub last: Option<String>,
    /// The leader's view of those who follow it.
    #[serde(default)]
    pub learners: Vec<Learner>,
    /// Open sessions of the ensemble.
    pub sessions: Option<u64>,
    /// Connections to this server.
    pub connections: Option<u64>,
    /// Znodes.
    pub znodes: Option<u64>,
    /// The digest of the tree at `zxid`: equal on all servers at equal zxids.
    pub digest: Option<String>,
    /// The server's version.
    pub version: Option<String>,
}

/// A learner, as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learner {
    /// Its id.
    pub sid: u64,
    /// follower or observer.
    pub role: String,
    /// What it has acknowledged.
    pub acked: String,
    /// How many transactions that is behind; unknown for observers, which acknowledge nothing.
    pub lag: Option<u64>,
    /// Whether it has synchronised.
    pub synced: bool,
}

impl Status {
    /// Whether it serves clients.
    pub fn is_serving(&self) -> bool {
        matches!(
            self.role.as_str(),
            "leader" | "follower" | "observer" | "standalone" | "read-only"
        )
    }
}

/// Asks a server.
///
/// # Errors
/// In words, if it does not answer, or not as a ZooKeeper server does.
pub fn ask(server: &str, limit: Duration) -> Result<Status, String> {
    let own = say(server, "qsta", limit).map_err(|error| describe(&error, limit))?;
    if !own.trim().is_empty() {
        return parse_qsta(&own);
    }
    // ZooKeeper takes the unknown word as a length and closes the connection.
    let text = say(server, "srvr", limit).map_err(|error| describe(&error, limit))?;
    parse_srvr(&text)
}

fn describe(error: &io::Error, limit: Duration) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {limit:?}"),
        ErrorKind::ConnectionRefused => "nothing listens there (connection refused)".to_owned(),
        _ => error.to_string(),
    }
}

/// Sends a word on a connection of its own and reads to the end.
fn say(server: &str, word: &str, limit: Duration) -> io::Result<String> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return converse(stream, word, limit),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn converse(mut stream: TcpStream, word: &str, limit: Duration) -> io::Result<String> {
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(word.as_bytes())?;
    let mut bytes = Vec::new();
    match stream.take(ANSWER_LEN_MAX).read_to_end(&mut bytes) {
        // A server that closes at once may reset; what it had to say has arrived.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Reads quorate's answer.
///
/// # Errors
/// In words, if it is none.
pub fn parse_qsta(text: &str) -> Result<Status, String> {
    serde_json::from_str(text).map_err(|error| {
        format!("the answer to qsta cannot be read ({error}): {:?}", beginning(text))
    })
}

/// Reads ZooKeeper's answer to `srvr`.
///
/// # Errors
/// In words, if it is none, or the server says that it does not serve.
pub fn parse_srvr(text: &str) -> Result<Status, String> {
    if text.trim().is_empty() {
        return Err("the server closes the connection: is this a ZooKeeper client port?".to_owned());
    }
    if text.contains("not currently serving requests") {
        return Ok(Status {
            role: "looking".to_owned(),
            zxid: "0x0".to_owned(),
            ..Status::default()
        });
    }
    if text.contains("is not executed because it is not in the whitelist") {
        return Err("srvr is not allowed: add it to 4lw.commands.whitelist".to_owned());
    }
    let field = |name: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    };
    let (Some(role), Some(zxid)) = (field("Mode"), field("Zxid")) else {
        return Err(format!("the answer to srvr cannot be read: {:?}", beginning(text)));
    };
    let number = |name: &str| field(name).and_then(|value| value.parse().ok());
    let bits = zxid.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
    Ok(Status {
        role: role.to_owned(),
        epoch: bits.map(|zxid| zxid >> 32),
        zxid: zxid.to_owned(),
        connections: number("Connections"),
        znodes: number("Node count"),
        version: field("Zookeeper version").map(str::to_owned),
        ..Status::default()
    })
}

fn beginning(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A table of all answers, and the learners of each leader.
pub fn table(answers: &[(String, Result<Status, String>)]) -> String {
    let width = answers.iter().map(|(server, _)| server.len()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "{:width$}  {:>3}  {:10}  {:>5}  {:>13}  {:>8}  {:>8}  version\n",
        "server", "sid", "role", "epoch", "zxid", "sessions", "conns"
    );
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |n| n.to_string());
    for (server, answer) in answers {
        // Writing to a String cannot fail.
        let _ = match answer {
            Ok(status) => writeln!(
                text,
                "{server:width$}  {:>3}  {:10}  {:>5}  {:>13}  {:>8}  {:>8}  {}",
                number(status.sid),
                status.role,
                number(status.epoch),
                status.zxid,
                number(status.sessions),
                number(status.connections),
                status.version.as_deref().unwrap_or("-"),
            ),
            Err(why) => writeln!(text, "{server:width$}    -  down        {why}"),
        };
    }
    let statuses = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    for status in statuses.filter(|status| !status.learners.is_empty()) {
        let _ = writeln!(text, "\nlearners of server {}", number(status.sid));
        let _ =
            writeln!(text, "{:>6}  {:10}  {:>13}  {:>8}  synced", "sid", "role", "acked", "lag");
        for learner in &status.learners {
            let _ = writeln!(
                text,
                "{:>6}  {:10}  {:>13}  {:>8}  {}",
                learner.sid,
                learner.role,
                learner.acked,
                number(learner.lag),
                if learner.synced { "yes" } else { "no" },
            );
        }
    }
    text
}

/// All answers as one array.
pub fn json(answers: &[(String, Result<Status, String>)]) -> serde_json::Value {
    let one = |(server, answer): &(String, Result<Status, String>)| match answer {
        Ok(status) => {
            let mut value = serde_json::json!(status);
            value["server"] = server.as_str().into();
            value
        }
        Err(why) => serde_json::json!({ "server": server, "role": "down", "error": why }),
    };
    answers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const QSTA: &str = "{\"sid\":1,\"role\":\"leader\",\"epoch\":2,\"leader\":1,\
        \"zxid\":\"0x200000007\",\"committed\":\"0x200000007\",\"last\":\"0x200000009\",\
        \"learners\":[{\"sid\":2,\"role\":\"follower\",\"acked\":\"0x200000008\",\"lag\":1,\
        \"synced\":true},{\"sid\":9,\"role\":\"observer\",\"acked\":\"0x0\",\"lag\":null,\
        \"synced\":false}],\"sessions\":1,\"connections\":3,\"znodes\":5,\"digest\":\"0xab\",\
        \"version\":\"quorate-0.1.0\",\"a later field\":[]}\n";
    const SRVR: &str = "Zookeeper version: 3.8.0-5a02a05eddb59aee6ac762f7ea82e92a68eb9c0f, built on \
        2022-02-25 08:49 UTC\nLatency min/avg/max: 0/1.8/46\nReceived: 667\nSent: 740\n\
        Connections: 2\nOutstanding: 0\nZxid: 0x3000001c9\nMode: follower\nNode count: 66\n";

    /// A server that answers one connection after the other, each with the next text.
    fn server(answers: &'static [&'static str]) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = move || {
            let answer = |text: &&str| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut word = [0; 4];
                stream.read_exact(&mut word).unwrap();
                stream.write_all(text.as_bytes()).unwrap();
                String::from_utf8(word.to_vec()).unwrap()
            };
            answers.iter().map(answer).collect()
        };
        (address, thread::spawn(serve))
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn quorates_own_answer_is_read_with_its_learners() {
        let status = parse_qsta(QSTA).unwrap();
        assert_eq!((status.sid, status.epoch), (Some(1), Some(2)));
        assert_eq!(status.learners.len(), 2);
        assert_eq!((status.learners[0].lag, status.learners[1].lag), (Some(1), None));
        assert!(status.is_serving());
    }

    #[test]
    fn zookeepers_answer_is_read() {
        let status = parse_srvr(SRVR).unwrap();
        assert_eq!((status.role.as_str(), status.zxid.as_str()), ("follower", "0x3000001c9"));
        assert_eq!((status.epoch, status.connections, status.znodes), (Some(3), Some(2), Some(66)));
        assert!(status.version.unwrap().starts_with("3.8.0-"));
    }

    #[test]
    fn a_server_without_a_quorum_is_looking() {
        let text = "This ZooKeeper instance is not currently serving requests\n";
        let status = parse_srvr(text).unwrap();
        assert_eq!((status.role.as_str(), status.is_serving()), ("looking", false));
    }

    #[test]
    fn answers_that_are_none_are_described() {
        assert!(parse_srvr("").unwrap_err().contains("client port?"));
        assert!(parse_srvr("HTTP/1.1 400 Bad Request\n").unwrap_err().contains("HTTP/1.1 400"));
        let refused = "srvr is not executed because it is not in the whitelist.\n";
        assert!(parse_srvr(refused).unwrap_err().contains("4lw.commands.whitelist"));
        assert!(parse_qsta("{\"role\":1}").is_err());
        assert!(parse_qsta("imok").unwrap_err().contains("imok"));
    }

    #[test]
    fn quorate_is_asked_once_and_zookeeper_twice() {
        let (address, asked) = server(&[QSTA]);
        assert_eq!(ask(&address, LIMIT).unwrap().role, "leader");
        assert_eq!(asked.join().unwrap(), ["qsta"]);
        let (address, asked) = server(&["", SRVR]);
        assert_eq!(ask(&address, LIMIT).unwrap().role, "follower");
        assert_eq!(asked.join().unwrap(), ["qsta", "srvr"]);
    }

    #[test]
    fn a_server_that_is_down_is_named_and_the_others_are_shown() {
        let (address, _) = server(&[]);
        let answers = vec![
            ("zoo1:2181".to_owned(), parse_qsta(QSTA)),
            (address.clone(), ask(&address, LIMIT)),
        ];
        let text = table(&answers);
        assert!(text.lines().any(|line| line.starts_with("zoo1:2181") && line.contains("leader")));
        assert!(text.lines().any(|line| line.contains("down")), "{text}");
        assert!(text.contains("learners of server 1") && text.contains("0x200000008"), "{text}");
        let json = json(&answers);
        assert_eq!(json[0]["learners"][0]["lag"], 1);
        assert_eq!(json[0]["server"], "zoo1:2181");
        assert_eq!(json[1]["role"], "down");
    }
}
