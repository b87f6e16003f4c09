//! What is asked of the servers: the mix of operations, the znodes, the payload.
//!
//! Decides no time: when to ask is the loop's. Draws from a seed, so that a run can be repeated.

/// A small generator of numbers that look random, splitmix64: one addition and two
/// multiplications a number.
#[derive(Clone, Debug)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// From 0 up to, not including, 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What one request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// getData of one of the znodes.
    Read,
    /// setData of one of the znodes.
    SetData,
    /// create of a new znode.
    Create,
}

/// The mix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// The share of requests that read, 0 to 1.
    pub(crate) read_share: f64,
    /// The share of the others that create, 0 to 1.
    pub(crate) create_share: f64,
    /// Bytes of data that a write brings.
    pub(crate) payload_len: usize,
    /// How many znodes reads and setData spread over.
    pub(crate) keys: usize,
}

/// One thread's stream of requests.
#[derive(Debug)]
pub(crate) struct Workload {
    draw: Draw,
    read_below: u64,
    create_below: u64,
    /// The znodes' paths, each as a jute string: length and bytes.
    paths: Vec<Box<[u8]>>,
    payload: Vec<u8>,
    creator: Creator,
}

/// Names for new znodes, none of them given twice.
#[derive(Debug)]
struct Creator {
    prefix: String,
    count: u64,
    path: Vec<u8>,
}

/// A request to be written down.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) kind: Kind,
    /// A jute string.
    pub(crate) path: &'a [u8],
    pub(crate) data: &'a [u8],
}

impl Workload {
    /// The stream of thread `thread`, over the znodes below `root`.
    pub(crate) fn new(mix: &Mix, root: &str, thread: usize, seed: u64) -> Self {
        let mut draw = Draw::new(seed ^ (thread as u64 + 1).wrapping_mul(0x517c_c1b7_2722_0a95));
        let payload = (0..mix.payload_len).map(|_| draw.next() as u8).collect();
        Self {
            draw,
            read_below: share_of_u64(mix.read_share),
            create_below: share_of_u64(mix.create_share),
            paths: (0..mix.keys).map(|key| jute_string(&key_path(root, key))).collect(),
            payload,
            creator: Creator { prefix: creation_prefix(root, thread), count: 0, path: Vec::new() },
        }
    }

    /// The next request.
    pub(crate) fn next(&mut self) -> Request<'_> {
        if draws(&mut self.draw, self.read_below) {
            let path = &self.paths[self.draw.below(self.paths.len())];
            return Request { kind: Kind::Read, path, data: &[] };
        }
        if draws(&mut self.draw, self.create_below) {
            let path = self.creator.next();
            return Request { kind: Kind::Create, path, data: &self.payload };
        }
        let path = &self.paths[self.draw.below(self.paths.len())];
        Request { kind: Kind::SetData, path, data: &self.payload }
    }

    /// How many znodes it has asked to be created.
    pub(crate) const fn created(&self) -> u64 {
        self.creator.count
    }
}

impl Creator {
    fn next(&mut self) -> &[u8] {
        use std::io::Write;
        self.path.clear();
        self.path.extend_from_slice(&[0; 4]);
        write!(self.path, "{}{}", self.prefix, self.count).expect("a Vec takes all bytes");
        self.count += 1;
        let len = (self.path.len() - 4) as u32;
        self.path[..4].copy_from_slice(&len.to_be_bytes());
        &self.path
    }
}

/// All znodes that a run may have left behind, children before their parent.
pub(crate) fn all_paths(root: &str, keys: usize, created: &[u64]) -> Vec<String> {
    let mut all: Vec<String> = (0..keys).map(|key| key_path(root, key)).collect();
    for (thread, &count) in created.iter().enumerate() {
        let prefix = creation_prefix(root, thread);
        all.extend((0..count).map(|n| format!("{prefix}{n}")));
    }
    all.push(root.to_owned());
    all
}

/// The path of one of the znodes.
pub(crate) fn key_path(root: &str, key: usize) -> String {
    format!("{root}/k{key:06}")
}

fn creation_prefix(root: &str, thread: usize) -> String {
    format!("{root}/c{thread}-")
}

pub(crate) fn jute_string(text: &str) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(4 + text.len());
    bytes.extend_from_slice(&(text.len() as u32).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
    bytes.into_boxed_slice()
}

/// A share as a bound for whole draws: 0 for never, the largest for always.
fn share_of_u64(share: f64) -> u64 {
    (share * u64::MAX as f64) as u64
}

/// A draw only where both outcomes are possible.
const fn draws(draw: &mut Draw, below: u64) -> bool {
    match below {
        0 => false,
        u64::MAX => true,
        _ => draw.next() < below,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mix(read_share: f64, create_share: f64) -> Mix {
        Mix { read_share, create_share, payload_len: 16, keys: 10 }
    }

    fn counts(mix: &Mix) -> [usize; 3] {
        let mut workload = Workload::new(mix, "/r", 0, 1);
        let mut counts = [0; 3];
        for _ in 0..10_000 {
            counts[workload.next().kind as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_kept() {
        let [reads, sets, creates] = counts(&mix(0.9, 0.5));
        assert!((8_850..9_150).contains(&reads), "{reads}");
        assert!((400..600).contains(&sets) && (400..600).contains(&creates));
        assert_eq!(counts(&mix(0.0, 0.0)), [0, 10_000, 0]);
        assert_eq!(counts(&mix(1.0, 0.0)), [10_000, 0, 0]);
        assert_eq!(counts(&mix(0.0, 1.0)), [0, 0, 10_000]);
    }

    #[test]
    fn requests_spread_over_all_znodes() {
        let mut workload = Workload::new(&mix(0.0, 0.0), "/r", 0, 1);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..10_000 {
            *seen.entry(workload.next().path.to_vec()).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.values().all(|&count| (850..1150).contains(&count)), "{seen:?}");
    }

    #[test]
    fn created_paths_are_distinct_and_all_are_cleaned_up() {
        let mut paths = Vec::new();
        for thread in 0..2 {
            let mut workload = Workload::new(&mix(0.0, 1.0), "/r", thread, 1);
            for _ in 0..11 {
                paths.push(String::from_utf8(workload.next().path[4..].to_vec()).unwrap());
            }
            assert_eq!(workload.created(), 11);
        }
        let all = all_paths("/r", 1, &[11, 11]);
        assert!(paths.iter().all(|path| all.contains(path)));
        paths.sort();
        paths.dedup();
        assert_eq!((paths.len(), all.len()), (22, 24));
        assert_eq!(all.last().unwrap(), "/r");
    }

    #[test]
    fn equal_seeds_give_equal_runs() {
        let stream = |seed| {
            let mut workload = Workload::new(&mix(0.5, 0.5), "/r", 0, seed);
            (0..100).map(|_| workload.next().path.to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(stream(3), stream(3));
        assert_ne!(stream(3), stream(4));
    }
}
