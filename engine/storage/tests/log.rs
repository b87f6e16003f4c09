//! The log through the store: what was confirmed is there again, damage is named and not dropped.

mod rig;

use quorate_proto::{Durable, Epoch};
use quorate_storage::disk::BLOCK_SIZE;
use quorate_storage::{Reason, SnapshotKind, StoreConfig, TailFault};
use rig::{FakeDisk, Rig, small, z};

#[test]
fn an_empty_directory_is_fresh_once() {
    let (mut rig, recovered) = Rig::start(small(), FakeDisk::default());
    assert!(recovered.fresh);
    assert_eq!((recovered.accepted_epoch, recovered.snapshot), (Epoch::ZERO, None));
    assert_eq!(recovered.tail, TailFault::Clean);
    rig.promise(1);
    let (_, recovered) = Rig::start(small(), rig.disk.restart());
    assert!(!recovered.fresh);
    assert_eq!(recovered.current_epoch, Epoch::new(1));
    assert_eq!(recovered.quarantined, None);
}

#[test]
fn what_was_appended_comes_back_in_order() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    for counter in 1..=40 {
        rig.append(z(1, counter), 700);
    }
    rig.settle();
    assert_eq!(rig.durables().last(), Some(&Durable::Log { through: z(1, 40) }));
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(rig.records(), (1..=40).map(|c| z(1, c)).collect::<Vec<_>>());
    assert_eq!(recovered.history.last(), z(1, 40));
    assert_eq!((recovered.quarantined, recovered.tail), (None, TailFault::Clean));
}

#[test]
fn what_gathers_during_a_write_is_the_next_batch() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.events.clear();
    rig.append(z(1, 1), 100);
    rig.poll();
    for counter in 2..=9 {
        rig.append(z(1, counter), 100);
    }
    rig.settle();
    let through = |counter| Durable::Log { through: z(1, counter) };
    assert_eq!(rig.durables(), [through(1), through(9)]);
}

#[test]
fn a_log_over_many_segments_survives_restarts_between() {
    let mut disk = FakeDisk::default();
    for round in 0..6_u32 {
        let (mut rig, recovered) = Rig::start(small(), disk);
        assert_eq!(recovered.history.last(), if round == 0 { z(0, 0) } else { z(1, round * 7) });
        rig.promise(1);
        rig.append_each(1, round * 7 + 1..=round * 7 + 7, 3000);
        assert_eq!(rig.store.durable(), z(1, round * 7 + 7));
        disk = rig.disk.restart();
    }
    let (rig, _) = Rig::start(small(), disk);
    assert_eq!(rig.records().len(), 42);
}

#[test]
fn a_truncation_is_durable_and_the_next_epoch_goes_on_behind_it() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=12, 3000);
    rig.store.truncate(z(1, 5));
    assert_eq!(rig.store.last_appended(), z(1, 5));
    rig.append(z(2, 1), 100);
    rig.settle();
    assert!(rig.durables().contains(&Durable::Truncated { to: z(1, 5) }));
    assert_eq!(rig.durables().last(), Some(&Durable::Log { through: z(2, 1) }));
    rig.promise(2);
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(rig.records(), [z(1, 1), z(1, 2), z(1, 3), z(1, 4), z(1, 5), z(2, 1)]);
    assert_eq!(recovered.quarantined, None);
}

#[test]
fn a_write_from_before_a_truncation_confirms_nothing() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    rig.append(z(1, 4), 100);
    rig.poll();
    rig.events.clear();
    rig.store.truncate(z(1, 3));
    rig.settle();
    assert_eq!(rig.durables(), [Durable::Truncated { to: z(1, 3) }]);
}

#[test]
fn truncations_and_appends_asked_for_at_once_happen_in_order() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=9, 3000);
    rig.store.save_epochs(Epoch::new(4), Epoch::new(4));
    rig.store.truncate(z(1, 6));
    rig.append(z(2, 1), 50);
    rig.append(z(2, 2), 50);
    rig.store.truncate(z(2, 1));
    rig.append(z(3, 1), 50);
    rig.store.truncate(z(1, 2));
    rig.append(z(4, 1), 50);
    rig.settle();
    assert!(rig.store.is_idle());
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(rig.records(), [z(1, 1), z(1, 2), z(4, 1)]);
    assert_eq!(recovered.quarantined, None);
}

