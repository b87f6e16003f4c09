//! Power cuts at every operation of small runs: what was confirmed is there, and what is there
//! beyond it is what was asked for next, in order.

mod rig;

use quorate_proto::{Durable, Epoch, Zxid};
use quorate_storage::{SnapshotKind, StoreConfig, StoreEvent};
use quorate_wire::Frame;
use rig::{FakeDisk, Prng, Rig, small, z};

/// What is asked of the store, one after the other.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Appends so many records to the history's epoch.
    Append { count: u32, len: usize },
    /// Cuts so many records off and goes on in the next epoch.
    Truncate { back: usize },
    /// Promises the history's epoch.
    Promise,
    /// Snapshot of the own tree at the last durable record.
    Snapshot,
    /// A received snapshot in the next epoch, far ahead.
    Install,
    /// Waits until all is done.
    Settle,
    /// Lets the disk do so many operations.
    Steps(usize),
}

/// One change of the history.
#[derive(Clone, Copy, Debug)]
enum Change {
    Append(Zxid),
    Truncate(Zxid),
    Install(Zxid),
}

/// What the store must be after a power cut.
#[derive(Debug, Default)]
struct Model {
    changes: Vec<Change>,
    /// How many of them were confirmed.
    confirmed: usize,
    epoch: u32,
    history: Vec<Zxid>,
    accepted: Epoch,
    accepted_asked: Epoch,
    /// Own snapshots that were confirmed.
    snapshots: Vec<Zxid>,
    /// The newest snapshot that was asked for: nothing is cut off before it.
    floor: Zxid,
}

impl Model {
    /// The history after the first `count` changes: what is before it, and its records.
    fn after(&self, count: usize) -> (Zxid, Vec<Zxid>) {
        let (mut base, mut records) = (z(0, 0), Vec::new());
        for change in &self.changes[..count] {
            match *change {
                Change::Append(zxid) => records.push(zxid),
                Change::Truncate(to) => records.retain(|zxid| *zxid <= to),
                Change::Install(zxid) => (base, records) = (zxid, Vec::new()),
            }
        }
        (base, records)
    }

    fn change(&mut self, change: Change) {
        self.changes.push(change);
        self.history = self.after(self.changes.len()).1;
    }

    fn last(&self) -> Zxid {
        let (base, records) = self.after(self.changes.len());
        records.last().copied().unwrap_or(base)
    }

    fn confirm(&mut self, event: &StoreEvent) {
        let StoreEvent::Durable(durable) = event else {
            if let StoreEvent::SnapshotWritten { zxid } = event {
                self.snapshots.push(*zxid);
            }
            assert!(!matches!(event, StoreEvent::Failed(_)), "{event:?}");
            return;
        };
        let open = &self.changes[self.confirmed..];
        let found = match *durable {
            Durable::Log { through } => {
                open.iter().position(|change| matches!(change, Change::Append(z) if *z == through))
            }
            Durable::Truncated { to } => {
                open.iter().position(|change| matches!(change, Change::Truncate(z) if *z == to))
            }
            Durable::Snapshot { zxid } => {
                open.iter().position(|change| matches!(change, Change::Install(z) if *z == zxid))
            }
            Durable::AcceptedEpoch(epoch) => {
                self.accepted = self.accepted.max(epoch);
                return;
            }
            Durable::CurrentEpoch(_) => return,
        };
        self.confirmed += found.unwrap_or_else(|| panic!("{durable:?} confirms nothing")) + 1;
    }
}

#[derive(Debug)]
struct Run {
    rig: Rig,
    model: Model,
    seen: usize,
    steps_left: usize,
}

impl Run {
    fn new(config: StoreConfig, steps: usize, prng: Option<Prng>) -> Self {
        let mut rig = Rig::open(config, FakeDisk::default());
        rig.prng = prng;
        Self { rig, model: Model::default(), seen: 0, steps_left: steps }
    }

    /// False if there is nothing more to do, or the power went.
    fn step(&mut self) -> bool {
        if self.steps_left == 0 {
            return false;
        }
        let moved = self.rig.step();
        self.steps_left -= usize::from(moved);
        self.take_events();
        moved
    }

