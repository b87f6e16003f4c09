//! A server's cores, all or some of them, joined by in-memory links.
//!
//! With all four it is a whole server in one object, for the simulator and for one-thread
//! deployments; with some it is one thread's share, and messages for the others come out. Executes
//! no operation on a disk or a network.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use quorate_proto::Instant;
use quorate_storage::disk::{DiskDone, DiskOp};

use crate::core_trait::Core;
use crate::links::{Effect, Message, NetInput, NetOp, ShardInput, ToTree};
use crate::log_core::{LogCore, LogInput};
use crate::machine::StateMachine;
use crate::notice::Notice;
use crate::quorum_core::QuorumCore;
use crate::shard_core::ShardCore;
use crate::timing::{Stage, Timings};
use crate::tree_core::TreeCore;

/// Messages after which a turn reads the clock again, so that a step's time is not a turn's time.
const CLOCK_EVERY: usize = 16;

/// What leaves a group of cores.
#[derive(Debug)]
pub enum Output {
    /// For a core that lives elsewhere.
    Remote(Message),
    /// For the network, from this shard.
    Net(u16, NetOp),
    /// For the disk.
    Disk(DiskOp),
    /// For the operator.
    Notice(Notice),
    /// The server cannot go on; the reason.
    Fatal(alloc::string::String),
}

/// Some or all cores of one server.
#[derive(Debug)]
pub struct Peer<M: StateMachine> {
    /// Shards of the whole server, wherever they live.
    shard_count: u16,
    shards: Vec<(u16, ShardCore)>,
    quorum: Option<QuorumCore>,
    tree: Option<TreeCore<M>>,
    log: Option<LogCore>,
    links: VecDeque<Message>,
    outputs: VecDeque<Output>,
    timings: Timings,
}

impl<M: StateMachine> Peer<M> {
    /// No core yet, of a server with this many shards.
    pub const fn new(shard_count: u16) -> Self {
        Self {
            shard_count,
            shards: Vec::new(),
            quorum: None,
            tree: None,
            log: None,
            links: VecDeque::new(),
            outputs: VecDeque::new(),
            timings: Timings::new(),
        }
    }

    /// Adds a shard under its index.
    pub fn add_shard(&mut self, index: u16, mut shard: ShardCore) {
        assert!(index < self.shard_count, "shard {index} of {}", self.shard_count);
        shard.judge_with(M::judge_transaction);
        self.shards.push((index, shard));
    }

    /// Adds the quorum core.
    pub fn add_quorum(&mut self, quorum: QuorumCore) {
        self.quorum = Some(quorum);
    }

    /// Adds the tree core.
    pub fn add_tree(&mut self, tree: TreeCore<M>) {
        self.tree = Some(tree);
    }

    /// Adds the log core.
    pub fn add_log(&mut self, log: LogCore) {
        self.log = Some(log);
    }

    /// The tree core, if it lives here.
    pub const fn tree(&self) -> Option<&TreeCore<M>> {
        self.tree.as_ref()
    }

    /// The quorum core, if it lives here.
    pub const fn quorum(&self) -> Option<&QuorumCore> {
        self.quorum.as_ref()
    }

    /// Takes a message that came from elsewhere.
    pub fn deliver(&mut self, message: Message) {
        self.links.push_back(message);
    }

    /// Takes something that happened on a shard's network.
    pub fn handle_net(&mut self, now: Instant, shard: u16, input: NetInput) {
        if let Some(at) = self.shards.iter().position(|(index, _)| *index == shard) {
            self.shards[at].1.handle(now, ShardInput::Net(input));
            self.drain_shard(at);
        }
    }

    /// Takes the outcome of a disk operation.
    pub fn handle_disk(&mut self, now: Instant, done: DiskDone) {
        if let Some(log) = &mut self.log {
            log.handle(now, LogInput::Disk(done));
            self.drain_log();
        }
    }

    /// Lets every core that is due act on time passing.
    pub fn handle_timeout(&mut self, now: Instant) {
        for at in 0..self.shards.len() {
            self.shards[at].1.handle_timeout(now);
            self.drain_shard(at);
        }
        if let Some(quorum) = &mut self.quorum {
            quorum.handle_timeout(now);
            self.drain_quorum();
        }
        if let Some(tree) = &mut self.tree {
            tree.handle_timeout(now);
            self.drain_tree();
        }
        if let Some(log) = &mut self.log {
            log.handle_timeout(now);
            self.drain_log();
        }
    }