#[test]
fn a_flipped_bit_in_the_middle_is_quarantined_with_its_place() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=5, 100);
    let mut disk = rig.disk.restart();
    let log = disk.names("log.")[0].clone();
    disk.bytes(&log)[3 * BLOCK_SIZE + 64 + 40] ^= 1;
    let (mut rig, recovered) = Rig::start(small(), disk);
    let damage = recovered.quarantined.expect("the flip is noticed");
    assert_eq!((damage.file, damage.offset), (log, 3 * BLOCK_SIZE as u64 + 64));
    assert_eq!(recovered.history.last(), z(1, 2), "what is certain is kept");
    assert!(rig.store.is_quarantined());
    // Without a leader's help it stays so, although the log looks whole after the next append.
    rig.append(z(1, 3), 10);
    rig.settle();
    let (mut rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.quarantined.map(|damage| damage.reason), Some(Reason::NotRebuilt));
    assert_eq!(recovered.history.last(), z(1, 3));
    rig.store.rebuilt();
    rig.settle();
    let (_, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.quarantined, None);
}

#[test]
fn a_zeroed_stretch_in_the_middle_is_no_end() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=5, 100);
    let mut disk = rig.disk.restart();
    let log = disk.names("log.")[0].clone();
    disk.bytes(&log)[2 * BLOCK_SIZE..4 * BLOCK_SIZE].fill(0);
    let (_, recovered) = Rig::start(small(), disk);
    let damage = recovered.quarantined.expect("the zeros are noticed");
    assert_eq!((damage.file, damage.offset), (log, 2 * BLOCK_SIZE as u64));
}

#[test]
fn zeros_at_the_end_of_a_segment_that_others_follow_are_no_end() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=16, 3000);
    let mut disk = rig.disk.restart();
    let log = disk.names("log.")[0].clone();
    disk.bytes(&log)[7 * BLOCK_SIZE..].fill(0);
    let (_, recovered) = Rig::start(small(), disk);
    let damage = recovered.quarantined.expect("the zeros are noticed");
    assert_eq!((damage.file, damage.offset), (log, 7 * BLOCK_SIZE as u64));
    assert_eq!(recovered.history.last(), z(1, 6));
}

#[test]
fn a_lost_tail_that_the_epochs_remember_is_a_loss() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=5, 100);
    rig.promise(2);
    let mut disk = rig.disk.restart();
    let log = disk.names("log.")[0].clone();
    disk.bytes(&log)[4 * BLOCK_SIZE..].fill(0);
    let (_, recovered) = Rig::start(small(), disk);
    let reason = recovered.quarantined.expect("the loss is noticed").reason;
    assert_eq!(reason, Reason::Lost { durable: z(1, 5), last: z(1, 3) });
}

#[test]
fn the_watermark_tells_a_lost_block_from_one_that_was_under_way() {
    let config = StoreConfig { writes_max: 4, ..small() };
    let (mut rig, _) = Rig::start(config, FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=5, 100);
    let mut disk = rig.disk.restart();
    let log = disk.names("log.")[0].clone();
    disk.bytes(&log)[4 * BLOCK_SIZE] ^= 1;
    let (_, recovered) = Rig::start(config, disk);
    let reason = recovered.quarantined.expect("block 5 says that record 4 was durable").reason;
    assert_eq!(reason, Reason::Lost { durable: z(1, 4), last: z(1, 3) });
}

#[test]
fn epochs_are_never_written_over_the_newest_slot() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    for epoch in 1..=4_u32 {
        rig.promise(epoch);
        let bytes = rig.disk.bytes("epochs");
        let accepted = [40, BLOCK_SIZE + 40].map(|at| bytes[at]);
        assert!(accepted.contains(&(epoch as u8)) && accepted.contains(&(epoch as u8 - 1)));
    }
}

