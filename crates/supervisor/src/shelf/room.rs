//! Making room: who is loaded, who goes for it, and who cannot be had.

use proto::FailureKind;
use stdx::Bytes;

use super::Turn;
use super::entry::{Entry, Phase, Waiter};
use super::space::Space;

/// Up to so many models every choice of them is looked at; with more the cheapest bytes go
/// first.
const EXACT_MAX: usize = 12;

/// Who goes first is who costs least: first by the number of those that are to be spared,
/// then by the loss, then by the bytes.
type Price = (u32, f64, Space);

/// Bytes that are to be had in this pass.
#[derive(Debug, Default)]
struct Pool {
    free: Space,
    /// Held by models that are on their way out, and claimed by nobody yet.
    leaving: Space,
}

/// Looks after everyone who waits, those who wait longest first.
pub(super) fn make(entries: &mut [Entry], turn: &mut Turn<'_>) {
    reopen(entries);
    trim(entries, turn);
    let held: Space = entries.iter().map(Entry::held).sum();
    let leaving = entries.iter().filter(|entry| entry.phase == Phase::Leaving);
    let mut pool = Pool {
        free: turn.limits.space().less(held),
        leaving: leaving.map(Entry::space).sum(),
    };
    let mut order: Vec<(u64, usize)> = entries
        .iter()
        .enumerate()
        .filter_map(|(index, entry)| Some((entry.waits_since()?, index)))
        .collect();
    order.sort_unstable();
    for (since, index) in order {
        serve(entries, (since, index), &mut pool, turn);
    }
}

/// A model stays closed only for as long as somebody waits for what it makes room for.
fn reopen(entries: &mut [Entry]) {
    let wanted: Vec<String> = entries
        .iter()
        .filter(|entry| entry.phase == Phase::Off && !entry.waiting.is_empty())
        .map(|entry| entry.name().to_owned())
        .collect();
    for entry in entries.iter_mut() {
        if let Some(other) = &entry.closed_for
            && (entry.pin || !wanted.contains(other))
        {
            entry.closed_for = None;
        }
    }
}

/// Where there is more in memory than there may be, as measurements or a shortage of memory
/// tell, idle models go.
fn trim(entries: &mut [Entry], turn: &mut Turn<'_>) {
    let stays = entries
        .iter()
        .filter(|entry| entry.phase != Phase::Leaving)
        .map(Entry::held);
    let over = stays.sum::<Space>().less(turn.limits.space());
    if over.is_none() {
        return;
    }
    let idle: Vec<usize> = (0..entries.len())
        .filter(|index| {
            let may_go = |entry: &Entry| !entry.pin && (turn.is_short || !entry.forced);
            let is_candidate = |entry: &Entry| entry.is_idle() && may_go(entry);
            entries.get(*index).is_some_and(is_candidate)
        })
        .collect();
    let all = space_of(entries, &idle);
    for index in choose(entries, &idle, over.at_most(all), |_| 0, turn.now) {
        if let Some(entry) = entries.get_mut(index) {
            if turn.is_short {
                entry.shed(turn);
            } else {
                entry.leave(turn);
            }
        }
    }
}

