//! The map as bytes (etcd's value) and as JSON (for people).
//!
//! Format 1: `"APMP"`, the format, a body, and the xxh3-64 of all before it. The body is varints:
//! epoch, planner, number of nodes, nodes {incarnation, flags, id, zone}, number of shards, and
//! the columns of the shards one after another (owner; shadow + 1; from + 1; age of `since` and
//! whether it is clean), each a list of runs (length, value). What follows the last column is left
//! alone: later versions add columns there.

use crate::id::{Epoch, Incarnation, NodeId, Shard, Zone};
use crate::map::{BadMap, MapNode, NODES_MAX, ShardMap, Slot};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 4] = b"APMP";
const FORMAT: u8 = 1;
const HASH_BYTES: usize = 8;
/// The longest map that is read, bytes; etcd takes 1.5 MiB in a request.
pub const MAP_BYTES_MAX: usize = 1 << 20;

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// A column of the shards as runs.
fn put_column(out: &mut Vec<u8>, values: impl Iterator<Item = u64>) {
    let mut run: Option<(u64, u64)> = None;
    for value in values {
        run = match run {
            Some((length, same)) if same == value => Some((length + 1, same)),
            Some((length, other)) => {
                put(out, length);
                put(out, other);
                Some((1, value))
            }
            None => Some((1, value)),
        };
    }
    if let Some((length, value)) = run {
        put(out, length);
        put(out, value);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8], BadMap> {
        let (head, tail) = self
            .0
            .split_at_checked(count)
            .ok_or(BadMap::Garbage("it ends too early"))?;
        self.0 = tail;
        Ok(head)
    }

    fn number(&mut self) -> Result<u64, BadMap> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bytes(1)?[0];
            let part = u64::from(byte & 0x7f);
            if part << shift >> shift != part {
                break;
            }
            value |= part << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(BadMap::Garbage("a number is too large"))
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Result<T, BadMap> {
        T::try_from(self.number()?).map_err(|_| BadMap::Garbage("a number is too large"))
    }

    fn text(&mut self) -> Result<&'a str, BadMap> {
        let length = self.small::<u16>()?;
        std::str::from_utf8(self.bytes(length.into())?).map_err(|_| BadMap::Garbage("a name"))
    }

    fn node(&mut self) -> Result<MapNode, BadMap> {
        let name = |_| BadMap::Garbage("a name");
        let incarnation = Incarnation(self.small()?);
        let is_draining = self.number()? & 1 == 1;
        let id = NodeId::new(self.text()?).map_err(name)?;
        let zone = match self.text()? {
            "" => None,
            zone => Some(Zone::new(zone).map_err(name)?),
        };
        Ok(MapNode {
            id,
            incarnation,
            zone,
            is_draining,
        })
    }

    fn column(&mut self, shards: Shard) -> Result<Vec<u64>, BadMap> {
        let shards = usize::from(shards);
        let mut values = Vec::with_capacity(shards);
        while values.len() < shards {
            let (run, value) = (self.number()?, self.number()?);
            if run == 0 || run > (shards - values.len()) as u64 {
                return Err(BadMap::Garbage("a column of another length"));
            }
            values.resize(values.len() + run as usize, value);
        }
        Ok(values)
    }
}

/// An index + 1, 0 for none.
fn index(value: u64) -> Result<Option<u16>, BadMap> {
    match value.checked_sub(1) {
        None => Ok(None),
        Some(at) => u16::try_from(at)
            .map(Some)
            .map_err(|_| BadMap::Garbage("an index")),
    }
}

impl ShardMap {
    /// As it stands in etcd.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + 4 * self.slots.len());
        out.extend_from_slice(MAGIC);
        out.push(FORMAT);
        put(&mut out, self.epoch.0);
        put(&mut out, self.planner.0.into());
        put(&mut out, self.nodes.len() as u64);
        for node in &self.nodes {
            put(&mut out, node.incarnation.0.into());
            put(&mut out, node.is_draining.into());
            put_text(&mut out, node.id.as_str());
            put_text(&mut out, node.zone.as_ref().map_or("", Zone::as_str));
        }
        put(&mut out, self.slots.len() as u64);
        let one_up = |at: Option<u16>| at.map_or(0, |at| u64::from(at) + 1);
        put_column(&mut out, self.slots.iter().map(|s| s.owner.into()));
        put_column(&mut out, self.slots.iter().map(|s| one_up(s.shadow)));
        put_column(&mut out, self.slots.iter().map(|s| one_up(s.from)));
        let age = |s: &Slot| (self.epoch.0 - s.since.0) << 1 | u64::from(s.is_clean);
        put_column(&mut out, self.slots.iter().map(age));
        let hash = xxh3_64(&out);
        out.extend_from_slice(&hash.to_le_bytes());
        out
    }

    /// Reads a map of so many shards.
    ///
    /// # Errors
    /// [`BadMap`] for whatever is no map in full order; nobody acts on such a one.
    pub fn read(bytes: &[u8], shards: Shard) -> Result<Self, BadMap> {
        if bytes.len() > MAP_BYTES_MAX {
            return Err(BadMap::Garbage("it is too long"));
        }
        let body = bytes
            .len()
            .checked_sub(HASH_BYTES)
            .ok_or(BadMap::Garbage("it ends too early"))?;
        let (body, hash) = bytes.split_at(body);
        let mut reader = Reader(body);
        if reader.bytes(MAGIC.len())? != MAGIC {
            return Err(BadMap::Garbage("it does not begin like one"));
        }
        if xxh3_64(body).to_le_bytes() != hash {
            return Err(BadMap::Garbage("its sum is wrong"));
        }
        match reader.bytes(1)?[0] {
            FORMAT => {}
            other => return Err(BadMap::Format(other)),
        }
        let epoch = Epoch(reader.number()?);
        let planner = Incarnation(reader.small()?);
        let count: usize = reader.small()?;
        if count > NODES_MAX {
            return Err(BadMap::Contradiction("number of nodes"));
        }
        let nodes: Result<Vec<_>, _> = (0..count).map(|_| reader.node()).collect();
        let given = reader.number()?;
        if given != u64::from(shards) {
            return Err(BadMap::Shards(given));
        }
        let slots = read_slots(&mut reader, epoch, shards)?;
        Self::new(epoch, planner, nodes?, slots)
    }

    /// For people: nodes with their counts, and the shards of each as ranges.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let nodes = self.nodes.iter().enumerate().map(|(at, node)| {
            let is_its = |s: &Slot| usize::from(s.owner) == at;
            let is_coming = |s: &Slot| is_its(s) && s.from.is_some();
            let is_leaving = |s: &Slot| s.from.is_some_and(|f| usize::from(f) == at);
            json!({
                "id": node.id,
                "incarnation": node.incarnation,
                "zone": node.zone,
                "draining": node.is_draining,
                "shards": self.slots.iter().filter(|s| is_its(s)).count(),
                "coming": self.slots.iter().filter(|s| is_coming(s)).count(),
                "leaving": self.slots.iter().filter(|s| is_leaving(s)).count(),
                "ranges": self.ranges(is_its),
            })
        });
        json!({
            "epoch": self.epoch,
            "planner": self.planner,
            "shards": self.slots.len(),
            "nodes": nodes.collect::<Vec<_>>(),
        })
    }

    /// `"0-11,14"`.
    fn ranges(&self, is_in: impl Fn(&Slot) -> bool) -> String {
        let mut parts: Vec<(usize, usize)> = Vec::new();
        for (at, _) in self.slots.iter().enumerate().filter(|(_, s)| is_in(s)) {
            match parts.last_mut() {
                Some((_, end)) if *end + 1 == at => *end = at,
                _ => parts.push((at, at)),
            }
        }
        let text = parts.iter().map(|(from, to)| match from == to {
            true => from.to_string(),
            false => format!("{from}-{to}"),
        });
        text.collect::<Vec<_>>().join(",")
    }
}