#[test]
fn a_missing_segment_in_the_middle_is_damage() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=20, 3000);
    let disk = rig.disk.restart();
    for at in 0..disk.names("log.").len() - 2 {
        let mut disk = disk.clone();
        let log = disk.names("log.")[at].clone();
        disk.remove(&log);
        let (_, recovered) = Rig::start(small(), disk);
        assert!(recovered.quarantined.is_some(), "{log} was not missed");
    }
}

#[test]
fn a_torn_batch_at_the_end_is_cut_and_the_log_goes_on() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    rig.append(z(1, 4), 5000);
    rig.poll();
    let mut torn = 0;
    for seed in 0..60 {
        let (mut rig, recovered) = Rig::start(small(), rig.disk.clone().crash(seed));
        assert_eq!(recovered.quarantined, None, "seed {seed}");
        torn += u32::from(recovered.tail != TailFault::Clean);
        let last = recovered.history.last();
        assert!(last == z(1, 3) || last == z(1, 4));
        rig.append_each(1, last.counter() + 1..=9, 100);
        let (rig, recovered) = Rig::start(small(), rig.disk.restart());
        assert_eq!(rig.records(), (1..=9).map(|c| z(1, c)).collect::<Vec<_>>());
        assert_eq!((recovered.quarantined, recovered.tail), (None, TailFault::Clean));
    }
    assert!(torn > 5, "too few seeds tear the batch");
}

#[test]
fn garbage_behind_the_end_is_no_damage() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    let mut disk = rig.disk.restart();
    let log = disk.names("log.")[0].clone();
    for (at, byte) in disk.bytes(&log)[4 * BLOCK_SIZE..].iter_mut().enumerate() {
        *byte = (at * 31) as u8;
    }
    let (_, recovered) = Rig::start(small(), disk);
    assert_eq!((recovered.quarantined, recovered.history.last()), (None, z(1, 3)));
}

#[test]
fn a_directory_of_another_server_or_ensemble_is_refused() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    let disk = rig.disk.restart();
    let mut other = small();
    other.sid = quorate_proto::ServerId(9);
    let mut rig = Rig::open(other, disk.clone());
    rig.settle();
    let reason = &rig.failure().expect("it is refused").reason;
    assert_eq!(*reason, Reason::WrongServer { got: quorate_proto::ServerId(1) });
    let mut other = small();
    other.cluster_id = 78;
    let mut rig = Rig::open(other, disk);
    rig.settle();
    assert_eq!(rig.failure().expect("it is refused").reason, Reason::WrongCluster { got: 77 });
}

#[test]
fn a_segment_of_another_server_among_ours_is_refused() {
    let (mut theirs, _) = Rig::start(
        {
            let mut c = small();
            c.sid = quorate_proto::ServerId(9);
            c
        },
        FakeDisk::default(),
    );
    theirs.promise(1);
    theirs.append_each(1, 1..=3, 100);
    let log = theirs.disk.names("log.")[0].clone();
    let bytes = theirs.disk.bytes(&log).clone();
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    let mut disk = rig.disk.restart();
    *disk.bytes(&log) = bytes;
    let mut rig = Rig::open(small(), disk);
    rig.settle();
    let failure = rig.failure().expect("it is refused");
    assert_eq!(failure.reason, Reason::WrongServer { got: quorate_proto::ServerId(9) });
    assert_eq!(failure.file, log);
}

#[test]
fn a_log_without_its_epochs_does_not_start() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    let disk = rig.disk.restart();
    let mut without = disk.clone();
    without.remove("epochs");
    let mut unreadable = disk.clone();
    unreadable.bytes("epochs")[20] ^= 1;
    unreadable.bytes("epochs")[BLOCK_SIZE + 20] ^= 1;
    for disk in [without, unreadable] {
        let mut rig = Rig::open(small(), disk);
        rig.settle();
        assert_eq!(rig.failure().expect("it does not start").reason, Reason::NoEpochs);
    }
}

