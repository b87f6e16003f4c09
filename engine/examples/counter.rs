//! A replicated state of one's own: a counter on three servers in one process.
//!
//! `cargo run --release --example counter`

use std::time::Duration;

use quorate::{Config, Error, Machine, Replicated, Role, Server, Zxid};

/// Adds what it is told to; answers with the sum.
#[derive(Default)]
struct Counter(u64);

impl Replicated for Counter {
    fn apply(&mut self, _zxid: Zxid, command: &[u8], reply: &mut Vec<u8>) {
        self.0 += u64::from(command.first().copied().unwrap_or(0));
        reply.extend(self.0.to_le_bytes());
    }

    fn ask(&self, _question: &[u8], answer: &mut Vec<u8>) {
        answer.extend(self.0.to_le_bytes());
    }

    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let bytes = snapshot.try_into().map_err(|_| "a counter has 8 bytes".to_owned())?;
        self.0 = u64::from_le_bytes(bytes);
        Ok(())
    }
}

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let folder = std::env::temp_dir().join(format!("quorate-counter-{}", std::process::id()));
    let servers = Config::local_ensemble(&folder, 3)?
        .into_iter()
        .map(|config| Server::start_with(config, Machine::new(Counter::default())))
        .collect::<Result<Vec<_>, _>>()?;
    for server in &servers {
        println!("serving as {:?}", server.wait_serving(Duration::from_secs(30))?);
    }
    let proposers: Vec<_> = servers.iter().map(Server::proposer).collect();
    // Through every server, in flight together: one order for all of them.
    let pending: Vec<_> = (0..300).map(|n| proposers[n % 3].propose(&[1])).collect();
    for answer in pending {
        answer.wait()?;
    }
    let leader = servers
        .iter()
        .position(|server| server.role() == Role::Leader)
        .expect("a serving ensemble has a leader");
    let sum = proposers[leader].ask(b"").wait()?;
    println!("the sum is {}", u64::from_le_bytes(sum[..8].try_into().expect("8 bytes")));
    drop(proposers);
    for server in servers {
        server.shutdown()?;
    }
    std::fs::remove_dir_all(&folder).map_err(|source| Error::File { path: folder, source })
}
