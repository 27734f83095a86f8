//! Which storage node holds a block: 4,096 partitions from the keyed half of the id, rendezvous
//! hashing over nodes.
//!
//! The weight of (partition, node) is the first 8 bytes, little-endian, of `BLAKE3(node id ‖ 0 ‖
//! partition u16 LE)`; the node of highest weight is the first choice, the next one stands in
//! (Thaler and Ravishankar, 1998). The partition is the first 12 bits of the keyed half, which
//! nobody without the dedup key can aim at.

use crate::block_id::BlockId;
use crate::ids::{MapVersion, NodeId};
use crate::limits::{MAX_STORAGE_NODES, PARTITIONS};

/// One of the 4,096 partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Partition(u16);

impl Partition {
    /// The partition of a block.
    pub fn of(id: &BlockId) -> Self {
        let [high, low, ..] = id.keyed_half();
        Self(u16::from_be_bytes([high, low]) >> 4)
    }
}

/// A node that a map names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementNode {
    /// The node's stable name.
    pub id: NodeId,
    /// Name of what fails together with the node; the node's own name if nothing was configured.
    pub failure_domain: String,
}

/// A map that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// No nodes, or more than 256.
    #[error("a placement map needs 1 to 256 nodes, found {0}")]
    Count(usize),
    /// One name twice.
    #[error("placement map names node {0} twice")]
    Twice(NodeId),
}

/// A versioned map from partitions to nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    version: MapVersion,
    nodes: Vec<PlacementNode>,
    first: Vec<u16>,
}

impl Placement {
    /// # Errors
    /// [`PlacementError`] for an empty, too long or repeating list.
    pub fn new(version: MapVersion, nodes: Vec<PlacementNode>) -> Result<Self, PlacementError> {
        if nodes.is_empty() || nodes.len() > MAX_STORAGE_NODES {
            return Err(PlacementError::Count(nodes.len()));
        }
        for (at, node) in nodes.iter().enumerate() {
            if nodes.iter().take(at).any(|other| other.id == node.id) {
                return Err(PlacementError::Twice(node.id.clone()));
            }
        }
        let first = (0..PARTITIONS)
            .map(|partition| {
                let best = nodes
                    .iter()
                    .enumerate()
                    .max_by_key(|(_, node)| weight(Partition(partition), &node.id));
                best.map_or(0, |(at, _)| at as u16)
            })
            .collect();
        Ok(Self {
            version,
            nodes,
            first,
        })
    }

    /// Version that frames carry.
    pub fn version(&self) -> MapVersion {
        self.version
    }

    /// All nodes, in the order of the map.
    pub fn nodes(&self) -> &[PlacementNode] {
        &self.nodes
    }

    /// Returns the first choice for a block.
    pub fn node_of(&self, id: &BlockId) -> &PlacementNode {
        let Partition(partition) = Partition::of(id);
        let node = self
            .first
            .get(usize::from(partition))
            .and_then(|at| self.nodes.get(usize::from(*at)));
        node.expect(
            "a map has a first choice for each of the 4,096 partitions, and it is one of its nodes",
        )
    }
}

fn weight(partition: Partition, node: &NodeId) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(node.as_str().as_bytes())
        .update(&[0])
        .update(&partition.0.to_le_bytes());
    hasher
        .finalize()
        .as_bytes()
        .first_chunk()
        .map_or(0, |raw| u64::from_le_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_id::DedupKey;

    fn map(names: &[&str]) -> Placement {
        let nodes = names
            .iter()
            .map(|name| PlacementNode {
                id: NodeId::new(name).unwrap(),
                failure_domain: (*name).to_owned(),
            })
            .collect();
        Placement::new(MapVersion(1), nodes).unwrap()
    }

    fn ids(count: u32) -> Vec<BlockId> {
        let key = DedupKey::from_bytes([9; 32]);
        (0..count)
            .map(|n| BlockId::of_many(&key, &[&n.to_le_bytes()])[0])
            .collect()
    }

    #[test]
    fn a_fourth_node_takes_blocks_but_moves_none_between_the_others() {
        let (three, four) = (map(&["a", "b", "c"]), map(&["a", "b", "c", "d"]));
        let mut moved = 0;
        for id in ids(4_000) {
            match (three.node_of(&id), four.node_of(&id)) {
                (_, after) if after.id.as_str() == "d" => moved += 1,
                (before, after) => assert_eq!(before, after),
            }
        }
        assert!(
            (800..1_200).contains(&moved),
            "{moved} of 4000 blocks moved to the fourth node"
        );
    }

    #[test]
    fn the_order_of_names_does_not_matter() {
        let (left, right) = (map(&["a", "b", "c"]), map(&["c", "a", "b"]));
        for id in ids(500) {
            assert_eq!(left.node_of(&id), right.node_of(&id));
        }
    }

    #[test]
    fn the_weight_is_pinned_because_blocks_lie_where_it_said() {
        let node = NodeId::new("storage-1").unwrap();
        let mut bytes = b"storage-1\0".to_vec();
        bytes.extend(5u16.to_le_bytes());
        let expected = u64::from_le_bytes(*blake3::hash(&bytes).as_bytes().first_chunk().unwrap());
        assert_eq!(weight(Partition(5), &node), expected);
    }

    #[test]
    fn empty_and_repeating_maps_are_refused() {
        assert_eq!(
            Placement::new(MapVersion(1), vec![]),
            Err(PlacementError::Count(0))
        );
        let node = PlacementNode {
            id: NodeId::new("a").unwrap(),
            failure_domain: "a".to_owned(),
        };
        assert!(matches!(
            Placement::new(MapVersion(1), vec![node.clone(), node]),
            Err(PlacementError::Twice(_))
        ));
    }
}
