//! From a graph to steps, and running them.
//!
//! A graph is read once, by the calling thread: each operation becomes a step, some become
//! one step together, views become none. Then all threads go through the steps in order, and
//! take pieces of each until none is left. They wait, for pieces that somebody has begun, only
//! before a step that touches memory which a step since the last such wait (a barrier) has
//! written, or writes what such a step reads. A thread that comes late to a step finds it
//! closed, and has nothing to do with its memory any more.

use crate::abi::{self, AbortCallback, Graph, Tensor, op};
use crate::buffer::Packed;
use crate::ops::attention::AttentionStep;
use crate::ops::dense::Dense;
use crate::ops::experts::{Chosen, Experts};
use crate::ops::matmul::{Activations, MatMul, Place};
use crate::ops::rope::{RopeTables, Tables};
use crate::ops::{Context, Step, rows};
use crate::pool::{Bell, Part, Pools};
use crate::support;
use crate::tensor::weight_type;
use kernels::Isa;
use kernels::attention::Scratch;
use kernels::matmul::Routing;
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// What one back end owns: threads and memory that live from graph to graph.
#[derive(Debug)]
pub(crate) struct Engine {
    isa: Isa,
    threads: usize,
    pools: Pools,
    abort: AbortCallback,
    abort_context: AbortContext,
    /// Activations rounded for [`MatMul`], and partial results of attention.
    shared: SharedMemory,
    locals: Vec<Mutex<Local>>,
    tables: Tables,
}

#[derive(Debug)]
struct AbortContext(*mut c_void);

// SAFETY: ggml's callbacks may be called from any thread that computes.
unsafe impl Sync for AbortContext {}

/// Memory of one thread.
#[derive(Debug, Default)]
pub(crate) struct Local {
    pub(crate) attention: Scratch,
    pub(crate) tile: Vec<u8>,
    pub(crate) panel: Vec<u8>,
    pub(crate) floats: Vec<f32>,
    pub(crate) keys: Vec<u64>,
    pub(crate) routing: Routing,
    /// Which activations of this graph are in `tile`, by their number.
    pub(crate) rounded: Option<usize>,
}

/// How far a step has come. Whoever takes part takes a share; what a share is, the step says.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Progress {
    /// A bit for each share that is taken.
    taken: [AtomicU64; SHARES_MAX / 64],
    /// Shares that are done.
    done: AtomicUsize,
    /// The next piece that nobody has taken, of steps that are cut finer.
    next: AtomicUsize,
}

/// Shares of a step at most; further threads find none.
const SHARES_MAX: usize = 256;

impl Progress {
    /// A share that nobody has taken: that of the thread itself, which its caches hold, before
    /// those of others.
    fn take(&self, shares: usize, thread: usize) -> Option<usize> {
        let own = std::iter::once(thread).filter(|own| *own < shares);
        own.chain(0..shares).find(|share| {
            let (taken, bit) = (&self.taken[share / 64], 1 << (share % 64));
            // Looking first spares the others a line of their caches.
            taken.load(Ordering::Relaxed) & bit == 0
                && taken.fetch_or(bit, Ordering::Acquire) & bit == 0
        })
    }

    /// So many more shares are done; says whether those were the last.
    fn finish(&self, done: usize, shares: usize) -> bool {
        self.done.fetch_add(done, Ordering::SeqCst) + done == shares
    }

    /// Whether all shares are done. What was written for them is then seen.
    fn is_over(&self, shares: usize) -> bool {
        self.done.load(Ordering::SeqCst) == shares
    }
}

/// Bytes that start at a cache line.
#[derive(Debug, Default)]
struct SharedMemory(Vec<[u64; 8]>);

impl SharedMemory {
    /// Makes room for `bytes` and returns where they start.
    fn reserve(&mut self, bytes: usize) -> *mut u8 {
        let lines = bytes.div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, [0; 8]);
        }
        self.0.as_mut_ptr().cast()
    }
}

impl Engine {
    pub(crate) fn new(isa: Isa) -> Self {
        Self {
            isa,
            threads: 1,
            pools: Pools::default(),
            abort: None,
            abort_context: AbortContext(std::ptr::null_mut()),
            shared: SharedMemory::default(),
            locals: Vec::new(),
            tables: Tables::default(),
        }
    }