    fn take_events(&mut self) {
        self.rig.poll();
        for event in &self.rig.events[self.seen..] {
            self.model.confirm(event);
        }
        self.seen = self.rig.events.len();
    }

    /// True if it came to its end before the power went.
    fn run(&mut self, script: &[Ask]) -> bool {
        while self.step() {}
        for ask in script {
            if self.steps_left == 0 {
                return false;
            }
            self.ask(*ask);
            self.take_events();
        }
        while self.step() {}
        self.steps_left > 0
    }

    fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Append { count, len } => {
                for _ in 0..count {
                    let last = self.model.last();
                    let epoch = self.model.epoch.max(1);
                    self.model.epoch = epoch;
                    let next = if last.epoch().get() == epoch {
                        last.next().expect("far from the end")
                    } else {
                        z(epoch, 1)
                    };
                    self.rig.append(next, len);
                    self.model.change(Change::Append(next));
                }
            }
            Ask::Truncate { back } => {
                let (base, records) = self.model.after(self.model.changes.len());
                let kept = records.len().saturating_sub(back);
                let to =
                    kept.checked_sub(1).map_or(base, |last| records[last]).max(self.model.floor);
                self.model.epoch += 1;
                self.promise();
                if self.steps_left > 0 {
                    self.rig.store.truncate(to);
                    self.model.change(Change::Truncate(to));
                }
            }
            Ask::Promise => self.promise(),
            Ask::Snapshot => {
                let zxid = self.rig.store.durable();
                self.model.floor = zxid;
                self.rig.store.begin_snapshot(zxid, SnapshotKind::Own);
                self.chunks(zxid);
            }
            Ask::Install => {
                self.model.epoch += 1;
                self.promise();
                while self.step() {}
                if self.steps_left == 0 {
                    return;
                }
                let zxid = z(self.model.epoch, 100);
                self.rig.store.begin_snapshot(zxid, SnapshotKind::Installed);
                self.model.change(Change::Install(zxid));
                self.model.floor = zxid;
                self.chunks(zxid);
            }
            Ask::Settle => while self.step() {},
            Ask::Steps(count) => {
                for _ in 0..count {
                    self.step();
                }
            }
        }
    }

    fn chunks(&mut self, zxid: Zxid) {
        for (at, chunk) in snapshot_of(zxid).into_iter().enumerate() {
            self.rig.store.snapshot_chunk(chunk, at == 2);
        }
    }

    fn promise(&mut self) {
        let epoch = Epoch::new(self.model.epoch.max(1));
        self.model.epoch = epoch.get();
        self.model.accepted_asked = epoch;
        self.rig.store.save_epochs(epoch, epoch);
        self.take_events();
        // Nothing of an epoch is logged before the promise is durable.
        while self.model.accepted < epoch && self.step() {}
    }
}

fn snapshot_of(zxid: Zxid) -> Vec<Frame> {
    let byte = zxid.as_u64() as u8;
    vec![
        Frame::copy_from(&[byte; 7000]),
        Frame::copy_from(&zxid.as_u64().to_le_bytes()),
        Frame::copy_from(&[byte ^ 0xff; 300]),
    ]
}

/// Recovers and compares with the model; gives how many of its changes are there.
fn recover(model: &Model, rig: &mut Rig, what: &str) -> usize {
    rig.settle();
    assert_eq!(rig.failure(), None, "{what}");
    let recovered = rig.recovered();
    assert_eq!(recovered.quarantined, None, "{what}");
    assert!(recovered.accepted_epoch >= model.accepted, "{what}: a promise is forgotten");
    assert!(recovered.accepted_epoch <= model.accepted_asked, "{what}");
    if let Some(zxid) = recovered.snapshot {
        let given: Vec<Vec<u8>> = snapshot_of(zxid).iter().map(|chunk| chunk.to_vec()).collect();
        assert_eq!(rig.chunks(), given, "{what}");
    }
    let snapshot = recovered.snapshot.unwrap_or_default();
    let newest = model.snapshots.iter().max().copied().unwrap_or_default();
    assert!(snapshot >= newest, "{what}: a snapshot is lost");
    let records = rig.records();
    let fits = (model.confirmed..=model.changes.len()).find(|count| {
        let (base, expected) = model.after(*count);
        let end = expected.last().copied().unwrap_or(base);
        let expected: Vec<Zxid> = expected.into_iter().filter(|zxid| *zxid > snapshot).collect();
        snapshot >= base && records == expected && recovered.history.last() == end
    });
    let open = &model.changes[model.confirmed..];
    let (_, confirmed) = model.after(model.confirmed);
    fits.unwrap_or_else(|| {
        panic!("{what}: snapshot {snapshot}, records {records:?}, confirmed {confirmed:?}, then {open:?}")
    })
}

