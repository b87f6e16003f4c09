//! Snapshots through the store: they count when whole, the log is kept as far as they need it, and
//! a received one takes the log's place.

mod rig;

use quorate_proto::{Durable, Zxid};
use quorate_storage::disk::BLOCK_SIZE;
use quorate_storage::inspect::{SegmentItem, inspect_epochs, inspect_segment, verify_snapshot};
use quorate_storage::{DiskOp, Reason, SnapshotKind, StoreConfig, StoreEvent};
use quorate_wire::Frame;
use rig::{FakeDisk, Rig, small, z};

fn chunk(zxid: Zxid) -> Frame {
    Frame::copy_from(&[zxid.counter() as u8; 5000])
}

/// Writes one own snapshot at the durable end.
fn snapshot(rig: &mut Rig) -> Zxid {
    let zxid = rig.store.durable();
    rig.store.begin_snapshot(zxid, SnapshotKind::Own);
    rig.store.snapshot_chunk(chunk(zxid), false);
    rig.settle();
    rig.store.snapshot_chunk(chunk(zxid), true);
    rig.settle();
    assert_eq!(rig.events.last(), Some(&StoreEvent::SnapshotWritten { zxid }));
    zxid
}

fn install(rig: &mut Rig, zxid: Zxid) {
    rig.store.begin_snapshot(zxid, SnapshotKind::Installed);
    rig.store.snapshot_chunk(chunk(zxid), false);
    rig.store.snapshot_chunk(chunk(zxid), true);
}

/// A store with two snapshots, at 1/5 and 1/10, and records up to 1/14.
fn two_snapshots() -> Rig {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=5, 3000);
    snapshot(&mut rig);
    rig.append_each(1, 6..=10, 3000);
    snapshot(&mut rig);
    rig.append_each(1, 11..=14, 3000);
    rig
}

fn is_batch(op: &DiskOp) -> bool {
    matches!(op, DiskOp::Write { sync: true, offset, .. } if *offset > 0)
}

fn is_clean_up(op: &DiskOp) -> bool {
    match op {
        DiskOp::Rename { from, .. } => from.starts_with("log."),
        DiskOp::Remove { .. } => true,
        _ => false,
    }
}

fn snapshot_name(zxid: Zxid) -> String {
    format!("snapshot.{:016x}", zxid.as_u64())
}

#[test]
fn recovery_gives_the_newest_snapshot_and_the_records_behind_it() {
    let (rig, recovered) = Rig::start(small(), two_snapshots().disk.restart());
    assert_eq!(recovered.snapshot, Some(z(1, 10)));
    assert_eq!(rig.chunks(), [chunk(z(1, 10)).to_vec(), chunk(z(1, 10)).to_vec()]);
    assert_eq!(rig.records(), [z(1, 11), z(1, 12), z(1, 13), z(1, 14)]);
    assert_eq!(recovered.committed_hint, z(1, 10), "a snapshot holds committed state only");
    let last = |event: &&StoreEvent| matches!(event, StoreEvent::SnapshotChunk { last: true, .. });
    assert_eq!(rig.events.iter().filter(last).count(), 1);
}

#[test]
fn an_unreadable_newest_snapshot_falls_back_as_long_as_the_log_reaches() {
    let disk = two_snapshots().disk.restart();
    for at in [3, 60, BLOCK_SIZE + 100, 3 * BLOCK_SIZE + 2] {
        let mut disk = disk.clone();
        disk.bytes(&snapshot_name(z(1, 10)))[at] ^= 1;
        let (rig, recovered) = Rig::start(small(), disk);
        assert_eq!(recovered.snapshot, Some(z(1, 5)), "flip at {at}");
        assert_eq!(recovered.quarantined, None);
        assert_eq!(rig.records(), (6..=14).map(|c| z(1, c)).collect::<Vec<_>>());
    }
}

#[test]
fn an_unreadable_snapshot_that_the_log_does_not_reach_is_damage() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(2);
    rig.append_each(2, 1..=5, 3000);
    snapshot(&mut rig);
    install(&mut rig, z(2, 90));
    rig.settle();
    let mut disk = rig.disk.restart();
    let name = snapshot_name(z(2, 90));
    disk.bytes(&name)[BLOCK_SIZE + 100] ^= 1;
    let (_, recovered) = Rig::start(small(), disk);
    assert!(recovered.quarantined.is_some());
    assert_eq!(recovered.snapshot, Some(z(2, 5)));
}