    pub(crate) fn set_threads(&mut self, threads: usize) {
        self.threads = threads.max(1);
    }

    pub(crate) fn set_abort_callback(&mut self, callback: AbortCallback, context: *mut c_void) {
        self.abort = callback;
        self.abort_context = AbortContext(context);
    }

    /// Computes the graph; returns one of ggml's status codes.
    ///
    /// # Safety
    /// The graph's tensors must be allocated, and taken by `support`.
    pub(crate) unsafe fn compute(&mut self, graph: *mut Graph) -> c_int {
        // SAFETY: the caller's promise.
        let nodes = unsafe { nodes(graph) };
        let pool = self.pools.get(self.threads);
        self.locals.resize_with(pool.threads(), Mutex::default);
        let mut planner = Planner::new(&nodes, pool.threads(), &mut self.tables);
        for index in 0..nodes.len() {
            planner.add(index);
        }
        let plan = planner.finish();
        if plan.failed {
            return abi::STATUS_FAILED;
        }
        let memory = Memory(self.shared.reserve(plan.shared_bytes));
        let progress: Vec<Progress> = plan.steps.iter().map(|_| Progress::default()).collect();
        let stop = Stop::new(self.abort, &self.abort_context);
        let run = Run {
            plan: &plan,
            progress: &progress,
            over: Bell::default(),
            memory: &memory,
            stop: &stop,
            isa: self.isa,
            locals: &self.locals,
            tables: &self.tables,
        };
        pool.run(&|part| run.on(part));
        if stop.is_before(plan.steps.len()) {
            abi::STATUS_ABORTED
        } else {
            abi::STATUS_SUCCESS
        }
    }
}

/// A graph while it is computed.
struct Run<'a> {
    plan: &'a Plan<'a>,
    progress: &'a [Progress],
    /// Rings whenever a step is over.
    over: Bell,
    memory: &'a Memory,
    stop: &'a Stop<'a>,
    isa: Isa,
    locals: &'a [Mutex<Local>],
    tables: &'a Tables,
}

impl Run<'_> {
    /// Goes through all steps on one thread.
    fn on(&self, part: Part) {
        let mut local = self.locals[part.thread]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        local.rounded = None;
        let mut since = 0;
        for (index, planned) in self.plan.steps.iter().enumerate() {
            if planned.barrier {
                if part.thread == 0 {
                    self.stop.ask(index);
                }
                if self.stop.is_before(index) {
                    return;
                }
                self.wait_for(since..index);
                since = index;
            }
            self.step(index, part.thread, &mut local);
        }
        // The caller goes on with what was computed.
        if part.thread == 0 {
            self.wait_for(since..self.plan.steps.len());
        }
    }

    fn wait_for(&self, steps: Range<usize>) {
        let progress = &self.progress[steps.clone()];
        let steps = &self.plan.steps[steps];
        self.over.wait_until(|| {
            let mut each = progress.iter().zip(steps);
            each.all(|(progress, planned)| progress.is_over(planned.shares))
        });
    }

    /// Takes shares of a step until none is left.
    fn step(&self, index: usize, thread: usize, local: &mut Local) {
        let (planned, progress) = (&self.plan.steps[index], &self.progress[index]);
        let threads = planned.shares;
        let mut done = 0;
        while let Some(thread) = progress.take(threads, thread) {
            let context = Context {
                isa: self.isa,
                part: Part { thread, threads },
                shared: self.memory.0,
                next: &progress.next,
                tables: self.tables,
                local: &mut *local,
            };
            // One that hands out pieces has none left once it was run.
            if done == 0 || !planned.step.hands_out_pieces() {
                // SAFETY: the graph's tensors are allocated and of the shapes that `support`
                // takes; the barriers keep threads from what others write.
                unsafe { planned.step.run(context) };
            }
            done += 1;
        }
        if done > 0 && progress.finish(done, threads) {
            self.over.ring();
        }
    }
}

struct Memory(*mut u8);