fn serve(
    entries: &mut [Entry],
    (since, index): (u64, usize),
    pool: &mut Pool,
    turn: &mut Turn<'_>,
) {
    let Some(entry) = entries.get_mut(index) else {
        return;
    };
    match entry.phase {
        Phase::Off => {}
        // A model that was closed is open again.
        Phase::Ready if entry.closed_for.is_none() => {
            return admit(entry, turn);
        }
        _ => return,
    }
    let is_forced = |waiter: &Waiter| matches!(waiter, Waiter::Load { force: true, .. });
    let force = entry.waiting.iter().any(|one| is_forced(&one.waiter));
    let room = Stays::of(entries, index).room(turn.limits.space());
    let Some(entry) = entries.get_mut(index) else {
        return;
    };
    entry.place_in(room);
    let wanted = entry.space();
    if wanted.fits_in(pool.free) || force {
        return start(entries, index, pool, turn);
    }
    if let Some(mut message) = refusal(entries, index, turn.limits.space()) {
        if turn.is_short {
            message.push_str(
                "; that is less than usual, because the machine's memory is short: end what \
                 takes it, or try again later",
            );
        }
        if let Some(entry) = entries.get_mut(index) {
            entry.refuse_all(&FailureKind::ModelUnavailable, &message, turn);
        }
        return;
    }
    let overdue = since.saturating_add(turn.limits.swap_wait_max_ms) <= turn.now;
    let promised = leave_promised(entries, index, turn);
    pool.leaving = pool.leaving.plus(promised);
    let coming = pool.free.plus(pool.leaving);
    if wanted.fits_in(coming) {
        pool.leaving = pool.leaving.less(wanted.less(pool.free));
        pool.free = pool.free.less(wanted);
        return;
    }
    let is_helper = helper_test(entries, index);
    let need = wanted.less(coming);
    let (idle, busy) = candidates(entries, index, overdue, turn.now);
    let chosen = if need.fits_in(space_of(entries, &idle)) {
        choose(entries, &idle, need, is_helper, turn.now)
    } else if overdue {
        // What closed models give comes when they are done; the rest must come from others.
        let need = need.less(closed_space(entries, index));
        let all = [idle, busy].concat();
        choose(entries, &all, need, is_helper, turn.now)
    } else {
        return;
    };
    for victim in chosen {
        take_out(entries, (victim, index), turn);
    }
    *pool = Pool::default();
}

/// Takes out the models that were closed for the one at `index` and are done; gives their
/// bytes.
fn leave_promised(entries: &mut [Entry], index: usize, turn: &mut Turn<'_>) -> Space {
    let name = entries.get(index).map(|entry| entry.name().to_owned());
    let done = entries
        .iter_mut()
        .filter(|entry| entry.is_idle() && entry.closed_for.is_some() && entry.closed_for == name);
    done.map(|entry| {
        entry.leave(turn);
        entry.space()
    })
    .sum()
}

/// Hands over what came while the model was closed.
fn admit(entry: &mut Entry, turn: &mut Turn<'_>) {
    let waiting = std::mem::take(&mut entry.waiting);
    for one in waiting {
        match one.waiter {
            Waiter::Job { id, job } => entry.submit((id, job), turn),
            Waiter::Load { request, .. } => {
                let spec = entry.spec.clone();
                turn.actions.push(super::Action::Load { request, spec });
            }
        }
    }
}

fn start(entries: &mut [Entry], index: usize, pool: &mut Pool, turn: &mut Turn<'_>) {
    let others = entries.iter().map(Entry::held).sum::<Space>();
    let room = turn.limits.space().less(others);
    if let Some(entry) = entries.get_mut(index) {
        let wanted = entry.space();
        entry.forced = !wanted.fits_in(pool.free);
        pool.free = pool.free.less(wanted);
        entry.start((room, others.is_none()), turn);
    }
}

/// An idle model goes at once; a busy one takes nothing new and goes when it is done.
fn take_out(entries: &mut [Entry], (victim, index): (usize, usize), turn: &mut Turn<'_>) {
    let wanted_by = entries.get(index).map(|entry| entry.name().to_owned());
    let Some(entry) = entries.get_mut(victim) else {
        return;
    };
    match entry.is_idle() {
        true => entry.leave(turn),
        false => entry.closed_for = wanted_by,
    }
}

/// The models that do not go for another, each with the reason.
struct Stays<'a>(Vec<(&'a Entry, &'static str)>);

impl<'a> Stays<'a> {
    /// Those that do not go for the model at `index`.
    fn of(entries: &'a [Entry], index: usize) -> Self {
        let Some(entry) = entries.get(index) else {
            return Self(Vec::new());
        };
        let stays = entries
            .iter()
            .filter(|other| !other.held().is_none() && other.phase != Phase::Leaving)
            .filter_map(|other| {
                let reason = match () {
                    () if other.pin => "pinned",
                    () if is_helped(entry, other) => "which it helps",
                    () => return None,
                };
                Some((other, reason))
            });
        Self(stays.collect())
    }