#[test]
fn a_log_that_ends_before_an_unreadable_snapshot_is_damage() {
    let mut disk = two_snapshots().disk.restart();
    disk.bytes(&snapshot_name(z(1, 10)))[BLOCK_SIZE + 100] ^= 1;
    let second = disk.names("log.")[1].clone();
    disk.bytes(&second)[BLOCK_SIZE..].fill(0);
    let (_, recovered) = Rig::start(small(), disk);
    assert_eq!((recovered.snapshot, recovered.history.last()), (Some(z(1, 5)), z(1, 7)));
    let damage = recovered.quarantined.expect("what the snapshot held is lost");
    assert_eq!(damage.file, snapshot_name(z(1, 10)));
}

#[test]
fn a_log_without_the_received_snapshot_before_it_is_damage_until_rebuilt() {
    let mut rig = two_snapshots();
    rig.promise(3);
    // The old segments are still there when the server stops.
    rig.disk.hold = Some(is_clean_up);
    install(&mut rig, z(3, 7));
    rig.append(z(3, 8), 100);
    rig.settle();
    let mut disk = rig.disk.restart();
    disk.remove(&snapshot_name(z(3, 7)));
    let (rig, recovered) = Rig::start(small(), disk);
    assert!(recovered.quarantined.is_some());
    assert_eq!(recovered.snapshot, Some(z(1, 10)), "the old state is what is left");
    let (mut rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert!(recovered.quarantined.is_some());
    install(&mut rig, z(3, 9));
    rig.settle();
    rig.store.rebuilt();
    rig.settle();
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!((recovered.quarantined, recovered.snapshot), (None, Some(z(3, 9))));
    assert_eq!(rig.records(), []);
}

#[test]
fn a_received_snapshot_waits_for_what_the_old_log_has_under_way() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(3);
    rig.append_each(1, 1..=3, 100);
    rig.disk.hold = Some(is_batch);
    rig.append(z(1, 4), 100);
    rig.poll();
    install(&mut rig, z(3, 1));
    rig.settle();
    assert!(!rig.disk.names("snapshot.").contains(&snapshot_name(z(3, 1))));
    rig.events.clear();
    rig.disk.hold = None;
    rig.settle();
    assert_eq!(rig.durables(), [Durable::Snapshot { zxid: z(3, 1) }]);
}

#[test]
fn the_segment_before_a_still_empty_one_is_kept() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=7, 3000);
    // The next record opens the second segment, but the power goes before it is there.
    rig.disk.hold = Some(is_batch);
    rig.append(z(1, 8), 3000);
    rig.poll();
    rig.store.begin_snapshot(z(1, 7), SnapshotKind::Own);
    rig.store.snapshot_chunk(chunk(z(1, 7)), true);
    rig.settle();
    assert!(rig.events.contains(&StoreEvent::SnapshotWritten { zxid: z(1, 7) }));
    for seed in 0..20 {
        let (_, recovered) = Rig::start(small(), rig.disk.clone().crash(seed));
        assert_eq!(recovered.quarantined, None, "seed {seed}");
        assert!(recovered.history.last() >= z(1, 7));
    }
}

#[test]
fn a_stream_does_not_take_what_was_blank_for_the_end() {
    let config = StoreConfig { stream_len: 3 * BLOCK_SIZE, ..small() };
    let (mut rig, _) = Rig::start(config, FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=2, 3000);
    rig.disk.hold = Some(is_batch);
    for counter in 3..=6 {
        rig.append(z(1, counter), 3000);
    }
    let stream = rig.store.stream(z(0, 0), z(1, 6)).expect("the range is held");
    rig.store.stream_next(stream);
    rig.settle();
    rig.disk.hold = None;
    rig.settle();
    rig.store.stream_next(stream);
    rig.settle();
    assert_eq!(rig.failure(), None);
    let counts = rig.events.iter().filter_map(|event| match event {
        StoreEvent::StreamChunk { frames, last, .. } => Some((frames.len(), *last)),
        _ => None,
    });
    assert_eq!(counts.collect::<Vec<_>>(), [(5, false), (1, true)]);
}