/// Recovers, compares with the model, goes on, and recovers again.
fn check(model: &Model, config: StoreConfig, disk: FakeDisk, what: &str) {
    let mut rig = Rig::open(config, disk);
    recover(model, &mut rig, what);
    let (recovered, records) = (rig.recovered(), rig.records());
    let last = recovered.history.last();
    let epoch = last.epoch().get().max(recovered.accepted_epoch.get()) + 1;
    rig.promise(epoch);
    rig.append_each(epoch, 1..=3, 2000);
    let (again, recovered) = Rig::start(config, rig.disk.restart());
    assert_eq!(recovered.quarantined, None, "{what}: after going on");
    let mut expected = records;
    expected.extend((1..=3).map(|counter| z(epoch, counter)));
    assert_eq!(again.records(), expected, "{what}: after going on");
}

/// Cuts the power after each number of operations, with several outcomes each.
fn cut_everywhere(config: StoreConfig, script: &[Ask], seeds: u64, order: Option<u64>) {
    for steps in 0.. {
        let prng = order.map(Prng::new);
        let mut run = Run::new(config, steps, prng);
        let complete = run.run(script);
        for seed in 0..seeds {
            let disk = run.rig.disk.clone().crash(seed * 1000 + steps as u64);
            check(&run.model, config, disk, &format!("step {steps}, seed {seed}"));
        }
        if complete {
            assert_eq!(run.model.confirmed, run.model.changes.len(), "all is confirmed in the end");
            assert!(steps > 20, "the run is too short to say anything");
            return;
        }
    }
}

#[test]
fn appends_and_rolls() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 3, len: 100 },
        Ask::Steps(2),
        Ask::Append { count: 9, len: 3000 },
        Ask::Steps(5),
        Ask::Append { count: 9, len: 2000 },
    ];
    cut_everywhere(small(), &script, 6, None);
}

#[test]
fn appends_while_the_disk_answers_in_any_order() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 9, len: 3000 },
        Ask::Steps(5),
        Ask::Append { count: 9, len: 2000 },
    ];
    for order in 0..4 {
        cut_everywhere(small(), &script, 3, Some(order));
    }
}

#[test]
fn several_writes_in_flight() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 12, len: 3000 },
        Ask::Steps(7),
        Ask::Append { count: 6, len: 5000 },
    ];
    for (writes_max, order) in [(2, None), (3, Some(1)), (4, Some(2)), (4, Some(3))] {
        let config = StoreConfig { writes_max, ..small() };
        cut_everywhere(config, &script, 6, order);
    }
}

#[test]
fn truncations() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 10, len: 3000 },
        Ask::Settle,
        Ask::Truncate { back: 3 },
        Ask::Append { count: 2, len: 100 },
        Ask::Steps(4),
        Ask::Append { count: 3, len: 3000 },
        Ask::Truncate { back: 8 },
        Ask::Append { count: 2, len: 3000 },
        Ask::Truncate { back: 1 },
        Ask::Settle,
        Ask::Truncate { back: 100 },
        Ask::Append { count: 2, len: 3000 },
    ];
    cut_everywhere(small(), &script, 6, None);
    cut_everywhere(StoreConfig { writes_max: 3, ..small() }, &script, 4, Some(5));
}