// SAFETY: steps write to parts of it that no other thread touches before a barrier.
unsafe impl Sync for Memory {}

/// Whether and where to stop. Thread 0 asks at each barrier; the others stop at the first one
/// from there on that they come to. They may have computed all of the graph by then: what is
/// aborted is not to be used.
struct Stop<'a> {
    callback: AbortCallback,
    context: &'a AbortContext,
    /// The step before which all stop.
    step: AtomicUsize,
}

impl<'a> Stop<'a> {
    fn new(callback: AbortCallback, context: &'a AbortContext) -> Self {
        let step = AtomicUsize::new(usize::MAX);
        Self {
            callback,
            context,
            step,
        }
    }

    fn ask(&self, step: usize) {
        let Some(callback) = self.callback else {
            return;
        };
        // SAFETY: ggml gives a function together with its argument.
        if unsafe { callback(self.context.0) } {
            self.step.store(step, Ordering::Relaxed);
        }
    }

    fn is_before(&self, step: usize) -> bool {
        self.step.load(Ordering::Relaxed) <= step
    }
}

/// # Safety
/// The graph must be alive.
unsafe fn nodes<'g>(graph: *mut Graph) -> Vec<&'g Tensor> {
    // SAFETY: the caller's promise; the host's own functions.
    unsafe {
        let count = abi::ggml_graph_n_nodes(graph);
        (0..count)
            .filter_map(|index| abi::ggml_graph_node(graph, index).as_ref())
            .collect()
    }
}

/// A step, and whether all before it must be over first.
#[derive(Debug)]
struct Planned<'g> {
    barrier: bool,
    /// Into how many shares it is cut, one at least.
    shares: usize,
    step: Step<'g>,
}

#[derive(Debug)]
struct Plan<'g> {
    steps: Vec<Planned<'g>>,
    shared_bytes: usize,
    failed: bool,
}

/// Memory that a step touches.
pub(crate) type Touched = Range<usize>;

// SAFETY: threads only read the plan; what it points to they share as the barriers say.
unsafe impl Sync for Plan<'_> {}

/// Turns operations into steps.
struct Planner<'g, 't> {
    nodes: &'g [&'g Tensor],
    threads: usize,
    tables: &'t mut Tables,
    uses: HashMap<*const Tensor, u32>,
    /// Nodes that an earlier step has done already.
    done: Vec<bool>,
    steps: Vec<Planned<'g>>,
    /// What steps since the last barrier read and write.
    reads: Vec<Touched>,
    writes: Vec<Touched>,
    /// Which activations were rounded last.
    rounded: Option<Rounded>,
    /// How often threads round activations each for itself.
    local_rounds: usize,
    shared_bytes: usize,
    failed: bool,
}

/// Activations that are rounded, in the shared memory or in each thread's own.
#[derive(Debug, PartialEq, Eq)]
struct Rounded {
    source: *const Tensor,
    /// Who chose experts for the columns; null where there is nothing to choose.
    ids: *const Tensor,
    /// Of the source and the choice.
    memory: [Touched; 2],
    /// Tiles begin anew with each.
    batches: usize,
    local: bool,
}

/// The shared memory stands for itself in what a step touches.
const SHARED: Touched = 0..1;

pub(crate) fn touched(tensor: &Tensor) -> Touched {
    let start = tensor.data as usize;
    // SAFETY: a tensor of the graph.
    start..start + unsafe { abi::ggml_nbytes(tensor) }
}