    fn held(&self) -> Space {
        self.0.iter().map(|(other, _)| other.held()).sum()
    }

    /// What they leave of what there is.
    fn room(&self, all: Space) -> Space {
        all.less(self.held())
    }

    /// Who keeps how much, with what is before it in the sentence; nothing where nobody does.
    fn in_words(&self, bytes: impl Fn(Space) -> u64) -> String {
        let those = self.0.iter().map(|(other, reason)| {
            let held = Bytes(bytes(other.held()));
            format!("`{}` ({reason}, {held})", other.name())
        });
        let those: Vec<String> = those.collect();
        match those.is_empty() {
            true => String::new(),
            false => format!(
                ", of which {} are kept by {}",
                Bytes(bytes(self.held())),
                those.join(", ")
            ),
        }
    }
}

/// Why the model cannot be loaded however long it waits; `None` if it can.
fn refusal(entries: &[Entry], index: usize, all: Space) -> Option<String> {
    let entry = entries.get(index)?;
    let stays = Stays::of(entries, index);
    let room = stays.room(all);
    let wanted = entry.space();
    if wanted.fits_in(room) {
        return None;
    }
    if wanted.host <= room.host {
        return Some(refusal_of_device(entry, &stays, all));
    }
    let is_alone = stays.0.is_empty();
    let kept_by = stays.in_words(|space| space.host);
    let worked_out = entry.cost.context_max.filter(|_| is_alone);
    let fix = match worked_out.or_else(|| entry.cost.context_that_fits(room.host)) {
        Some(context) => format!("load it with a context of {context} tokens or less"),
        None if is_alone => "take a smaller quantisation".to_owned(),
        None => "unload one of them".to_owned(),
    };
    Some(format!(
        "model `{}` takes about {}, and models may take {}{kept_by}; {fix}, raise \
         `model_memory_max`, or load it all the same with `--force`",
        entry.name(),
        Bytes(wanted.host),
        Bytes(all.host),
    ))
}

/// Somebody has set more layers than there is room for on the GPU.
fn refusal_of_device(entry: &Entry, stays: &Stays<'_>, all: Space) -> String {
    let layers = entry.spec.gpu.as_ref().map_or(0, |gpu| gpu.layers);
    let kept_by = stays.in_words(|space| space.device);
    let room = stays.room(all).device;
    let fitting = entry.cost.placement_that_fits(room);
    let fix = match fitting.map_or(0, |placement| placement.gpu_layers) {
        0 => "leave it to the processor with `gpu_layers = 0`".to_owned(),
        n => format!("set `gpu_layers` to {n} or less, or leave it out"),
    };
    format!(
        "model `{}` takes about {} of the GPU's memory with {layers} layers there, and models \
         may take {}{kept_by}; {fix}, raise `gpu_memory_max`, or load it all the same with \
         `--force`",
        entry.name(),
        Bytes(entry.space().device),
        Bytes(all.device),
    )
}

fn is_helped(helper: &Entry, other: &Entry) -> bool {
    helper.helps.as_deref() == Some(other.name())
}

/// Tells 1 of those that help the model at `index`: it needs them, so they go last.
fn helper_test(entries: &[Entry], index: usize) -> impl Fn(&Entry) -> u32 + use<> {
    let name = entries.get(index).map(|entry| entry.name().to_owned());
    move |entry| u32::from(name.is_some() && entry.helps == name)
}

/// What those hold that are closed for the model at `index` and still busy.
fn closed_space(entries: &[Entry], index: usize) -> Space {
    let name = entries.get(index).map(Entry::name);
    let closed = entries
        .iter()
        .filter(|entry| !entry.is_idle())
        .filter(|entry| entry.closed_for.is_some() && entry.closed_for.as_deref() == name);
    closed.map(Entry::space).sum()
}

