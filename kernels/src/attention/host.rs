//! Attention on the host: heads in waves, whose keys and values are packed before tiles of queries go through them.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{DType, Layout, Result, Storage, Tensor};
use rayon::prelude::*;

use super::factors::Kind;
use super::pack::{Geometry, Heads, PackTile};
use super::tile::{Attend, BiasRows, Out, Space, words};
use super::{Attention, Bias};
#[cfg(target_arch = "x86_64")]
use crate::level;
use crate::level::Level;
use crate::memory::PageBuffer;
use crate::{Compute, memory};

/// Packed keys and values that lie in memory at once, as long as one head takes less: 8 MiB.
const MAX_PACKED: usize = 8 << 20;

/// Tasks a thread should find in a wave, that none waits long for the others.
const TASKS: usize = 8;

/// The best kind of factors for `compute` on this machine.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "sums of f32 are all there is"))]
pub(super) fn kind_of(compute: Compute) -> Kind {
    #[cfg(target_arch = "x86_64")]
    match compute {
        Compute::Bf16 if level::bf16_products() => return Kind::Bf16,
        Compute::Int8 if level::int8_products() && level::bf16_products() => return Kind::Int8,
        _ => {}
    }
    Kind::F32(Level::detect())
}

/// How a call is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    kind: Kind,
    geometry: Geometry,
    space: Space,
    /// Heads whose keys and values are packed at once.
    wave: usize,
    /// Tiles of queries of a head.
    query_tiles: usize,
    threads: usize,
}

impl Plan {
    /// For B·H `heads`, with `widths` of queries and keys, and of values.
    pub fn new(kind: Kind, heads: usize, [queries, keys]: [usize; 2], widths: [usize; 2]) -> Self {
        let geometry = Geometry::new(kind, keys, widths);
        let space = Space::new(&geometry);
        let query_tiles = queries.div_ceil(space.queries).max(1);
        let threads = rayon::current_num_threads();
        let fitting = MAX_PACKED / (4 * geometry.head_words()).max(1);
        let most = fitting.max((TASKS * threads).div_ceil(query_tiles)).clamp(1, heads.max(1));
        let wave = heads.div_ceil(heads.div_ceil(most).max(1));
        let threads = threads.min(wave * query_tiles.max(geometry.tiles())).max(1);
        Self { kind, geometry, space, wave, query_tiles, threads }
    }

    /// Bytes that are allocated beside the result.
    pub fn workspace_bytes(&self) -> usize {
        4 * (self.packed_words() + self.means() + self.threads * self.space.floats())
    }

    fn packed_words(&self) -> usize {
        self.wave * self.geometry.head_words()
    }

    fn means(&self) -> usize {
        if self.geometry.centred { self.wave * self.geometry.widths[0] } else { 0 }
    }
}

/// A tensor's memory while it is read.
fn heads_of<'a>(storage: &'a Storage, layout: &Layout) -> Result<Heads<'a>> {
    let (_, _, _, width) = layout.shape().dims4()?;
    let strides =
        layout.stride().try_into().map_err(|_| candle_core::Error::Msg("attention: no four strides".into()))?;
    Ok(Heads { values: &floats(storage)?[layout.start_offset()..], strides, width })
}

fn floats(storage: &Storage) -> Result<&[f32]> {
    match storage {
        Storage::Cpu(cpu) => cpu.as_slice::<f32>(),
        _ => candle_core::bail!("attention: expected a tensor on the host"),
    }
}

/// Where the rows of a bias lie in its tensor, whose last dimension is contiguous.
struct BiasLayout {
    tensor: Tensor,
    /// Where the first query's row of the first head begins, and floats from head to head and from query to query.
    start: usize,
    head: usize,
    query: isize,
}

impl BiasLayout {
    fn new(bias: &Bias, [heads, queries, keys]: [usize; 3]) -> Result<Option<Self>> {
        if let Bias::Offsets(values) = bias {
            // A query's row is a window that begins one earlier than that of the query before.
            let tensor = values.contiguous()?;
            let (start, head) = (tensor.layout().start_offset() + queries - 1, queries + keys - 1);
            return Ok(Some(Self { tensor, start, head, query: -1 }));
        }
        let rows = match bias {
            Bias::None | Bias::Offsets(_) => return Ok(None),
            Bias::Scores(scores) => scores.broadcast_as((heads, queries, keys))?,
            Bias::Keys(bias) => bias.reshape((1, 1, keys))?.broadcast_as((heads, queries, keys))?,
        };
        let tensor = if rows.stride()[2] == 1 || keys == 1 { rows } else { rows.contiguous()? };
        let (start, stride) = (tensor.layout().start_offset(), tensor.stride());
        let (head, query) = (stride[0], stride[1] as isize);
        Ok(Some(Self { tensor, start, head, query }))
    }
}

/// Whether [`attend`] takes these.
pub(super) fn takes(tensors: [&Tensor; 3]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32)
}