    /// When [`Peer::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let shards = self.shards.iter().filter_map(|(_, shard)| shard.poll_timeout());
        let quorum = self.quorum.as_ref().and_then(Core::poll_timeout);
        let tree = self.tree.as_ref().and_then(Core::poll_timeout);
        let log = self.log.as_ref().and_then(Core::poll_timeout);
        shards.chain(quorum).chain(tree).chain(log).min()
    }

    /// Hands on at most `budget` messages between the cores here; true if some are left.
    pub fn run(&mut self, budget: usize, clock: &mut impl FnMut() -> Instant) -> bool {
        let mut now = clock();
        for taken in 1..=budget {
            let Some(message) = self.links.pop_front() else { return false };
            self.dispatch(now, message, clock);
            if taken % CLOCK_EVERY == 0 {
                now = clock();
            }
        }
        !self.links.is_empty()
    }

    /// Hands on exactly one message, if there is one: the simulator's step.
    pub fn step(&mut self, now: Instant) -> bool {
        let Some(message) = self.links.pop_front() else { return false };
        self.dispatch(now, message, &mut || now);
        true
    }

    fn dispatch(&mut self, now: Instant, message: Message, clock: &mut impl FnMut() -> Instant) {
        match message {
            Message::Shard(index, message) => {
                if let Some(at) = self.shards.iter().position(|(shard, _)| *shard == index) {
                    self.shards[at].1.handle(now, ShardInput::Link(message));
                    self.drain_shard(at);
                }
            }
            Message::Quorum(message) => {
                if let Some(quorum) = &mut self.quorum {
                    quorum.handle(now, message);
                    self.drain_quorum();
                }
            }
            Message::Tree(message) => self.dispatch_tree(now, message, clock),
            Message::Log(message) => {
                if let Some(log) = &mut self.log {
                    log.handle(now, LogInput::Link(message));
                    self.drain_log();
                }
            }
        }
    }

    fn dispatch_tree(
        &mut self,
        now: Instant,
        message: ToTree,
        clock: &mut impl FnMut() -> Instant,
    ) {
        let Some(tree) = &mut self.tree else { return };
        if !matches!(message, ToTree::Commit(..)) {
            tree.handle(now, message);
            return self.drain_tree();
        }
        // Applying is measured by the batch: one pair of clock readings for all of it.
        let before = tree.applied_count();
        let begun = clock();
        tree.handle(now, message);
        let applied = tree.applied_count() - before;
        if applied > 0 {
            let each = clock().since(begun) / u32::try_from(applied).unwrap_or(u32::MAX);
            for _ in 0..applied {
                self.timings.note(Stage::Applied, begun, begun + each);
            }
        }
        self.drain_tree();
    }

    /// What must be done outside; drained after each batch of inputs.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Hands over the steps noted by all cores here.
    pub fn drain_timings(&mut self, mut each: impl FnMut(Stage, u64)) {
        let shards = self.shards.iter_mut().map(|(_, shard)| shard.timings());
        let quorum = self.quorum.as_mut().map(QuorumCore::timings);
        let tree = self.tree.as_mut().map(TreeCore::timings);
        let log = self.log.as_mut().map(LogCore::timings);
        let all = shards.chain(quorum).chain(tree).chain(log);
        for timings in all.chain([&mut self.timings]) {
            for (step, nanos) in timings.drain() {
                each(step, nanos);
            }
        }
    }

    /// Asserts every core's invariants.
    ///
    /// # Panics
    /// If one is broken: the server must stop before another byte leaves (R47).
    pub fn check_invariants(&self) {
        self.shards.iter().for_each(|(_, shard)| shard.check_invariants());
        if let Some(quorum) = &self.quorum {
            quorum.check_invariants();
        }
        if let Some(tree) = &self.tree {
            tree.check_invariants();
        }
        if let Some(log) = &self.log {
            log.check_invariants();
        }
    }

    // --- effects -------------------------------------------------------------------------------

    fn drain_shard(&mut self, at: usize) {
        let index = self.shards[at].0;
        while let Some(effect) = self.shards[at].1.poll_effect() {
            match effect {
                Effect::Net(op) => self.outputs.push_back(Output::Net(index, op)),
                other => self.take(other),
            }
        }
    }

    fn drain_quorum(&mut self) {
        while let Some(effect) = self.quorum.as_mut().and_then(Core::poll_effect) {
            self.take(effect);
        }
    }

    fn drain_tree(&mut self) {
        while let Some(effect) = self.tree.as_mut().and_then(Core::poll_effect) {
            self.take(effect);
        }
    }

    fn drain_log(&mut self) {
        while let Some(effect) = self.log.as_mut().and_then(Core::poll_effect) {
            self.take(effect);
        }
    }

    fn take(&mut self, effect: Effect) {
        match effect {
            Effect::Send(message) => self.route(message),
            Effect::Broadcast(message) => {
                for index in 0..self.shard_count {
                    self.route(Message::Shard(index, message.clone()));
                }
            }
            Effect::Disk(op) => self.outputs.push_back(Output::Disk(op)),
            Effect::Notice(notice) => self.outputs.push_back(Output::Notice(notice)),
            Effect::Fatal(why) => self.outputs.push_back(Output::Fatal(why)),
            Effect::Net(_) => unreachable!("only shards have a network"),
        }
    }

    /// Local messages wait their turn here; the others leave. Each ordered pair of cores always
    /// takes the same way, so its order is kept.
    fn route(&mut self, message: Message) {
        let is_local = match &message {
            Message::Shard(index, _) => self.shards.iter().any(|(shard, _)| shard == index),
            Message::Quorum(_) => self.quorum.is_some(),
            Message::Tree(_) => self.tree.is_some(),
            Message::Log(_) => self.log.is_some(),
        };
        if is_local {
            self.links.push_back(message);
        } else {
            self.outputs.push_back(Output::Remote(message));
        }
    }
}
