//! How large a file's graph is, weights not counted, before anything is made of it: two bytes of an empty message would
//! unfold to a hundred.

/// Which message is being looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    /// Counted as a whole.
    Leaf,
    /// Elements of a tensor: as large in memory as in the file.
    Data,
    /// Not read.
    Skipped,
}

impl Kind {
    fn of_field(self, tag: u64) -> Self {
        match (self, tag) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 1 | 2 | 3 | 8) => Kind::Leaf,
            (Kind::Graph, 1) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5) => Kind::Tensor,
            (Kind::Graph, 11 | 12) => Kind::Leaf,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::Node, 1 | 2 | 3 | 4 | 7) => Kind::Leaf,
            (Kind::Attribute, 1 | 2 | 3 | 4 | 7 | 8 | 20) => Kind::Leaf,
            (Kind::Tensor, 4 | 9 | 10) => Kind::Data,
            (Kind::Tensor, 1 | 2 | 7 | 8 | 14) => Kind::Leaf,
            _ => Kind::Skipped,
        }
    }
}

/// Bytes of `file` that the reader will unfold, elements of tensors not counted; `None` when it is no protobuf.
pub fn graph_bytes(file: &[u8]) -> Option<usize> {
    count(file, Kind::Model)
}

/// The depth of the recursion is that of [`Kind::of_field`]: five.
fn count(mut rest: &[u8], kind: Kind) -> Option<usize> {
    let mut total = 0;
    while !rest.is_empty() {
        let before = rest.len();
        let key = varint(&mut rest)?;
        let inner = kind.of_field(key >> 3);
        let counted = !matches!(inner, Kind::Skipped | Kind::Data);
        match key & 7 {
            0 => {
                varint(&mut rest)?;
            }
            1 => rest = rest.get(8..)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                let (field, after) = rest.split_at_checked(length)?;
                rest = after;
                if matches!(inner, Kind::Graph | Kind::Node | Kind::Attribute | Kind::Tensor) {
                    total += before - after.len() - length + count(field, inner)?;
                    continue;
                }
            }
            5 => rest = rest.get(4..)?,
            // Groups are no part of the format.
            _ => return None,
        }
        total += if counted { before - rest.len() } else { 0 };
    }
    Some(total)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::onnx::proto;

    #[test]
    fn weights_are_not_counted_and_everything_else_is() {
        let tensor = |elements: usize| proto::Tensor {
            dims: vec![elements as i64],
            data_type: 1,
            name: "w".into(),
            raw_data: Some(vec![0; 4 * elements].into()),
            ..Default::default()
        };
        let model = |elements: usize, nodes: usize| {
            let node = proto::Node { op_type: "Relu".into(), ..Default::default() };
            let graph =
                proto::Graph { initializer: vec![tensor(elements)], node: vec![node; nodes], ..Default::default() };
            let model = proto::Model { graph: Some(graph), ir_version: 7, ..Default::default() };
            model.encode_to_vec()
        };
        let (small, large, many) = (model(100, 1), model(100_000, 1), model(100, 1001));
        let of = |file: &[u8]| graph_bytes(file).unwrap();
        assert!(of(&small) < 60 && of(&large) < of(&small) + 10, "{} {}", of(&small), of(&large));
        assert_eq!(of(&many) - of(&small), 8 * 1000);
        for cut in 1..small.len() {
            assert!(graph_bytes(&small[..cut]).is_none_or(|n| n <= of(&small)));
        }
        assert_eq!(graph_bytes(&[0xff; 12]), None);
        assert_eq!(graph_bytes(b"\x0b\x0c"), None);
    }
}
