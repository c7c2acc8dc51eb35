//! `MUL_MAT_ID`: products with a matrix for each column, the experts of a mixture.
//!
//! A column is what one token gives one of the experts that it uses. Columns of one expert are
//! brought together, so that its weights are read once for twelve of them. Who is whose is
//! known only when the step runs; each thread sorts it out for itself, which takes no barrier.

use super::matmul::{chunk_panels, group_tiles};
use super::weights::Weights;
use super::{Context, floats};
use crate::abi::Tensor;
use kernels::Isa;
use kernels::matmul::{
    Operands, PANEL_ROWS, Products, Routing, TILE_COLUMNS, multiply, quantize_tile, tile_bytes,
};
use std::ops::Range;
use std::sync::atomic::Ordering;

/// The columns of a product with experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chosen<'g> {
    source: &'g Tensor,
    ids: &'g Tensor,
    k: usize,
    experts: usize,
    /// Experts that a token uses.
    used: usize,
    tokens: usize,
}

impl<'g> Chosen<'g> {
    pub(crate) fn of(node: &'g Tensor) -> Option<Self> {
        let [k, _, experts, _] = node.source(0)?.shape();
        let ids = node.source(2)?;
        let [used, tokens, ..] = ids.shape();
        Some(Self {
            source: node.source(1)?,
            ids,
            k,
            experts,
            used,
            tokens,
        })
    }

    pub(crate) fn source(&self) -> &'g Tensor {
        self.source
    }

    pub(crate) fn ids(&self) -> &'g Tensor {
        self.ids
    }

    pub(crate) fn bytes(&self) -> usize {
        tile_bytes(self.used * self.tokens, self.k)
    }

    /// # Safety
    /// The numbers of experts must be there. One beyond the experts is a mistake of the
    /// caller, as in ggml.
    unsafe fn route(&self, routing: &mut Routing) {
        let expert_of = |column: usize| {
            let (token, slot) = (column / self.used, column % self.used);
            let offset = slot * self.ids.nb[0] + token * self.ids.nb[1];
            // SAFETY: the caller's promise; `support` takes numbers of 32 bits.
            let number = unsafe { self.ids.data.cast::<u8>().add(offset).cast::<i32>().read() };
            let expert = usize::try_from(number).unwrap_or(usize::MAX);
            let experts = self.experts;
            assert!(expert < experts, "expert {number} of {experts}");
            expert
        };
        routing.fill(self.experts, self.used * self.tokens, expert_of);
    }

    /// Rounds this thread's share of the tiles into the shared memory.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn round(&self, context: Context<'_>) {
        let routing = &mut context.local.routing;
        // SAFETY: the caller's promise.
        unsafe { self.route(routing) };
        let [_, source_slots, ..] = self.source.shape();
        let tiles = routing.tiles();
        for tile in &tiles[context.part.share(tiles.len())] {
            let mut columns: [&[f32]; TILE_COLUMNS] = [&[]; TILE_COLUMNS];
            for (slice, column) in columns.iter_mut().zip(routing.columns(tile)) {
                let (token, slot) = (column / self.used, column % self.used);
                let place = self.source.at([slot % source_slots, token, 0]);
                // SAFETY: the caller's promise; `support` takes dense rows of floats.
                *slice = unsafe { floats(place, self.k) };
            }
            // SAFETY: the shared memory has room for all tiles; this one is ours.
            let bytes = unsafe {
                let place = context.shared.add(tile_bytes(tile.first, self.k));
                std::slice::from_raw_parts_mut(place, tile_bytes(tile.width, self.k))
            };
            quantize_tile(context.isa, &columns[..tile.width], bytes);
        }
    }
}

/// One product with experts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Experts<'g> {
    node: &'g Tensor,
    weights: Weights<'g>,
    chosen: Chosen<'g>,
}

impl<'g> Experts<'g> {
    pub(crate) fn new(node: &'g Tensor, chosen: Chosen<'g>) -> Option<Self> {
        Some(Self {
            node,
            weights: Weights::of(node.source(0)?)?,
            chosen,
        })
    }

    /// Takes pieces of the product, a few panels of an expert by a group of its columns, until
    /// none is left.
    ///
    /// # Safety
    /// As for [`super::Step::run`]; the shared memory holds the rounded columns.
    pub(crate) unsafe fn run(&self, context: Context<'_>) {
        let Context {
            isa,
            part,
            shared,
            next,
            local,
            ..
        } = context;
        // SAFETY: the caller's promise.
        unsafe { self.chosen.route(&mut local.routing) };
        let groups = local
            .routing
            .groups(group_tiles(tile_bytes(1, self.weights.k)));
        let panels = self.weights.panels();
        let chunk = chunk_panels(panels, part.threads);
        let chunks = panels.div_ceil(chunk);
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(tiles) = groups.get(index / chunks) else {
                return;
            };
            let first = index % chunks * chunk;
            let rounded = Rounded {
                routing: &local.routing,
                tiles: tiles.clone(),
                bytes: shared,
            };
            for panel in first..(first + chunk).min(panels) {
                // SAFETY: the caller's promise; each piece is taken once.
                unsafe { self.panel(isa, panel, &rounded, &mut local.panel) };
            }
        }
    }

    /// One panel of an expert by a group of its columns.
    ///
    /// # Safety
    /// As for [`Self::run`].
    unsafe fn panel(
        &self,
        isa: Isa,
        panel: usize,
        rounded: &Rounded<'_>,
        panel_memory: &mut Vec<u8>,
    ) {
        let Weights { kind, k, rows, .. } = self.weights;
        let height = self.weights.panel_rows(panel);
        let tiles = &rounded.routing.tiles()[rounded.tiles.clone()];
        // The tiles of a group are of one expert.
        let Some(expert) = tiles.first().map(|tile| tile.expert) else {
            return;
        };
        // SAFETY: the caller's promise.
        let bytes = unsafe { self.weights.panel([expert, 0], panel, panel_memory) };
        for tile in tiles {
            // SAFETY: the caller's promise.
            let rounded_tile = unsafe {
                let place = rounded.bytes.add(tile_bytes(tile.first, k)).cast_const();
                std::slice::from_raw_parts(place, tile_bytes(tile.width, k))
            };
            let operands = Operands {
                weight_type: kind,
                panel: bytes,
                tile: rounded_tile,
                columns: tile.width,
                k,
            };
            let mut out = [0.0; PANEL_ROWS * TILE_COLUMNS];
            let products = Products::new(&mut out, PANEL_ROWS, height, tile.width);
            multiply(isa, &operands, products);
            let columns = rounded.routing.columns(tile);
            for (column, products) in columns.iter().zip(out.chunks_exact(PANEL_ROWS)) {
                // SAFETY: the result is contiguous, and these rows of this column are of this
                // piece alone.
                unsafe {
                    let place = self.node.data.cast::<f32>();
                    let place = place.add(column * rows + panel * PANEL_ROWS);
                    place.copy_from_nonoverlapping(products.as_ptr(), height);
                }
            }
        }
    }
}

/// A group of rounded columns.
struct Rounded<'a> {
    routing: &'a Routing,
    tiles: Range<usize>,
    bytes: *mut u8,
}