impl<'g, 't> Planner<'g, 't> {
    fn new(nodes: &'g [&'g Tensor], threads: usize, tables: &'t mut Tables) -> Self {
        tables.start_graph();
        let mut uses = HashMap::with_capacity(nodes.len());
        for node in nodes {
            for source in node.src.iter().filter(|source| !source.is_null()) {
                *uses.entry(source.cast_const()).or_insert(0) += 1;
            }
        }
        Self {
            nodes,
            threads,
            tables,
            uses,
            done: vec![false; nodes.len()],
            steps: Vec::with_capacity(nodes.len()),
            reads: Vec::new(),
            writes: Vec::new(),
            rounded: None,
            local_rounds: 0,
            shared_bytes: 0,
            failed: false,
        }
    }

    fn finish(self) -> Plan<'g> {
        Plan {
            steps: self.steps,
            shared_bytes: self.shared_bytes,
            failed: self.failed,
        }
    }

    fn add(&mut self, index: usize) {
        let node = self.nodes[index];
        if self.done[index] || node.is_view() || !is_computed(node) {
            return;
        }
        debug_assert!(
            support::supports(node),
            "operation {} was declined",
            node.op
        );
        match node.op {
            op::MUL_MAT if support::hadamard(node) => {
                self.push_rows(Step::Hadamard(node), node);
            }
            op::MUL_MAT if is_dense(node) => match Dense::of(node) {
                Some(dense) => self.push_rows(Step::Dense(dense), node),
                None => self.failed = true,
            },
            op::MUL_MAT => self.add_matmul(node),
            op::MUL_MAT_ID => self.add_experts(node),
            op::RMS_NORM => self.add_rms_norm(index),
            op::ROPE => self.add_rope(node),
            op::FLASH_ATTN_EXT => self.add_attention(node),
            _ => match rows::step(node) {
                Some(step) => self.push_rows(step, node),
                None => self.failed = true,
            },
        }
    }

    /// A step that reads its node's sources and writes the node.
    fn push_rows(&mut self, step: Step<'g>, node: &'g Tensor) {
        let reads = sources(node).map(touched).collect();
        self.push(step, reads, vec![touched(node)]);
    }

    fn push(&mut self, step: Step<'g>, reads: Vec<Touched>, writes: Vec<Touched>) {
        let overlap = |a: &Touched, b: &Touched| a.start < b.end && b.start < a.end;
        let meet = |some: &[Touched], others: &[Touched]| {
            some.iter().any(|a| others.iter().any(|b| overlap(a, b)))
        };
        let is_stale = |rounded: &Rounded| meet(&writes, &rounded.memory);
        if self.rounded.as_ref().is_some_and(is_stale) {
            self.rounded = None;
        }
        let barrier =
            meet(&reads, &self.writes) || meet(&writes, &self.writes) || meet(&writes, &self.reads);
        if barrier {
            self.reads.clear();
            self.writes.clear();
        }
        self.reads.extend(reads);
        self.writes.extend(writes);
        let shares = self.threads.min(SHARES_MAX).min(step.shares_max()).max(1);
        self.steps.push(Planned {
            barrier,
            shares,
            step,
        });
    }

    /// A product; before it, unless they are there, its activations are rounded.
    fn add_matmul(&mut self, node: &'g Tensor) {
        let Some(activations) = Activations::of(node) else {
            self.failed = true;
            return;
        };
        let source = activations.source();
        let local = activations.columns() <= Activations::LOCAL_COLUMNS_MAX;
        let wanted = Some(Rounded {
            source: std::ptr::from_ref(source),
            ids: std::ptr::null(),
            memory: [touched(source), 0..0],
            batches: activations.batches(),
            local,
        });
        let there = self.rounded == wanted;
        self.rounded = wanted;
        // Each thread rounds a few columns for itself, which spares a barrier.
        self.local_rounds += usize::from(local && !there);
        let place = match local {
            true => Place::Local {
                number: self.local_rounds,
            },
            false => Place::Shared,
        };
        let Some(matmul) = MatMul::new(node, activations, place) else {
            self.failed = true;
            return;
        };
        let mut reads: Vec<Touched> = sources(node).map(touched).collect();
        if !local {
            self.shared_bytes = self.shared_bytes.max(activations.bytes());
            if !there {
                self.push(
                    Step::Round(activations),
                    vec![touched(source)],
                    vec![SHARED],
                );
            }
            reads = vec![reads[0].clone(), SHARED];
        }
        self.push(Step::MatMul(matmul), reads, vec![touched(node)]);
    }

    /// A product with experts; before it, unless they are there, its columns are rounded.
    fn add_experts(&mut self, node: &'g Tensor) {
        let experts =
            Chosen::of(node).and_then(|chosen| Some((chosen, Experts::new(node, chosen)?)));
        let Some((chosen, experts)) = experts else {
            self.failed = true;
            return;
        };
        let (source, ids) = (chosen.source(), chosen.ids());
        let wanted = Some(Rounded {
            source: std::ptr::from_ref(source),
            ids: std::ptr::from_ref(ids),
            memory: [touched(source), touched(ids)],
            batches: 1,
            local: false,
        });
        self.shared_bytes = self.shared_bytes.max(chosen.bytes());
        if self.rounded != wanted {
            self.rounded = wanted;
            let reads = vec![touched(source), touched(ids)];
            self.push(Step::RoundChosen(chosen), reads, vec![SHARED]);
        }
        let reads = sources(node).map(touched).chain([SHARED]).collect();
        self.push(Step::Experts(experts), reads, vec![touched(node)]);
    }

    /// A norm, and the product with its weights where nobody else wants the norm itself.
    /// That nobody in this graph does is not enough: it may be a part of a larger one. But
    /// when the product takes the norm's place in memory, nobody can.
    fn add_rms_norm(&mut self, index: usize) {
        let node = self.nodes[index];
        let next = self.nodes[index + 1..]
            .iter()
            .position(|next| is_computed(next));
        if let Some(next) = next.map(|next| index + 1 + next)
            && self.uses.get(&std::ptr::from_ref(node)) == Some(&1)
            && node.flags & abi::FLAG_OUTPUT == 0
            && self.nodes[next].data == node.data
            && self.nodes[next].nb == node.nb
            && let Some(weight) = rows::norm_weight(node, self.nodes[next])
        {
            self.done[next] = true;
            let out = self.nodes[next];
            let step = Step::RmsNorm {
                node,
                out,
                weight: Some(weight),
            };
            let mut reads: Vec<Touched> = sources(node).map(touched).collect();
            reads.push(touched(weight));
            self.push(step, reads, vec![touched(out)]);
            return;
        }
        self.push_rows(
            Step::RmsNorm {
                node,
                out: node,
                weight: None,
            },
            node,
        );
    }

    fn add_rope(&mut self, node: &'g Tensor) {
        let Some((tables, fresh)) = RopeTables::new(node, self.tables) else {
            self.failed = true;
            return;
        };
        let memory = tables.touched(self.tables);
        if fresh {
            let reads = sources(node).skip(1).map(touched).collect();
            self.push(Step::RopeTables(tables), reads, vec![memory.clone()]);
        }
        let mut reads: Vec<Touched> = sources(node).map(touched).collect();
        reads.push(memory);
        self.push(Step::Rope { node, tables }, reads, vec![touched(node)]);
    }

    fn add_attention(&mut self, node: &'g Tensor) {
        // Whoever allocated a list of tensors without their readers may have packed a cache.
        let is_packed = sources(node).any(|source| Packed::of(source).is_some());
        let step = AttentionStep::new(node, self.threads).filter(|_| !is_packed);
        let Some(step) = step else {
            self.failed = true;
            return;
        };
        let reads = sources(node).map(touched).collect();
        if step.partial_bytes() == 0 {
            self.push(Step::Attention(step), reads, vec![touched(node)]);
            return;
        }
        self.shared_bytes = self.shared_bytes.max(step.partial_bytes());
        self.rounded = None;
        self.push(Step::Attention(step), reads, vec![SHARED]);
        let merge = Step::MergeAttention(step);
        let reads = sources(node).map(touched).chain([SHARED]).collect();
        self.push(merge, reads, vec![touched(node), SHARED]);
    }
}

/// Whether the weights of a product are floats.
fn is_dense(product: &Tensor) -> bool {
    product
        .source(0)
        .is_some_and(|weights| weight_type(weights.kind).is_none())
}

/// Whether a node has something to compute in this run.
fn is_computed(node: &Tensor) -> bool {
    node.flags & abi::FLAG_COMPUTE != 0 && !node.is_empty()
}

fn sources(node: &Tensor) -> impl Iterator<Item = &Tensor> {
    // SAFETY: sources are null or tensors that live as long as the graph.
    node.src
        .iter()
        .filter_map(|source| unsafe { source.as_ref() })
}
