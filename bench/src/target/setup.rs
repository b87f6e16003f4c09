//! Making the znodes of a run before it, and removing them after it, over one blocking connection.
//!
//! Measures nothing.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::jute::{Asked, Event, Session, code_name};
use crate::workload::{Kind, Request, jute_string};

/// Requests under way at once.
const PIPELINE: usize = 256;
/// A server that leads, or has a leader, answers well within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const SESSION_TIMEOUT_MS: i32 = 30_000;
const NO_NODE: i32 = -101;
const NODE_EXISTS: i32 = -110;

/// One session on a blocking socket.
#[derive(Debug)]
pub(crate) struct Direct {
    stream: TcpStream,
    session: Session,
    codes: Vec<i32>,
}

impl Direct {
    /// Opens a session at `server`, trying again until `deadline`: servers may still be electing.
    pub(crate) fn open(server: SocketAddr, deadline: Instant) -> Result<Self> {
        loop {
            match Self::try_open(server) {
                Ok(direct) => return Ok(direct),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error).with_context(|| {
                        format!(
                            "no session at {server}: check that a server listens there, that it is \
                             a ZooKeeper or quorate server, and that its ensemble has a quorum"
                        )
                    });
                }
                Err(_) => std::thread::park_timeout(Duration::from_millis(100)),
            }
        }
    }

    fn try_open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        let mut session = Session::new(SESSION_TIMEOUT_MS);
        session.connect(0);
        let mut direct = Self { stream, session, codes: Vec::new() };
        direct.send()?;
        while !direct.session.is_ready() {
            direct.receive()?;
        }
        Ok(direct)
    }

    fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(self.session.out())?;
        self.session.sent(self.session.out().len());
        Ok(())
    }

    fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer within 10 s"));
            }
            Err(error) => return Err(error),
        };
        let codes = &mut self.codes;
        let received = self.session.receive(&buffer[..count], |event| {
            if let Event::Replied { asked, code, .. } = event
                && asked != Asked::Close
            {
                codes.push(code);
            }
        });
        received.map_err(|broken| io::Error::new(ErrorKind::InvalidData, broken.0))
    }

    /// Asks for all, a pipeline's worth at a time, and gives every answer's code to `check`.
    fn all(
        &mut self,
        paths: &[String],
        mut ask: impl FnMut(&mut Session, &[u8]),
        mut check: impl FnMut(&str, i32) -> Result<()>,
    ) -> Result<()> {
        for batch in paths.chunks(PIPELINE) {
            for path in batch {
                ask(&mut self.session, &jute_string(path));
            }
            self.send()?;
            while self.session.outstanding() > 0 {
                self.receive()?;
            }
            for (path, code) in batch.iter().zip(self.codes.drain(..)) {
                check(path, code)?;
            }
        }
        Ok(())
    }

    /// Creates all paths; those that exist are fine.
    pub(crate) fn create(&mut self, paths: &[String], data: &[u8]) -> Result<()> {
        let ask = |session: &mut Session, path: &[u8]| session.prepare(path, data, 0);
        self.all(paths, ask, |path, code| match code {
            0 | NODE_EXISTS => Ok(()),
            code => bail!("cannot create {path}: {} ({code})", code_name(code)),
        })
    }

    /// Deletes all paths; those that are missing are fine.
    pub(crate) fn delete(&mut self, paths: &[String]) -> Result<()> {
        self.all(
            paths,
            |session, path| session.delete(path, 0),
            |path, code| match code {
                0 | NO_NODE => Ok(()),
                code => bail!("cannot delete {path}: {} ({code})", code_name(code)),
            },
        )
    }

    /// Waits until this server has `path`, which another one was asked to create.
    pub(crate) fn wait_for(&mut self, path: &str, deadline: Instant) -> Result<()> {
        let paths = [path.to_owned()];
        let ask = |session: &mut Session, path: &[u8]| {
            session.send(&Request { kind: Kind::Read, path, data: &[] }, 0, 0);
        };
        loop {
            let mut found = false;
            self.all(&paths, ask, |_, code| {
                found = code == 0;
                Ok(())
            })?;
            if found {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("{path} does not appear at {}", self.stream.peer_addr()?);
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// Ends the session.
    pub(crate) fn close(mut self) {
        self.session.close(0);
        // The session expires by itself if this fails.
        if self.send().is_ok() {
            while !self.session.is_closed() && self.receive().is_ok() {}
        }
    }
}
