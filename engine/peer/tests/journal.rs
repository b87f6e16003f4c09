//! A state machine of one's own over a whole ensemble: a list of entries, proposed in the process.
//!
//! Knows no znode.

mod ensemble;

use bytes::{BufMut, Bytes, BytesMut};
use ensemble::client::Heard;
use ensemble::{Ensemble, Options, SHAPES, ms};
use quorate_peer::StateMachine;
use quorate_peer::links::Port;
use quorate_peer::machine::{Event, OP_PROPOSE, Proposal, Query, SessionChange};
use quorate_proto::Zxid;
use quorate_tree::txn::TxnHeader;
use quorate_wire::Frame;

/// Entries in order; its digest is a fold over them.
#[derive(Debug, Default)]
struct Journal {
    entries: Vec<Vec<u8>>,
    digest: u64,
    last: Zxid,
}

impl Journal {
    fn push(&mut self, zxid: Zxid, entry: &[u8]) {
        for byte in entry {
            self.digest = (self.digest ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        }
        self.entries.push(entry.to_vec());
        self.last = zxid;
    }
}

/// The image of a journal, read from `at` on.
struct Image {
    bytes: Vec<u8>,
    at: usize,
}

impl StateMachine for Journal {
    type Cut = Image;
    type Restore = Vec<u8>;

    fn prepare(&mut self, proposal: &Proposal<'_>, txn: &mut BytesMut) -> i32 {
        txn.put_slice(proposal.body);
        7
    }

    fn apply(&mut self, header: &TxnHeader, record: &[u8], _: &mut Vec<Event>) -> SessionChange {
        self.push(header.zxid, record);
        SessionChange::None
    }

    fn encode_reply(&mut self, header: &TxnHeader, out: &mut BytesMut) {
        quorate_wire::jute::client::encode_reply_header(
            header.cxid,
            header.zxid.as_u64() as i64,
            0,
            out,
        );
    }

    fn query(&mut self, _: &Query<'_>, _: Zxid, _: &mut Vec<Event>, _: &mut BytesMut) {}

    fn digest(&self) -> u64 {
        self.digest
    }

    fn begin_cut(&mut self, at: Zxid) -> Image {
        let mut bytes = at.as_u64().to_be_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend_from_slice(&(entry.len() as u32).to_be_bytes());
            bytes.extend_from_slice(entry);
        }
        Image { bytes, at: 0 }
    }

    fn cut_slice(&mut self, cut: &mut Image, max: usize, out: &mut BytesMut) -> bool {
        let end = cut.bytes.len().min(cut.at + max);
        out.put_slice(&cut.bytes[cut.at..end]);
        cut.at = end;
        end == cut.bytes.len()
    }

    fn end_cut(&mut self, _: Image) {}

    fn begin_restore(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore_chunk(&self, restore: &mut Vec<u8>, bytes: &[u8]) -> Result<(), String> {
        restore.extend_from_slice(bytes);
        Ok(())
    }

    fn finish_restore(&mut self, restore: Vec<u8>) -> Result<Zxid, String> {
        let (zxid, mut rest) = restore.split_first_chunk::<8>().ok_or("it has no zxid")?;
        let zxid = Zxid::from_u64(u64::from_be_bytes(*zxid));
        let mut fresh = Self::default();
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let (entry, behind) = behind.split_at(u32::from_be_bytes(*len) as usize);
            fresh.push(zxid, entry);
            rest = behind;
        }
        *self = fresh;
        Ok(zxid)
    }
}

fn entry(xid: i32, bytes: &[u8]) -> Frame {
    let mut out = BytesMut::new();
    out.put_i32(8 + bytes.len() as i32);
    out.put_i32(xid);
    out.put_i32(OP_PROPOSE);
    out.put_slice(bytes);
    Frame::from(Bytes::from(out))
}

#[test]
fn entries_proposed_in_any_process_are_in_one_order_everywhere() {
    for shape in SHAPES {
        let options = Options { snap_count: 10, ..Options::new(shape, 3) };
        let mut e = Ensemble::<Journal>::new(options, |_| Journal::default());
        e.run_until("a leader", |e| (0..3).all(|at| e.is_serving(at)) && e.leader().is_some());
        let proposers: Vec<usize> = (0..3).map(|at| e.dial(at, Port::Propose, false)).collect();
        // Whoever connects so gets no session's frame: its first frame is an answer.
        for p in &proposers {
            e.clients[*p].heard.push(Heard::Text(String::new()));
        }
        for n in 0..50 {
            for p in &proposers {
                e.send(*p, entry(n, format!("{p}.{n}").as_bytes()));
            }
        }
        e.run_until("all is answered", |e| {
            proposers.iter().all(|p| e.clients[*p].heard.len() == 51)
        });
        for p in &proposers {
            let answers = e.clients[*p].heard[1..].iter().enumerate();
            for (n, heard) in answers {
                assert!(matches!(heard, Heard::Reply { xid, err: 0, .. } if *xid == n as i32));
            }
        }
        // One comes back from its own snapshot, one from nothing.
        e.restart(0);
        e.crash(1);
        e.servers[1].disk.wipe();
        e.start(1);
        e.run_for(ms(100));
        e.run_until("level", |e| e.is_level());
        let first = e.tree(0).machine().entries.clone();
        assert_eq!(first.len(), 150);
        for at in 1..3 {
            assert_eq!(e.tree(at).machine().entries, first);
        }
        for p in &proposers {
            let prefix = format!("{p}.");
            let own = first.iter().filter(|entry| entry.starts_with(prefix.as_bytes()));
            let expected: Vec<Vec<u8>> = (0..50).map(|n| format!("{p}.{n}").into_bytes()).collect();
            assert_eq!(own.cloned().collect::<Vec<_>>(), expected, "in the order proposed");
        }
        assert_eq!(e.fatals, Vec::new());
    }
}
