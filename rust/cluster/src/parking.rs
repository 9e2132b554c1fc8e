//! Where stanzas wait for a map or a shard: bounded, and in order.

use crate::id::Shard;
use std::collections::{BTreeMap, VecDeque};

/// How much may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkingLimits {
    /// For one shard, bytes.
    pub shard_bytes: usize,
    /// For all, bytes.
    pub bytes: usize,
}

impl Default for ParkingLimits {
    fn default() -> Self {
        Self {
            shard_bytes: 4 << 20,
            bytes: 64 << 20,
        }
    }
}

/// No room: the stanza is answered with `resource-constraint`, type wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too much waits for this shard")]
pub struct ParkingFull;

/// What waits, by shard.
#[derive(Debug)]
pub struct Parking<P> {
    limits: ParkingLimits,
    lanes: BTreeMap<Shard, (usize, VecDeque<P>)>,
    bytes: usize,
}

impl<P> Parking<P> {
    /// Empty.
    #[must_use]
    pub fn new(limits: ParkingLimits) -> Self {
        Self {
            limits,
            lanes: BTreeMap::new(),
            bytes: 0,
        }
    }

    /// Behind all that waits for this shard. `bytes` is what it holds, at least 1.
    ///
    /// # Errors
    /// [`ParkingFull`], with the item given back.
    pub fn park(&mut self, shard: Shard, bytes: usize, item: P) -> Result<(), (P, ParkingFull)> {
        let lane = self.lanes.entry(shard).or_default();
        let (of_shard, of_all) = (lane.0 + bytes, self.bytes + bytes);
        if of_shard > self.limits.shard_bytes || of_all > self.limits.bytes {
            if lane.1.is_empty() {
                self.lanes.remove(&shard);
            }
            return Err((item, ParkingFull));
        }
        lane.0 = of_shard;
        lane.1.push_back(item);
        self.bytes = of_all;
        Ok(())
    }

    /// Whether something waits for this shard: then what comes must wait behind it.
    #[must_use]
    pub fn has(&self, shard: Shard) -> bool {
        self.lanes.contains_key(&shard)
    }

    /// Takes all that waits for a shard, oldest first, to be judged again.
    pub fn take(&mut self, shard: Shard) -> VecDeque<P> {
        let (bytes, items) = self.lanes.remove(&shard).unwrap_or_default();
        self.bytes -= bytes;
        items
    }

    /// Shards for which something waits.
    #[must_use]
    pub fn shards(&self) -> Vec<Shard> {
        self.lanes.keys().copied().collect()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_comes_back_in_order() {
        let limits = ParkingLimits {
            shard_bytes: 10,
            bytes: 15,
        };
        let mut parking = Parking::new(limits);
        for item in 0..3 {
            parking.park(7, 3, item).unwrap();
        }
        assert_eq!(parking.park(7, 3, 3), Err((3, ParkingFull)));
        assert_eq!(parking.park(8, 7, 4), Err((4, ParkingFull)));
        assert!(!parking.has(8));
        assert_eq!(parking.take(7), [0, 1, 2]);
        assert_eq!((parking.bytes(), parking.has(7)), (0, false));
        parking.park(8, 7, 4).unwrap();
    }
}