/// Who may go for the model at `index`: those that are idle, and those that are not.
fn candidates(
    entries: &[Entry],
    index: usize,
    overdue: bool,
    now: u64,
) -> (Vec<usize>, Vec<usize>) {
    let Some(wanted) = entries.get(index) else {
        return (Vec::new(), Vec::new());
    };
    let may_go = |(place, entry): &(usize, &Entry)| {
        *place != index && entry.phase == Phase::Ready && !entry.pin && !is_helped(wanted, entry)
    };
    let all = entries.iter().enumerate().filter(may_go);
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for (place, entry) in all {
        let is_closed = entry.closed_for.is_some();
        let lingers = entry.lingers_until().is_some_and(|until| until > now);
        if entry.is_idle() && (overdue || is_closed || !lingers) {
            idle.push(place);
        } else if !is_closed {
            busy.push(place);
        }
    }
    (idle, busy)
}

fn space_of(entries: &[Entry], places: &[usize]) -> Space {
    let entries = places.iter().filter_map(|place| entries.get(*place));
    entries.map(Entry::space).sum()
}

/// Those of `places` that together free `need` bytes at the lowest price; none where all of
/// them are too few.
fn choose(
    entries: &[Entry],
    places: &[usize],
    need: Space,
    spared: impl Fn(&Entry) -> u32,
    now: u64,
) -> Vec<usize> {
    if need.is_none() {
        return Vec::new();
    }
    let priced: Vec<(usize, Price)> = places
        .iter()
        .filter_map(|place| {
            let entry = entries.get(*place)?;
            let is_spared = spared(entry) + u32::from(entry.is_kept());
            let busy = f64::from(entry.n_running);
            let loss = entry.loss(now) * (1.0 + busy);
            Some((*place, (is_spared, loss, entry.space())))
        })
        .collect();
    match priced.len() <= EXACT_MAX {
        true => cheapest(&priced, need),
        false => cheap(priced, need),
    }
}

/// Looks at every subset.
fn cheapest(priced: &[(usize, Price)], need: Space) -> Vec<usize> {
    let members = |set: usize| {
        let all = priced.iter().enumerate();
        all.filter(move |(bit, _)| set >> bit & 1 == 1)
            .map(|(_, one)| one)
    };
    let price = |set: usize| {
        let nothing = (0, 0.0, Space::default());
        members(set).fold(nothing, |sum: Price, (_, price)| {
            (sum.0 + price.0, sum.1 + price.1, sum.2.plus(price.2))
        })
    };
    let sets = 1..1_usize << priced.len();
    let able = sets
        .map(|set| (set, price(set)))
        .filter(|(_, price)| need.fits_in(price.2));
    let best = able.min_by(|(_, a), (_, b)| compare(a, b));
    let Some((set, _)) = best else {
        return Vec::new();
    };
    members(set).map(|(place, _)| *place).collect()
}

fn compare(a: &Price, b: &Price) -> std::cmp::Ordering {
    let loss = || a.1.total_cmp(&b.1);
    let bytes = || a.2.bytes().cmp(&b.2.bytes());
    a.0.cmp(&b.0).then_with(loss).then_with(bytes)
}

/// Takes the cheapest bytes of what is needed first, then gives back what was not.
fn cheap(mut priced: Vec<(usize, Price)>, need: Space) -> Vec<usize> {
    let per_byte = |price: &Price| price.1 / price.2.at_most(need).bytes().max(1) as f64;
    priced.sort_by(|(_, a), (_, b)| {
        a.0.cmp(&b.0)
            .then_with(|| per_byte(a).total_cmp(&per_byte(b)))
    });
    let (mut taken, mut sum) = (Vec::new(), Space::default());
    for (place, price) in priced {
        if need.fits_in(sum) {
            break;
        }
        sum = sum.plus(price.2);
        taken.push((place, price));
    }
    if !need.fits_in(sum) {
        return Vec::new();
    }
    // The dearest first.
    let mut kept = Vec::new();
    for (place, price) in taken.into_iter().rev() {
        match need.fits_in(sum.less(price.2)) {
            true => sum = sum.less(price.2),
            false => kept.push(place),
        }
    }
    kept
}
