//! A small blocking client of ZooKeeper's protocol, written from the protocol alone: it shares no
//! code with the server that it tests.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A session's connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    xid: i32,
    pub session: i64,
    pub password: Vec<u8>,
    pub zxid: i64,
}

/// A reply's error code, 0 if there is none, and its body.
#[derive(Debug)]
pub struct Reply {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
    pub body: Vec<u8>,
}

fn put_buffer(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as i32).to_be_bytes());
    out.extend(bytes);
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl Client {
    /// A new session.
    pub fn connect(address: SocketAddr, timeout_ms: i32) -> io::Result<Self> {
        Self::attach(address, timeout_ms, 0, &[0; 16], 0)
    }

    /// An existing session, as a client does after its server is gone.
    pub fn attach(
        address: SocketAddr,
        timeout_ms: i32,
        session: i64,
        password: &[u8],
        zxid: i64,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.set_nodelay(true)?;
        let mut client = Self { stream, xid: 0, session, password: password.to_vec(), zxid };
        let mut request = Vec::new();
        request.extend(0i32.to_be_bytes());
        request.extend(zxid.to_be_bytes());
        request.extend(timeout_ms.to_be_bytes());
        request.extend(session.to_be_bytes());
        put_buffer(&mut request, password);
        request.push(0);
        client.send_frame(&request)?;
        let response = client.read_frame()?;
        if response.len() < 36 {
            return Err(invalid("a short ConnectResponse"));
        }
        let timeout = i32::from_be_bytes(response[4..8].try_into().expect("4 bytes"));
        if timeout <= 0 {
            return Err(io::Error::new(ErrorKind::PermissionDenied, "the session has expired"));
        }
        client.session = i64::from_be_bytes(response[8..16].try_into().expect("8 bytes"));
        client.password = response[20..36].to_vec();
        Ok(client)
    }

    pub fn send_frame(&mut self, payload: &[u8]) -> io::Result<()> {
        let mut frame = (payload.len() as i32).to_be_bytes().to_vec();
        frame.extend(payload);
        self.stream.write_all(&frame)
    }

    pub fn read_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.stream.read_exact(&mut len)?;
        let mut frame = vec![0; i32::from_be_bytes(len) as usize];
        self.stream.read_exact(&mut frame)?;
        Ok(frame)
    }

    /// Sends a request without waiting; its number.
    pub fn send(&mut self, opcode: i32, body: &[u8]) -> io::Result<i32> {
        self.xid += 1;
        let mut request = self.xid.to_be_bytes().to_vec();
        request.extend(opcode.to_be_bytes());
        request.extend(body);
        self.send_frame(&request)?;
        Ok(self.xid)
    }

    /// The next reply; events and pings are passed over.
    pub fn receive(&mut self) -> io::Result<Reply> {
        loop {
            let frame = self.read_frame()?;
            if frame.len() < 16 {
                return Err(invalid("a short reply"));
            }
            let xid = i32::from_be_bytes(frame[0..4].try_into().expect("4 bytes"));
            if xid == -1 || xid == -2 {
                continue;
            }
            let zxid = i64::from_be_bytes(frame[4..12].try_into().expect("8 bytes"));
            let err = i32::from_be_bytes(frame[12..16].try_into().expect("4 bytes"));
            // Refusals of unknown operations carry no state.
            if zxid > 0 {
                assert!(zxid >= self.zxid, "zxid went back from {:#x} to {zxid:#x}", self.zxid);
                self.zxid = zxid;
            }
            return Ok(Reply { xid, zxid, err, body: frame[16..].to_vec() });
        }
    }

    pub fn call(&mut self, opcode: i32, body: &[u8]) -> io::Result<Reply> {
        let xid = self.send(opcode, body)?;
        let reply = self.receive()?;
        assert_eq!(reply.xid, xid, "replies out of order");
        Ok(reply)
    }

    pub fn create_body(path: &str, data: &[u8], flags: i32) -> Vec<u8> {
        let mut body = Vec::new();
        put_buffer(&mut body, path.as_bytes());
        put_buffer(&mut body, data);
        body.extend(1i32.to_be_bytes());
        body.extend(31i32.to_be_bytes());
        put_buffer(&mut body, b"world");
        put_buffer(&mut body, b"anyone");
        body.extend(flags.to_be_bytes());
        body
    }

    /// create; the reply's error code.
    pub fn create(&mut self, path: &str, data: &[u8], flags: i32) -> io::Result<i32> {
        Ok(self.call(1, &Self::create_body(path, data, flags))?.err)
    }

    /// setData to any version; the reply's error code.
    pub fn set(&mut self, path: &str, data: &[u8]) -> io::Result<i32> {
        let mut body = Vec::new();
        put_buffer(&mut body, path.as_bytes());
        put_buffer(&mut body, data);
        body.extend((-1i32).to_be_bytes());
        Ok(self.call(5, &body)?.err)
    }

    /// getData; `None` if the node is missing.
    pub fn get(&mut self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let mut body = Vec::new();
        put_buffer(&mut body, path.as_bytes());
        body.push(0);
        let reply = self.call(4, &body)?;
        if reply.err != 0 {
            return Ok(None);
        }
        let len = i32::from_be_bytes(reply.body[0..4].try_into().expect("4 bytes"));
        Ok(Some(reply.body[4..4 + len.max(0) as usize].to_vec()))
    }

    pub fn children(&mut self, path: &str) -> io::Result<Vec<String>> {
        let mut body = Vec::new();
        put_buffer(&mut body, path.as_bytes());
        body.push(0);
        let reply = self.call(8, &body)?;
        let mut at = 4;
        let mut names = Vec::new();
        while reply.err == 0 && at < reply.body.len() {
            let len = i32::from_be_bytes(reply.body[at..at + 4].try_into().expect("4 bytes"));
            let end = at + 4 + len as usize;
            names.push(String::from_utf8_lossy(&reply.body[at + 4..end]).into_owned());
            at = end;
        }
        names.sort();
        Ok(names)
    }

    pub fn sync(&mut self, path: &str) -> io::Result<i32> {
        let mut body = Vec::new();
        put_buffer(&mut body, path.as_bytes());
        Ok(self.call(9, &body)?.err)
    }

    pub fn close(mut self) -> io::Result<()> {
        self.call(-11, &[]).map(|_| ())
    }
}