/// As [`Attention::apply`], whose shapes were checked, with factors of a kind.
pub(super) fn attend(kind: Kind, q: &Tensor, k: &Tensor, v: &Tensor, how: &Attention) -> Result<Tensor> {
    let (batch, heads, queries, width) = q.dims4()?;
    let (keys, channels) = (k.dim(2)?, v.dim(3)?);
    let mut out = vec![0f32; batch * queries * heads * channels];
    if !out.is_empty() {
        let layout = BiasLayout::new(&how.bias, [heads, queries, keys])?;
        let bias = layout.as_ref().map(|l| (l, l.tensor.storage_and_layout().0));
        let rows = |head: usize| -> Result<Option<BiasRows>> {
            let Some((layout, storage)) = &bias else { return Ok(None) };
            let start = layout.start + head * layout.head;
            Ok(Some(BiasRows { values: floats(storage)?, start, pitch: layout.query }))
        };
        let bias = (0..heads).map(rows).collect::<Result<Option<Vec<_>>>>()?;
        let ((q, q_layout), (k, k_layout), (v, v_layout)) =
            (q.storage_and_layout(), k.storage_and_layout(), v.storage_and_layout());
        let call = Call {
            plan: Plan::new(kind, batch * heads, [queries, keys], [width, channels]),
            heads: [batch, heads],
            queries,
            q: heads_of(&q, q_layout)?,
            k: heads_of(&k, k_layout)?,
            v: heads_of(&v, v_layout)?,
            bias: bias.as_deref(),
            scale: (how.scale * std::f64::consts::LOG2_E) as f32,
            out: Out { start: out.as_mut_ptr(), pitch: heads * channels },
        };
        call.run().map_err(candle_core::Error::wrap)?;
    }
    Tensor::from_vec(out, (batch, queries, heads, channels), q.device())?.transpose(1, 2)
}

struct Call<'a> {
    plan: Plan,
    /// B and H.
    heads: [usize; 2],
    queries: usize,
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    /// Of each head.
    bias: Option<&'a [BiasRows<'a>]>,
    scale: f32,
    out: Out,
}

/// Packed memory that tasks write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut u32);

// SAFETY: every task takes other parts, see where it is used.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// # Safety
    /// The part is there, and nobody else uses it as long as this does.
    #[allow(clippy::mut_from_ref)]
    unsafe fn part<'a>(&self, start: usize, count: usize) -> &'a mut [u32] {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), count) }
    }
}

impl Call<'_> {
    fn run(&self) -> std::result::Result<(), memory::Refused> {
        let Plan { kind, ref geometry, ref space, wave, query_tiles, threads } = self.plan;
        let head_words = geometry.head_words();
        let mut packed = PageBuffer::zeroed(4 * self.plan.packed_words())?;
        let mut means = PageBuffer::zeroed(4 * self.plan.means())?;
        let mut spaces = PageBuffer::zeroed(4 * threads * space.floats())?;
        let packed = words(as_floats(&mut packed));
        let means = as_floats(&mut means);
        let mut spaces: Vec<&mut [f32]> = as_floats(&mut spaces).chunks_exact_mut(space.floats()).collect();

        let total = self.heads[0] * self.heads[1];
        let width = if geometry.centred { geometry.widths[0] } else { 0 };
        for first in (0..total).step_by(wave) {
            let count = wave.min(total - first);
            let at = |head: usize| [(first + head) / self.heads[1], (first + head) % self.heads[1]];
            if geometry.centred {
                means.par_chunks_exact_mut(width).take(count).enumerate().for_each(|(head, mean)| {
                    self.k.mean(at(head), geometry.keys, mean);
                });
            }
            let shared = Shared(packed.as_mut_ptr());
            share(&mut spaces, count * geometry.tiles(), |floats, task| {
                let (head, tile) = (task / geometry.tiles(), geometry.tile(task % geometry.tiles()));
                let parts = space.cut(floats);
                // SAFETY: the tile of this task alone, within its head's words.
                let packed =
                    unsafe { shared.part(head * head_words + tile.keys.start, tile.values.end - tile.keys.start) };
                kind.run(PackTile {
                    geometry,
                    tile,
                    at: at(head),
                    keys: self.k,
                    values: self.v,
                    mean: &means[head * width..(head + 1) * width],
                    packed,
                    floats: parts.floats,
                    words: words(parts.words),
                });
            });
            let packed = &packed[..count * head_words];
            share(&mut spaces, count * query_tiles, |floats, task| {
                let (head, tile) = (task / query_tiles, task % query_tiles);
                let [batch, h] = at(head);
                let channels = geometry.widths[1];
                let start = (batch * self.queries * self.heads[1] + h) * channels;
                kind.run(Attend {
                    geometry,
                    at: [batch, h],
                    queries: self.q,
                    rows: tile * space.queries..self.queries.min((tile + 1) * space.queries),
                    scale: self.scale,
                    bias: self.bias.map(|b| b[h]),
                    packed: &packed[head * head_words..][..head_words],
                    parts: space.cut(floats),
                    out: Out { start: self.out.start.wrapping_add(start), pitch: self.out.pitch },
                });
            });
        }
        Ok(())
    }
}

fn as_floats(buffer: &mut PageBuffer) -> &mut [f32] {
    // SAFETY: pages are aligned for floats, and all bits are allowed.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), buffer.len() / 4) }
}

/// Runs tasks in their order, each in whichever space is free.
fn share(spaces: &mut [&mut [f32]], tasks: usize, run: impl Fn(&mut [f32], usize) + Sync) {
    let next = AtomicUsize::new(0);
    spaces.par_iter_mut().with_max_len(1).for_each(|space| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                return;
            }
            run(space, task);
        }
    });
}