#[test]
fn snapshots_and_recycled_segments() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 10, len: 3000 },
        Ask::Settle,
        Ask::Snapshot,
        Ask::Append { count: 9, len: 3000 },
        Ask::Settle,
        Ask::Snapshot,
        Ask::Steps(9),
        Ask::Append { count: 9, len: 3000 },
        Ask::Settle,
        Ask::Snapshot,
        Ask::Settle,
        Ask::Append { count: 16, len: 3000 },
        Ask::Settle,
        Ask::Truncate { back: 5 },
        Ask::Append { count: 9, len: 3000 },
    ];
    cut_everywhere(small(), &script, 2, None);
    cut_everywhere(small(), &script, 2, Some(3));
}

#[test]
fn received_snapshots() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 10, len: 3000 },
        Ask::Steps(6),
        Ask::Install,
        Ask::Append { count: 5, len: 3000 },
        Ask::Settle,
        Ask::Snapshot,
        Ask::Append { count: 5, len: 3000 },
        Ask::Settle,
        Ask::Install,
        Ask::Append { count: 3, len: 100 },
        Ask::Settle,
        Ask::Truncate { back: 2 },
        Ask::Append { count: 3, len: 100 },
    ];
    cut_everywhere(small(), &script, 3, None);
    cut_everywhere(small(), &script, 2, Some(9));
}

#[test]
fn power_cuts_during_recovery_itself() {
    let script = [
        Ask::Promise,
        Ask::Append { count: 10, len: 3000 },
        Ask::Settle,
        Ask::Truncate { back: 2 },
        Ask::Append { count: 3, len: 5000 },
    ];
    let config = small();
    for steps in (10..90).step_by(3) {
        let mut run = Run::new(config, steps, None);
        run.run(&script);
        let disk = run.rig.disk.clone().crash(steps as u64);
        for later in 0..60 {
            let mut rig = Rig::open(config, disk.clone());
            for _ in 0..later {
                rig.step();
            }
            let disk = rig.disk.crash(later);
            check(&run.model, config, disk, &format!("step {steps}, then {later}"));
        }
    }
}

fn random_ask(prng: &mut Prng) -> Ask {
    let len = [10, 1000, 3000, 5900][prng.below(4)];
    match prng.below(20) {
        0..8 => Ask::Append { count: 1 + prng.below(6) as u32, len },
        8..11 => Ask::Steps(prng.below(12)),
        11..13 => Ask::Settle,
        13..16 => Ask::Truncate { back: prng.below(6) },
        16..19 => Ask::Snapshot,
        _ => Ask::Install,
    }
}

#[test]
fn long_lives_with_many_power_cuts() {
    for seed in 0..lives() {
        let mut prng = Prng::new(seed);
        let config = StoreConfig { writes_max: 1 + prng.below(4), ..small() };
        let mut model = Model::default();
        let mut disk = FakeDisk::default();
        for life in 0..8 {
            let what = format!("seed {seed}, life {life}");
            let mut rig = Rig::open(config, disk);
            let count = recover(&model, &mut rig, &what);
            let recovered = rig.recovered();
            model.changes.truncate(count);
            model.confirmed = count;
            model.accepted = recovered.accepted_epoch;
            model.accepted_asked = recovered.accepted_epoch;
            model.epoch = recovered.accepted_epoch.get() + 1;
            model.floor = recovered.snapshot.unwrap_or_default();
            rig.prng = (prng.below(2) == 0).then(|| Prng::new(prng.next()));
            let seen = rig.events.len();
            let steps_left = 20 + prng.below(300);
            let mut run = Run { rig, model, seen, steps_left };
            run.promise();
            while run.steps_left > 0 {
                let installing = run.rig.store.snapshot_under_way();
                let mut ask = random_ask(&mut prng);
                if matches!(ask, Ask::Snapshot | Ask::Install)
                    && matches!(installing, Some((_, SnapshotKind::Installed)))
                {
                    ask = Ask::Settle;
                }
                run.ask(ask);
                run.take_events();
                if !matches!(ask, Ask::Steps(_) | Ask::Settle) {
                    run.step();
                }
                run.steps_left = run.steps_left.saturating_sub(1);
            }
            disk = run.rig.disk.crash(seed * 100 + life);
            model = run.model;
        }
    }
}

/// How many lives are tried; more with `STORAGE_LIVES` in the environment.
fn lives() -> u64 {
    std::env::var("STORAGE_LIVES").ok().and_then(|lives| lives.parse().ok()).unwrap_or(50)
}