#[test]
fn a_snapshot_that_cannot_be_read_back_does_not_count() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    rig.store.begin_snapshot(z(1, 3), SnapshotKind::Own);
    rig.store.snapshot_chunk(chunk(z(1, 3)), true);
    loop {
        let synced = rig.disk.queue().any(|op| matches!(op, DiskOp::Sync { .. }));
        if synced {
            break;
        }
        assert!(rig.step());
    }
    let name = rig.disk.names("snapshot.")[0].clone();
    rig.disk.bytes(&name)[BLOCK_SIZE + 500] ^= 1;
    rig.settle();
    let failed = rig.events.iter().any(|event| {
        matches!(event, StoreEvent::SnapshotFailed { error, .. } if error.reason == Reason::Checksum)
    });
    assert!(failed);
    assert_eq!(rig.disk.names("snapshot."), Vec::<String>::new());
    rig.append_each(1, 4..=5, 100);
    assert_eq!(rig.store.durable(), z(1, 5), "the log goes on");
}

#[test]
fn a_full_disk_ends_a_snapshot_and_not_the_log() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    rig.disk.refuse = Some(|op| matches!(op, DiskOp::Write { sync: false, .. }));
    rig.store.begin_snapshot(z(1, 3), SnapshotKind::Own);
    rig.settle();
    assert!(matches!(rig.events.last(), Some(StoreEvent::SnapshotFailed { .. })));
    assert_eq!(rig.store.snapshot_under_way(), None);
    rig.append_each(1, 4..=5, 100);
    assert_eq!(rig.store.durable(), z(1, 5));
    rig.disk.refuse = None;
    snapshot(&mut rig);
}

#[test]
fn retention_keeps_two_snapshots_and_the_log_behind_the_older() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    let mut recycled = 0;
    for round in 0..10 {
        rig.append_each(1, round * 8 + 1..=round * 8 + 8, 3000);
        snapshot(&mut rig);
        assert!(rig.disk.names("snapshot.").len() <= 2);
        recycled = recycled.max(rig.disk.names("spare.").len());
        let floor = rig.store.history().floor();
        let oldest = z(1, (round * 8).max(8));
        assert!(floor <= oldest, "the older snapshot needs what follows it");
    }
    assert!(recycled > 0, "old segments wait for their next use");
    assert!(rig.disk.names("log.").len() <= 5, "the log does not grow");
    let fills = rig.disk.fills;
    rig.append_each(1, 81..=90, 3000);
    assert_eq!(rig.disk.fills, fills, "recycled files need no zeros");
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.quarantined, None);
    assert_eq!(rig.records(), (81..=90).map(|c| z(1, c)).collect::<Vec<_>>());
}

#[test]
fn a_recycled_segment_never_brings_back_what_it_held() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    for round in 0..6 {
        rig.append_each(1, round * 8 + 1..=round * 8 + 8, 3000);
        snapshot(&mut rig);
    }
    // Cut anywhere, whatever block of the earlier use stands behind the end.
    for more in 1..8 {
        let mut rig = Rig::start(small(), rig.disk.clone().restart()).0;
        rig.append_each(1, 49..=48 + more, 3000);
        let (rig, recovered) = Rig::start(small(), rig.disk.restart());
        assert_eq!((recovered.quarantined, recovered.history.last()), (None, z(1, 48 + more)));
        assert_eq!(rig.records().len(), more as usize);
    }
}

#[test]
fn a_received_snapshot_replaces_the_log_and_fences_it() {
    let mut rig = two_snapshots();
    rig.events.clear();
    rig.promise(3);
    install(&mut rig, z(3, 7));
    assert_eq!(rig.store.last_appended(), z(3, 7));
    rig.append(z(3, 8), 100);
    rig.settle();
    let durables = rig.durables();
    let at = durables.iter().position(|d| *d == Durable::Snapshot { zxid: z(3, 7) });
    assert_eq!(durables[at.expect("it is confirmed") + 1..], [Durable::Log { through: z(3, 8) }]);
    let (mut rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!((recovered.snapshot, recovered.quarantined), (Some(z(3, 7)), None));
    assert_eq!(rig.records(), [z(3, 8)]);
    assert_eq!(recovered.history.floor(), z(3, 7));
    rig.append_each(3, 9..=20, 3000);
    let (rig, _) = Rig::start(small(), rig.disk.restart());
    assert_eq!(rig.records().len(), 13);
}

#[test]
fn a_received_snapshot_that_was_given_up_changes_nothing() {
    let mut rig = two_snapshots();
    rig.store.begin_snapshot(z(3, 7), SnapshotKind::Installed);
    rig.store.snapshot_chunk(chunk(z(3, 7)), false);
    rig.settle();
    rig.store.abort_snapshot();
    rig.append_each(1, 15..=15, 100);
    assert_eq!(rig.store.durable(), z(1, 15));
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!((recovered.snapshot, recovered.history.last()), (Some(z(1, 10)), z(1, 15)));
    assert_eq!(rig.disk.names("snapshot.").len(), 2);
}

#[test]
fn an_own_snapshot_waits_until_the_log_is_durable_as_far() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.disk.hold = Some(is_batch);
    rig.append(z(1, 1), 100);
    rig.store.begin_snapshot(z(1, 1), SnapshotKind::Own);
    rig.store.snapshot_chunk(chunk(z(1, 1)), true);
    rig.settle();
    assert!(!rig.disk.names("snapshot.").contains(&snapshot_name(z(1, 1))));
    rig.disk.hold = None;
    rig.settle();
    let written = StoreEvent::SnapshotWritten { zxid: z(1, 1) };
    assert!(rig.events.contains(&written));
}

