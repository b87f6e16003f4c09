//! Damage anywhere: it is noticed, or nothing that was confirmed is missing. Nothing panics.

mod rig;

use quorate_proto::Zxid;
use quorate_storage::SnapshotKind;
use quorate_storage::disk::BLOCK_SIZE;
use quorate_wire::Frame;
use rig::{FakeDisk, Prng, Rig, SECTOR, small, z};

/// A directory with everything in it, and the records it holds behind its newest snapshot.
fn directory(kind: usize) -> (FakeDisk, Vec<Zxid>) {
    let (mut rig, _) = Rig::start(small(), FakeDisk::default());
    rig.promise(1);
    rig.append_each(1, 1..=10, 3000);
    let mut from = z(1, 10);
    if kind > 0 {
        snapshot(&mut rig, from, SnapshotKind::Own);
        rig.append_each(1, 11..=17, 2000);
        from = z(1, 14);
        snapshot(&mut rig, from, SnapshotKind::Own);
    }
    if kind > 1 {
        rig.promise(3);
        rig.store.truncate(z(1, 16));
        rig.append_each(3, 1..=6, 3000);
    }
    if kind > 2 {
        rig.promise(4);
        from = z(4, 9);
        snapshot(&mut rig, from, SnapshotKind::Installed);
        rig.append_each(4, 10..=20, 3000);
    }
    // The epochs remember how far the log was durable.
    rig.promise(9);
    let (again, recovered) = Rig::start(small(), rig.disk.restart());
    assert_eq!(recovered.quarantined, None);
    let records = again.records();
    (again.disk.restart(), records)
}

fn snapshot(rig: &mut Rig, zxid: Zxid, kind: SnapshotKind) {
    rig.store.begin_snapshot(zxid, kind);
    rig.store.snapshot_chunk(Frame::copy_from(&[7; 6000]), false);
    rig.store.snapshot_chunk(Frame::copy_from(&[9; 6000]), true);
    rig.settle();
}

fn damage(disk: &mut FakeDisk, prng: &mut Prng) -> String {
    let names: Vec<String> = disk.listing().into_iter().map(|(name, _)| name).collect();
    let name = names[prng.below(names.len())].clone();
    let other = names[prng.below(names.len())].clone();
    let source = disk.bytes(&other).clone();
    let bytes = disk.bytes(&name);
    let blocks = bytes.len() / BLOCK_SIZE;
    let block = prng.below(blocks) * BLOCK_SIZE;
    let how = match prng.below(7) {
        0 | 1 => {
            let at = block + prng.below(200);
            bytes[at] ^= 1 << prng.below(8);
            format!("a flip at {at}")
        }
        2 => {
            let at = block + prng.below(BLOCK_SIZE / SECTOR) * SECTOR;
            bytes[at..at + SECTOR].fill(0);
            format!("a zeroed sector at {at}")
        }
        3 => {
            let count = (1 + prng.below(3)).min((bytes.len() - block) / BLOCK_SIZE);
            bytes[block..block + count * BLOCK_SIZE].fill(0);
            format!("{count} zeroed blocks at {block}")
        }
        4 => {
            let from = prng.below(source.len() / BLOCK_SIZE) * BLOCK_SIZE;
            bytes[block..block + BLOCK_SIZE].copy_from_slice(&source[from..from + BLOCK_SIZE]);
            format!("block {from} of {other} at {block}")
        }
        5 => {
            bytes.truncate(block);
            format!("cut to {block}")
        }
        _ => {
            disk.remove(&name);
            "removed".to_string()
        }
    };
    format!("{name}: {how}")
}

#[test]
fn damage_is_noticed_or_harmless() {
    for kind in 0..4 {
        let (disk, expected) = directory(kind);
        let last = *expected.last().expect("there are records");
        let (mut noticed, mut harmless) = (0, 0);
        for seed in 0..400 {
            let mut prng = Prng::new(seed + 1000 * kind as u64);
            let mut disk = disk.clone();
            let what = damage(&mut disk, &mut prng);
            let mut rig = Rig::open(small(), disk);
            rig.settle();
            if rig.failure().is_some() {
                noticed += 1;
                continue;
            }
            let recovered = rig.recovered();
            if recovered.quarantined.is_some() {
                noticed += 1;
                // It can be rebuilt by a snapshot whatever happened to it.
                rig.promise(12);
                let (accepted, zxid) = (z(12, 0), z(12, 5));
                assert!(recovered.history.last() <= accepted);
                snapshot(&mut rig, zxid, SnapshotKind::Installed);
                rig.store.rebuilt();
                rig.append_each(12, 6..=7, 1000);
                let (rig, recovered) = Rig::start(small(), rig.disk.restart());
                assert_eq!(recovered.quarantined, None, "{what}");
                assert_eq!(rig.records(), [z(12, 6), z(12, 7)], "{what}");
                continue;
            }
            harmless += 1;
            assert_eq!(recovered.history.last(), last, "kind {kind}, {what}");
            let records = rig.records();
            assert!(records.ends_with(&expected), "kind {kind}, {what}: {records:?}");
        }
        assert!(noticed > 50 && harmless > 20, "{noticed} noticed, {harmless} harmless");
    }
}

#[test]
fn bytes_that_are_no_directory_of_ours_never_panic() {
    let (disk, _) = directory(3);
    for seed in 0..300 {
        let mut prng = Prng::new(seed);
        let mut disk = disk.clone();
        for _ in 0..1 + prng.below(6) {
            let names: Vec<String> = disk.listing().into_iter().map(|(name, _)| name).collect();
            let name = &names[prng.below(names.len())];
            let bytes = disk.bytes(name);
            let start = prng.below(bytes.len());
            let end = (start + 1 + prng.below(6000)).min(bytes.len());
            for byte in &mut bytes[start..end] {
                *byte = prng.next() as u8;
            }
        }
        let mut rig = Rig::open(small(), disk);
        rig.settle();
        assert!(rig.failure().is_some() || rig.recovered().history.last() <= z(9, 0));
    }
}
