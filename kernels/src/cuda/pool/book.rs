//! Which part of which segment is in use: numbers only, no device.
//!
//! The smallest free part that is large enough is taken, and split; parts that are given back grow together with their free
//! neighbours. Small parts have segments of their own, so that one that lives long does not keep a large segment apart.

use std::collections::{BTreeMap, BTreeSet};

/// Every part begins at a multiple of it and has a multiple of it: what drivers promise, and more than any load asks for.
pub const ALIGNMENT: usize = 256;

/// What is smaller is small.
const SMALL: usize = 1 << 20;
/// A segment of small parts.
const SMALL_SEGMENT: usize = 4 << 20;
/// What is smaller shares segments of [`SHARED_SEGMENT`]; the rest gets one of its size.
const SHARED: usize = 16 << 20;
const SHARED_SEGMENT: usize = 64 << 20;
/// Pages of large segments.
const PAGE: usize = 2 << 20;

/// A part that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Which segment.
    pub segment: u32,
    /// Where it begins there.
    pub offset: usize,
    /// How many bytes it has.
    pub bytes: usize,
}

/// What was counted, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// In use now.
    pub used_bytes: u64,
    /// The most that was in use.
    pub peak_bytes: u64,
    /// Taken from the driver now, in use or not.
    pub reserved_bytes: u64,
    /// The most that was taken.
    pub reserved_peak_bytes: u64,
}

struct Part {
    bytes: usize,
    free: bool,
}

struct Segment {
    bytes: usize,
    small: bool,
    /// By where they begin; together they are the segment.
    parts: BTreeMap<usize, Part>,
}

/// See the module.
#[derive(Default)]
pub struct Book {
    segments: BTreeMap<u32, Segment>,
    /// Small or not, bytes, segment, offset.
    free: BTreeSet<(bool, usize, u32, usize)>,
    next: u32,
    counts: PoolCounts,
}

/// Bytes that a request takes; `None` when there is no such number.
pub fn rounded(bytes: usize) -> Option<usize> {
    bytes.max(1).checked_next_multiple_of(ALIGNMENT)
}

/// Bytes of a new segment for a request of [`rounded`] bytes, of which the request is the least that would do.
pub fn segment_bytes(bytes: usize) -> usize {
    match bytes {
        0..SMALL => SMALL_SEGMENT,
        SMALL..SHARED => SHARED_SEGMENT,
        _ => bytes.checked_next_multiple_of(PAGE).unwrap_or(bytes),
    }
}

impl Book {
    /// A free part for [`rounded`] bytes, if there is one.
    pub fn take(&mut self, bytes: usize) -> Option<Place> {
        let small = bytes < SMALL;
        let found = *self.free.range((small, bytes, 0, 0)..).next().filter(|free| free.0 == small)?;
        let (_, whole, segment, offset) = found;
        self.free.remove(&found);
        let parts = &mut self.segments.get_mut(&segment)?.parts;
        parts.insert(offset, Part { bytes, free: false });
        if whole > bytes {
            parts.insert(offset + bytes, Part { bytes: whole - bytes, free: true });
            self.free.insert((small, whole - bytes, segment, offset + bytes));
        }
        self.counts.used_bytes += bytes as u64;
        self.counts.peak_bytes = self.counts.peak_bytes.max(self.counts.used_bytes);
        Some(Place { segment, offset, bytes })
    }

    /// A segment that was got from the driver for a request of [`rounded`] bytes.
    pub fn add(&mut self, segment_bytes: usize, request: usize) -> u32 {
        let (segment, small) = (self.next, request < SMALL);
        self.next += 1;
        let parts = BTreeMap::from([(0, Part { bytes: segment_bytes, free: true })]);
        self.segments.insert(segment, Segment { bytes: segment_bytes, small, parts });
        self.free.insert((small, segment_bytes, segment, 0));
        self.counts.reserved_bytes += segment_bytes as u64;
        self.counts.reserved_peak_bytes = self.counts.reserved_peak_bytes.max(self.counts.reserved_bytes);
        segment
    }

    /// Takes a part back.
    pub fn give_back(&mut self, place: Place) {
        let Some(segment) = self.segments.get_mut(&place.segment) else { return };
        let (mut start, mut bytes) = (place.offset, place.bytes);
        if let Some((before, part)) = segment.parts.range(..start).next_back()
            && part.free
        {
            self.free.remove(&(segment.small, part.bytes, place.segment, *before));
            (start, bytes) = (*before, bytes + part.bytes);
        }
        let after = place.offset + place.bytes;
        if let Some(part) = segment.parts.get(&after).filter(|part| part.free) {
            self.free.remove(&(segment.small, part.bytes, place.segment, after));
            bytes += part.bytes;
            segment.parts.remove(&after);
        }
        segment.parts.remove(&place.offset);
        segment.parts.insert(start, Part { bytes, free: true });
        self.free.insert((segment.small, bytes, place.segment, start));
        self.counts.used_bytes -= place.bytes as u64;
    }

