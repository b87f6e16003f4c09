//! A server inside a program: start it, write, read, see where the time went.
//!
//! `cargo run --release --example embed` runs it alone; with a `zoo.cfg` as its argument it joins
//! that ensemble.

use std::fs::File;
use std::time::Duration;

use quorate::{Config, CreateMode, Error, Server};

fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let folder = std::env::temp_dir().join(format!("quorate-embed-{}", std::process::id()));
    let config = match std::env::args().nth(1) {
        Some(file) => Config::from_zoo_cfg(file)?,
        None => Config::builder(&folder).build()?,
    };
    let server = Server::start(config)?;
    println!("serving as {:?}", server.wait_serving(Duration::from_secs(30))?);

    let session = server.session(Duration::from_secs(10))?;
    let path = session.create("/w-", b"me", CreateMode::EphemeralSequential).wait()?;
    let (data, stat) = session.get_data(&path).wait()?;
    println!("{path}: {} bytes, version {}", data.len(), stat.version);

    let file = folder.with_extension("hlog");
    File::create(&file)
        .and_then(|mut log| server.histograms().write_log(&mut log))
        .map_err(|source| Error::File { path: file.clone(), source })?;
    println!("steps of the write: quorate hist {}", file.display());
    drop(session);
    server.shutdown()
}