#[test]
fn one_damaged_slot_of_the_epochs_is_quarantined() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.promise(2);
    let disk = rig.disk.restart();
    for slot in 0..2 {
        let mut disk = disk.clone();
        disk.bytes("epochs")[slot * BLOCK_SIZE + 41] ^= 1;
        let (_, recovered) = Rig::start(small(), disk);
        let damage = recovered.quarantined.expect("it is noticed");
        assert_eq!(damage.reason, Reason::EpochsSlot);
    }
}

#[test]
fn restored_old_epochs_are_refused() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    let old = rig.disk.bytes("epochs").clone();
    rig.promise(4);
    rig.append_each(4, 1..=3, 100);
    let mut disk = rig.disk.restart();
    *disk.bytes("epochs") = old;
    let mut rig = Rig::open(small(), disk);
    rig.settle();
    let reason = &rig.failure().expect("it is refused").reason;
    let behind = Reason::EpochsBehind { accepted: Epoch::new(1), got: Epoch::new(4) };
    assert_eq!(*reason, behind);
}

#[test]
fn a_crash_between_history_and_current_epoch_raises_the_current_epoch() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.store.save_epochs(Epoch::new(5), Epoch::new(0));
    rig.append(z(3, 1), 10);
    rig.settle();
    let (rig, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.current_epoch, Epoch::new(3));
    assert_eq!(recovered.accepted_epoch, Epoch::new(5));
    let (_, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.current_epoch, Epoch::new(3), "it is durable");
}

#[test]
fn epochs_are_confirmed_when_durable_and_at_once_when_nothing_changed() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.events.clear();
    rig.store.save_epochs(Epoch::new(3), Epoch::ZERO);
    rig.poll();
    assert_eq!(rig.durables(), []);
    rig.store.save_epochs(Epoch::new(3), Epoch::new(3));
    rig.settle();
    let (accepted, current) =
        (Durable::AcceptedEpoch(Epoch::new(3)), Durable::CurrentEpoch(Epoch::new(3)));
    assert_eq!(rig.durables(), [accepted, current]);
    rig.events.clear();
    rig.store.save_epochs(Epoch::new(3), Epoch::new(3));
    rig.poll();
    assert_eq!(rig.durables(), [accepted, current]);
}

#[test]
fn the_commit_that_was_known_is_found_again() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=3, 100);
    rig.store.note_committed(z(1, 2));
    rig.append_each(1, 4..=4, 100);
    let (_, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.committed_hint, z(1, 2));
}

#[test]
fn a_failed_write_is_the_end() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.disk.refuse = Some(|op| matches!(op, quorate_storage::DiskOp::Write { sync: true, .. }));
    rig.append(z(1, 1), 100);
    rig.settle();
    let failure = rig.failure().expect("the store is at its end").clone();
    assert!(matches!(failure.reason, Reason::Disk { errno: 28, .. }));
    rig.append(z(1, 2), 100);
    assert_eq!(rig.store.poll_op().map(|_| ()), None, "no second attempt (R3)");
}

#[test]
fn a_full_disk_while_a_segment_is_made_in_good_time_is_no_failure_yet() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.disk.refuse = Some(|op| matches!(op, quorate_storage::DiskOp::Allocate { .. }));
    rig.promise(1);
    rig.append_each(1, 1..=7, 3000);
    assert!(rig.failure().is_none());
    rig.append_each(1, 8..=14, 3000);
    assert!(rig.failure().is_none(), "the segment made before the disk was full");
    rig.append_each(1, 15..=15, 3000);
    assert!(rig.failure().is_some(), "now there is no room left");
}

#[test]
fn the_next_segment_is_written_before_it_is_needed() {
    let (rig, _) = Rig::start(small(), FakeDisk::default());
    assert_eq!(rig.disk.names("log.").len(), 2);
    assert_eq!(rig.disk.fills, 3, "the first segment at once, the second in two pieces");
}

#[test]
fn a_store_without_snapshots_keeps_its_whole_log() {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=30, 3000);
    assert_eq!(rig.disk.names("log.").len(), 6);
    assert_eq!(rig.store.history().floor(), z(0, 0));
    assert_eq!(rig.store.snapshot_under_way(), None::<(quorate_proto::Zxid, SnapshotKind)>);
}
