//! `ROPE`: the angles of every token once a graph, then each head's row.

use super::{Context, floats, floats_mut};
use crate::abi::Tensor;
use crate::graph::Touched;
use kernels::rope::{RopeMode, RopeParams, RopeTable};

/// `GGML_ROPE_TYPE_NORMAL` and `GGML_ROPE_TYPE_NEOX`.
const NORMAL: i32 = 0;
const NEOX: i32 = 2;

/// Angles of the tokens of a graph, one group for each kind of rotation. The memory lives
/// from graph to graph.
#[derive(Debug, Default)]
pub(crate) struct Tables(Vec<Group>);

#[derive(Debug)]
struct Group {
    parameters: [i32; 16],
    /// What this graph's angles were computed from; `None` when unused in this graph.
    sources: Option<[usize; 2]>,
    tables: Vec<RopeTable>,
}

impl Tables {
    pub(crate) fn start_graph(&mut self) {
        self.0.iter_mut().for_each(|group| group.sources = None);
    }
}

/// The angles that one or more steps of a graph use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeTables<'g> {
    group: usize,
    positions: &'g Tensor,
    factors: Option<&'g Tensor>,
}

impl<'g> RopeTables<'g> {
    /// The tables for a node, and whether this graph has not filled them yet.
    pub(crate) fn new(node: &'g Tensor, tables: &mut Tables) -> Option<(Self, bool)> {
        let positions = node.source(1)?;
        let factors = node.source(2);
        // Not where the numbers are: that memory may hold others later in the graph.
        let address = |tensor: &Tensor| std::ptr::from_ref(tensor) as usize;
        let sources = [address(positions), factors.map_or(0, address)];
        let tokens = node.shape()[2];
        let groups = &mut tables.0;
        let same = |group: &Group| group.parameters == node.op_params;
        let filled = groups
            .iter()
            .position(|group| same(group) && group.sources == Some(sources));
        if let Some(group) = filled {
            return Some((
                Self {
                    group,
                    positions,
                    factors,
                },
                false,
            ));
        }
        let free = groups
            .iter()
            .position(|group| same(group) && group.sources.is_none());
        let group = free.unwrap_or_else(|| {
            let parameters = node.op_params;
            groups.push(Group {
                parameters,
                sources: None,
                tables: Vec::new(),
            });
            groups.len() - 1
        });
        groups[group].sources = Some(sources);
        let parameters = parameters(node)?;
        let missing = tokens.saturating_sub(groups[group].tables.len());
        groups[group]
            .tables
            .extend((0..missing).map(|_| RopeTable::new(&parameters)));
        Some((
            Self {
                group,
                positions,
                factors,
            },
            true,
        ))
    }

    /// Stands for the memory of the tables.
    pub(crate) fn touched(&self, tables: &Tables) -> Touched {
        let start = tables.0[self.group].tables.as_ptr() as usize;
        start..start + size_of::<RopeTable>()
    }

    pub(crate) fn tokens(&self) -> usize {
        self.positions.shape()[0]
    }

    /// Computes the angles of this thread's share of the tokens.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn fill(&self, context: Context<'_>) {
        let tables = context.tables.0[self.group].tables.as_ptr().cast_mut();
        let factors = self.factors.map(|factors| {
            // SAFETY: `support` takes dense floats.
            unsafe { floats(factors.data.cast(), factors.shape()[0]) }
        });
        for token in context.part.share(self.tokens()) {
            // SAFETY: each thread has tokens of its own, and a barrier stands between this
            // and those who read; positions are dense 32-bit integers.
            unsafe {
                let position = self.positions.data.cast::<i32>().add(token).read();
                (*tables.add(token)).fill(position, factors);
            }
        }
    }

    /// Rotates this thread's share of the rows.
    ///
    /// # Safety
    /// As for [`super::Step::run`].
    pub(crate) unsafe fn apply(&self, context: Context<'_>, node: &Tensor) {
        let Some(source) = node.source(0) else { return };
        let [len, heads, tokens, _] = node.shape();
        let tables = &context.tables.0[self.group].tables;
        for row in context.part.share(node.rows()) {
            let table = &tables[row / heads % tokens];
            let (from, to) = (source.row(row), node.row(row));
            // SAFETY: `support` takes rows of dense floats, the same place or apart.
            unsafe {
                if from == to {
                    table.apply_in_place(context.isa, floats_mut(to, len));
                } else {
                    table.apply(context.isa, floats_mut(to, len), floats(from, len));
                }
            }
        }
    }
}

/// What a node asks for, if it is a kind of rotation that there is a kernel for.
pub(crate) fn parameters(node: &Tensor) -> Option<RopeParams> {
    let whole = |index: usize| usize::try_from(node.op_params[index]).ok();
    let mode = match node.op_params[2] {
        NORMAL => RopeMode::Norm,
        NEOX => RopeMode::Neox,
        _ => return None,
    };
    Some(RopeParams {
        mode,
        n_dims: whole(1)?,
        offset: whole(15)?,
        n_ctx_orig: whole(4)?,
        freq_base: node.float_param(5),
        freq_scale: node.float_param(6),
        ext_factor: node.float_param(7),
        attn_factor: node.float_param(8),
        beta_fast: node.float_param(9),
        beta_slow: node.float_param(10),
    })
}