#[test]
fn a_long_chunk_comes_back_as_several() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=2, 100);
    let long: Vec<u8> = (0..20_000).map(|at| (at % 251) as u8).collect();
    rig.store.begin_snapshot(z(1, 2), SnapshotKind::Own);
    rig.store.snapshot_chunk(Frame::copy_from(&long), false);
    rig.store.snapshot_chunk(Frame::copy_from(&long[..8000]), true);
    rig.settle();
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.snapshot, Some(z(1, 2)));
    let lens: Vec<usize> = rig.chunks().iter().map(Vec::len).collect();
    assert_eq!(lens, [8000, 8000, 4000, 8000]);
    assert_eq!(rig.chunks().concat(), [&long[..], &long[..8000]].concat());
}

#[test]
fn the_producer_of_a_snapshot_is_held_back() {
    let config = StoreConfig { chunk_len_max: 1 << 20, ..small() };
    let (mut rig, _) = Rig::start(config, FakeDisk::default());
    assert!(!rig.store.snapshot_room());
    rig.store.begin_snapshot(z(0, 0), SnapshotKind::Own);
    let mut given = 0;
    while rig.store.snapshot_room() {
        rig.store.snapshot_chunk(Frame::copy_from(&[1; 200_000]), false);
        given += 1;
    }
    assert_eq!(given, 6);
    rig.settle();
    assert!(rig.store.snapshot_room());
}

#[test]
fn a_stream_gives_the_range_from_disk_and_memory() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=20, 2000);
    for counter in 21..=24 {
        rig.append(z(1, counter), 100);
    }
    let all = read_stream(&mut rig, z(1, 3), z(1, 24));
    assert_eq!(all, (4..=24).map(|c| z(1, c)).collect::<Vec<_>>());
    rig.settle();
    for (after, through) in [(0, 24), (7, 9), (23, 24), (24, 24), (6, 20)] {
        let after = if after == 0 { z(0, 0) } else { z(1, after) };
        let all = read_stream(&mut rig, after, z(1, through));
        assert_eq!(all, (after.counter() + 1..=through).map(|c| z(1, c)).collect::<Vec<_>>());
    }
}

fn read_stream(rig: &mut Rig, after: Zxid, through: Zxid) -> Vec<Zxid> {
    let stream = rig.store.stream(after, through).expect("the range is held");
    let mut zxids = Vec::new();
    loop {
        rig.events.clear();
        rig.store.stream_next(stream);
        for _ in 0..100 {
            rig.poll();
            if !rig.events.iter().any(|event| matches!(event, StoreEvent::StreamChunk { .. })) {
                rig.step();
            }
        }
        let pieces: Vec<_> = rig
            .events
            .drain(..)
            .filter_map(|event| match event {
                StoreEvent::StreamChunk { frames, last, .. } => Some((frames, last)),
                _ => None,
            })
            .collect();
        let [(frames, last)] = &pieces[..] else {
            panic!("one piece for each request: {pieces:?}")
        };
        assert!(frames.len() <= 51, "pieces are bounded");
        zxids.extend(frames.iter().map(|frame| {
            Zxid::from_u64(u64::from_le_bytes(frame[8..16].try_into().expect("eight bytes")))
        }));
        if *last {
            return zxids;
        }
    }
}

