//! A log record is the frame that travels: what the wire crate encodes is what the log keeps.

mod rig;

use quorate_storage::StoreEvent;
use quorate_storage::record::RecordHeader;
use quorate_wire::native::proposal::ProposalEncoder;
use rig::{FakeDisk, Rig, small, z};

#[test]
fn a_proposal_is_a_record_and_comes_back_byte_for_byte() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    let mut encoder = ProposalEncoder::new();
    let mut frames = Vec::new();
    for counter in 1..=9 {
        let body = encoder.begin(z(1, counter), z(1, counter - 1));
        body.extend_from_slice(&[counter as u8; 900]);
        let frame = encoder.finish();
        let header = RecordHeader::parse(&frame, 6000).expect("a proposal is a record");
        assert_eq!((header.zxid, header.committed), (z(1, counter), z(1, counter - 1)));
        assert_eq!(header.verify(&frame), Ok(()));
        rig.store.append(z(1, counter), frame.clone());
        frames.push(frame);
    }
    rig.settle();
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    let found = rig.events.iter().filter_map(|event| match event {
        StoreEvent::Record { frame, .. } => Some(frame.clone()),
        _ => None,
    });
    assert_eq!(found.collect::<Vec<_>>(), frames);
    assert_eq!(recovered.committed_hint, z(1, 8), "the watermark that rides is found again");
}