fn read_slots(reader: &mut Reader<'_>, epoch: Epoch, shards: Shard) -> Result<Vec<Slot>, BadMap> {
    let owners = reader.column(shards)?;
    let shadows = reader.column(shards)?;
    let froms = reader.column(shards)?;
    let ages = reader.column(shards)?;
    let slot = |at: usize| {
        Ok(Slot {
            owner: u16::try_from(owners[at]).map_err(|_| BadMap::Garbage("an index"))?,
            from: index(froms[at])?,
            shadow: index(shadows[at])?,
            since: Epoch(epoch.0.saturating_sub(ages[at] >> 1)),
            is_clean: ages[at] & 1 == 1,
        })
    };
    (0..usize::from(shards)).map(slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::member::MemberState;
    use crate::member::tests::member;
    use crate::planner::{Policy, Situation, plan};
    use antiphon_routing::home::SHARDS;
    use proptest::prelude::*;

    fn map(nodes: u32) -> ShardMap {
        let members: Vec<_> = (1..=nodes)
            .map(|n| member(&format!("node-{n}"), n + 100, MemberState::Up))
            .collect();
        let situation = Situation {
            previous: None,
            members: &members,
            shards: SHARDS,
            planner: Incarnation(101),
            settled: &|_, _| false,
        };
        plan(&situation, &Policy::default()).unwrap()
    }

    #[test]
    fn a_map_reads_as_it_was_written_and_is_small() {
        let one = map(20);
        let bytes = one.to_bytes();
        assert!(bytes.len() < 17_000, "{}", bytes.len());
        assert_eq!(ShardMap::read(&bytes, SHARDS), Ok(one));
    }

    #[test]
    fn a_map_with_columns_of_a_later_version_still_reads() {
        let one = map(3);
        let mut bytes = one.to_bytes();
        bytes.truncate(bytes.len() - HASH_BYTES);
        bytes.extend_from_slice(b"more");
        let hash = xxh3_64(&bytes);
        bytes.extend_from_slice(&hash.to_le_bytes());
        assert_eq!(ShardMap::read(&bytes, SHARDS), Ok(one));
    }

    #[test]
    fn a_torn_or_changed_map_is_an_error() {
        let bytes = map(3).to_bytes();
        for at in 0..bytes.len() {
            assert!(ShardMap::read(&bytes[..at], SHARDS).is_err());
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            assert!(ShardMap::read(&changed, SHARDS).is_err());
        }
        assert_eq!(ShardMap::read(&bytes, 7), Err(BadMap::Shards(4096)));
    }

    #[test]
    fn people_see_ranges() {
        let text = map(1).to_json();
        assert_eq!(text["nodes"][0]["ranges"], "0-4095");
        assert_eq!(text["nodes"][0]["shards"], 4096);
    }

    proptest! {
        /// With the right sum, too: what reads is in order, what is not is an error, none panics.
        #[test]
        fn garbage_with_a_right_sum_never_panics(
            body in prop::collection::vec(any::<u8>(), 0..200),
            keep in 0_usize..300,
        ) {
            let mut bytes = map(2).to_bytes();
            bytes.truncate(5.max(keep.min(bytes.len() - HASH_BYTES)));
            bytes.extend_from_slice(&body);
            let hash = xxh3_64(&bytes);
            bytes.extend_from_slice(&hash.to_le_bytes());
            if let Ok(map) = ShardMap::read(&bytes, SHARDS) {
                prop_assert!(map.slots().iter().all(|s| usize::from(s.owner) < map.nodes().len()));
            }
        }
    }
}