#[test]
fn a_stream_reads_behind_a_truncation_and_after_a_restart() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=12, 3000);
    rig.promise(2);
    rig.store.truncate(z(1, 9));
    rig.append(z(2, 1), 3000);
    rig.append(z(2, 2), 3000);
    rig.settle();
    let expected = [z(1, 8), z(1, 9), z(2, 1), z(2, 2)];
    assert_eq!(read_stream(&mut rig, z(1, 7), z(2, 2)), expected);
    let (mut rig, _) = Rig::start(small(), rig.disk.restart());
    assert_eq!(read_stream(&mut rig, z(1, 7), z(2, 2)), expected);
    assert_eq!(read_stream(&mut rig, z(2, 0), z(2, 2)), [z(2, 1), z(2, 2)]);
    assert!(rig.store.stream(z(1, 10), z(2, 2)).is_err(), "it was cut off");
    assert!(rig.store.stream(z(1, 9), z(2, 3)).is_err(), "it is not there yet");
}

#[test]
fn an_empty_range_waits_for_its_reader_while_another_stream_ends() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=2, 100);
    let empty = rig.store.stream(z(1, 2), z(1, 2)).expect("the range is held");
    assert_eq!(read_stream(&mut rig, z(1, 1), z(1, 2)), [z(1, 2)]);
    rig.store.stream_next(empty);
    rig.settle();
    let piece = StoreEvent::StreamChunk { stream: empty, frames: Vec::new(), last: true };
    assert!(rig.events.contains(&piece));
}

#[test]
fn a_segment_that_a_stream_needs_stays() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=8, 3000);
    let stream = rig.store.stream(z(0, 0), z(1, 8)).expect("the range is held");
    for round in 1..=3 {
        rig.append_each(1, round * 8 + 1..=round * 8 + 8, 3000);
        snapshot(&mut rig);
    }
    assert_eq!(rig.store.history().floor(), z(0, 0));
    rig.store.cancel_stream(stream);
    rig.append_each(1, 33..=34, 3000);
    snapshot(&mut rig);
    assert!(rig.store.history().floor() > z(0, 0));
    assert!(rig.store.stream(z(0, 0), z(1, 8)).is_err());
}

#[test]
fn the_tools_see_what_the_store_wrote() {
    let mut rig = two_snapshots();
    let mut records = Vec::new();
    for log in rig.disk.names("log.") {
        let bytes = Frame::copy_from(rig.disk.bytes(&log));
        for item in inspect_segment(bytes, 6000) {
            match item {
                SegmentItem::Record { zxid, .. } => records.push(zxid),
                SegmentItem::End { reason, .. } => {
                    assert!(matches!(reason, Reason::Blank | Reason::Full), "{reason:?}");
                }
                SegmentItem::Behind { .. } => panic!("nothing is behind the end"),
                SegmentItem::Header(_) | SegmentItem::Block { .. } => {}
            }
        }
    }
    assert_eq!(records, (1..=14).map(|c| z(1, c)).collect::<Vec<_>>());
    let log = rig.disk.names("log.")[0].clone();
    let mut damaged = rig.disk.bytes(&log).clone();
    damaged[2 * BLOCK_SIZE] = 0;
    let items: Vec<_> = inspect_segment(Frame::copy_from(&damaged), 6000).collect();
    let behind = items.iter().filter(|item| matches!(item, SegmentItem::Behind { .. })).count();
    assert_eq!(behind, 5, "the blocks behind the damage are still there");

    let name = snapshot_name(z(1, 10));
    let mut chunks = 0;
    let bytes = Frame::copy_from(rig.disk.bytes(&name));
    let (header, totals) = verify_snapshot(bytes, 8000, |_| chunks += 1).expect("it is whole");
    assert_eq!((header.zxid, totals.bytes, chunks), (z(1, 10), 10_000, 2));
    let epochs =
        inspect_epochs(Frame::copy_from(rig.disk.bytes("epochs"))).expect("they are whole");
    assert_eq!((epochs.cluster_id, epochs.accepted.get(), epochs.damaged), (77, 1, false));
}

#[test]
fn snapshot_chunks_do_not_wait_in_front_of_the_log() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.store.begin_snapshot(z(0, 0), SnapshotKind::Own);
    for _ in 0..20 {
        rig.store.snapshot_chunk(Frame::copy_from(&[1; 8000]), false);
    }
    rig.poll();
    rig.step();
    rig.append(z(1, 1), 10);
    rig.poll();
    let ahead = rig.disk.queue().take_while(|op| !matches!(op, DiskOp::Write { sync: true, .. }));
    assert!(ahead.count() <= 1);
    rig.settle();
    assert_eq!(rig.store.durable(), z(1, 1));
}