    /// Forgets segments of which nothing is in use, and names them.
    pub fn drop_unused(&mut self) -> Vec<u32> {
        let unused = |segment: &Segment| segment.parts.get(&0).is_some_and(|p| p.free && p.bytes == segment.bytes);
        let gone: Vec<(u32, Segment)> = self.segments.extract_if(.., |_, segment| unused(segment)).collect();
        for (id, segment) in &gone {
            self.free.remove(&(segment.small, segment.bytes, *id, 0));
            self.counts.reserved_bytes -= segment.bytes as u64;
        }
        gone.into_iter().map(|(id, _)| id).collect()
    }

    /// What was counted so far.
    pub fn counts(&self) -> PoolCounts {
        self.counts
    }

    /// Begins the peaks anew from what there is now.
    pub fn restart_peaks(&mut self) {
        self.counts.peak_bytes = self.counts.used_bytes;
        self.counts.reserved_peak_bytes = self.counts.reserved_bytes;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Book {
        /// Panics where it contradicts itself or what is in use.
        fn check(&self, live: &[Place]) {
            let mut free = BTreeSet::new();
            for (id, segment) in &self.segments {
                let (mut at, mut before_free) = (0, false);
                for (offset, part) in &segment.parts {
                    assert_eq!((*offset, part.bytes % ALIGNMENT), (at, 0));
                    assert!(part.bytes > 0 && !(part.free && before_free), "free neighbours stay apart");
                    if part.free {
                        free.insert((segment.small, part.bytes, *id, at));
                    } else {
                        let place = Place { segment: *id, offset: at, bytes: part.bytes };
                        assert!(live.contains(&place), "{place:?} is nobody's");
                    }
                    (at, before_free) = (at + part.bytes, part.free);
                }
                assert_eq!(at, segment.bytes);
            }
            assert_eq!(free, self.free);
            let used = live.iter().map(|p| p.bytes as u64).sum::<u64>();
            let reserved = self.segments.values().map(|s| s.bytes as u64).sum::<u64>();
            assert_eq!((self.counts.used_bytes, self.counts.reserved_bytes), (used, reserved));
            assert!(self.counts.peak_bytes >= used && self.counts.reserved_peak_bytes >= reserved);
        }
    }

    fn get(book: &mut Book, bytes: usize) -> Place {
        let bytes = rounded(bytes).unwrap();
        book.take(bytes).unwrap_or_else(|| {
            book.add(segment_bytes(bytes), bytes);
            book.take(bytes).unwrap()
        })
    }

    #[test]
    fn sizes() {
        assert_eq!((rounded(0), rounded(1), rounded(257)), (Some(256), Some(256), Some(512)));
        assert_eq!(rounded(usize::MAX), None);
        for (bytes, segment) in [(256, 4 << 20), (1 << 20, 64 << 20), (17 << 20, 18 << 20), (64 << 20, 64 << 20)] {
            assert_eq!(segment_bytes(bytes), segment);
        }
    }

    #[test]
    fn the_smallest_part_that_fits_is_taken() {
        let mut book = Book::default();
        let large: Vec<Place> = [20 << 20, 40 << 20, 30 << 20].map(|bytes| get(&mut book, bytes)).to_vec();
        large.iter().for_each(|place| book.give_back(*place));
        assert_eq!(get(&mut book, 25 << 20).segment, large[2].segment);
        assert_eq!(get(&mut book, 18 << 20).segment, large[0].segment);
        assert_eq!(book.drop_unused(), [large[1].segment]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take(usize),
        GiveBack(usize),
        Drop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop_oneof![0usize..4096, 1usize << 19..1 << 21, 1usize << 21..1 << 25].prop_map(Step::Take),
            4 => any::<usize>().prop_map(Step::GiveBack),
            1 => Just(Step::Drop),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn parts_never_overlap_and_all_of_them_come_back(steps in prop::collection::vec(step(), 1..120)) {
            let (mut book, mut live) = (Book::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Take(bytes) => {
                        let place = get(&mut book, bytes);
                        prop_assert!(place.bytes >= bytes.max(1) && place.offset.is_multiple_of(ALIGNMENT));
                        live.push(place);
                    }
                    Step::GiveBack(_) if live.is_empty() => {}
                    Step::GiveBack(which) => book.give_back(live.swap_remove(which % live.len())),
                    Step::Drop => {
                        book.drop_unused();
                        prop_assert!(book.segments.keys().all(|id| live.iter().any(|p| p.segment == *id)));
                    }
                }
                book.check(&live);
            }
            live.drain(..).for_each(|place| book.give_back(place));
            book.check(&[]);
            book.drop_unused();
            prop_assert!(book.segments.is_empty() && book.free.is_empty());
            prop_assert_eq!((book.counts().used_bytes, book.counts().reserved_bytes), (0, 0));
        }
    }
}
