//! Problems in words that take several steps, with answers in whole numbers.

use fastrand::Rng;

use super::Draft;
use crate::quality::{Check, NumberCheck};

/// Of each kind.
const VARIANTS: u64 = 25;

/// A problem, its answer, and what is counted.
type Problem = (String, u32, &'static [&'static str]);

const DOLLARS: &[&str] = &["dollar", "dollars", "$", "usd"];
const METRES: &[&str] = &["m", "metre", "metres", "meter", "meters"];
const MINUTES: &[&str] = &["min", "minute", "minutes"];
const PEOPLE: [&str; 8] = [
    "Ana", "Ben", "Chen", "Dara", "Emil", "Fatima", "Goro", "Hana",
];

const KINDS: [fn(&mut Rng) -> Problem; 16] = [
    change, journey, share, ages, discount, machines, fence, savings, pages, seats, recipe, pupils,
    average, tank, heads, stock,
];

pub(super) fn all() -> Vec<Draft> {
    let mut drafts = Vec::new();
    for (kind, make) in KINDS.into_iter().enumerate() {
        for variant in 0..VARIANTS {
            let mut rng = Rng::with_seed(1000 * kind as u64 + variant);
            let (problem, answer, names) = make(&mut rng);
            let prompt = format!(
                "{problem}\nYou may reason first. End with one line: `Answer: ` and the number alone."
            );
            let check = Check::Number(NumberCheck::whole(answer, names));
            drafts.push(Draft::new(format!("math/{}", drafts.len()), prompt, check));
        }
    }
    drafts
}

fn person(rng: &mut Rng) -> &'static str {
    PEOPLE[rng.usize(..PEOPLE.len())]
}

fn change(rng: &mut Rng) -> Problem {
    let (who, a, p, b, q) = (
        person(rng),
        rng.u32(2..7),
        rng.u32(3..9),
        rng.u32(2..9),
        rng.u32(1..4),
    );
    let spent = a * p + b * q;
    let note = spent.next_multiple_of(50);
    let text = format!(
        "{who} buys {a} notebooks at {p} dollars each and {b} pens at {q} dollars each, and pays with \
         {note} dollars. How many dollars does {who} get back?"
    );
    (text, note - spent, DOLLARS)
}

fn journey(rng: &mut Rng) -> Problem {
    let (v, h) = (10 * rng.u32(5..14), rng.u32(2..6));
    let (w, k) = (10 * rng.u32(5..14), rng.u32(2..6));
    let text = format!(
        "A train runs at {v} kilometres an hour for {h} hours, stops for half an hour, and then runs at \
         {w} kilometres an hour for {k} hours. How many kilometres has it gone?"
    );
    (
        text,
        v * h + w * k,
        &["km", "kilometre", "kilometres", "kilometer", "kilometers"],
    )
}

fn share(rng: &mut Rng) -> Problem {
    let (each, children, boxes) = (rng.u32(3..12), rng.u32(3..9), rng.u32(2..7));
    let good = each * children;
    // As many as fill the boxes; what is too much has gone bad.
    let of_box = good.div_ceil(boxes) + rng.u32(1..4);
    let bad = of_box * boxes - good;
    let text = format!(
        "There are {boxes} boxes with {of_box} apples each. {bad} of the apples have gone bad. The others \
         are shared evenly by {children} children. How many apples does each child get?"
    );
    (text, each, &["apple", "apples"])
}

fn ages(rng: &mut Rng) -> Problem {
    let (young, more, years) = (rng.u32(4..30), rng.u32(2..15), rng.u32(2..12));
    let sum = 2 * young + more + 2 * years;
    let text = format!(
        "Ana is {more} years older than Ben. In {years} years they will be {sum} years old together. How \
         many years old is Ben now?"
    );
    (text, young, &["year", "years", "years old"])
}

fn discount(rng: &mut Rng) -> Problem {
    let (price, percent, n) = (20 * rng.u32(1..16), 5 * rng.u32(1..10), rng.u32(2..7));
    let text = format!(
        "A chair costs {price} dollars. In a sale it is {percent} percent cheaper. How many dollars do {n} \
         chairs cost in the sale?"
    );
    (text, n * (price * (100 - percent) / 100), DOLLARS)
}

fn machines(rng: &mut Rng) -> Problem {
    let (m, rate, t) = (rng.u32(2..8), rng.u32(2..9), rng.u32(3..10));
    let (n, u) = (rng.u32(2..12), rng.u32(4..20));
    let parts = m * rate * t;
    let text = format!(
        "{m} machines make {parts} parts in {t} minutes, all at the same pace. How many parts do {n} such \
         machines make in {u} minutes?"
    );
    (text, n * rate * u, &["part", "parts"])
}

fn fence(rng: &mut Rng) -> Problem {
    let (wide, more, gate, cost) = (
        rng.u32(5..30),
        rng.u32(2..20),
        rng.u32(1..5),
        rng.u32(3..15),
    );
    let text = format!(
        "A garden is a rectangle, {wide} metres wide and {more} metres longer than wide. It is fenced all \
         around but for a gate of {gate} metres. A metre of fence costs {cost} dollars. How many dollars \
         does the fence cost?"
    );
    (text, (2 * (2 * wide + more) - gate) * cost, DOLLARS)
}

fn savings(rng: &mut Rng) -> Problem {
    let (who, a, months) = (person(rng), rng.u32(10..40), rng.u32(2..7));
    let b = rng.u32(5..40);
    let text = format!(
        "{who} saves {a} dollars every week and spends {b} dollars of the savings at the end of every \
         fourth week. How many dollars are left after {} weeks?",
        4 * months
    );
    (text, (4 * a - b) * months, DOLLARS)
}

fn pages(rng: &mut Rng) -> Problem {
    let (who, first, more, days) = (person(rng), rng.u32(8..30), rng.u32(2..9), rng.u32(3..8));
    let read = days * first + more * days * (days - 1) / 2;
    let left = rng.u32(5..120);
    let text = format!(
        "{who} reads a book of {} pages: {first} pages on the first day, and on each day after that {more} \
         pages more than on the day before. How many pages are left after {days} days?",
        read + left
    );
    (text, left, &["page", "pages"])
}

fn seats(rng: &mut Rng) -> Problem {
    let (rows, first, more) = (rng.u32(5..20), rng.u32(8..25), rng.u32(1..4));
    let text = format!(
        "A theatre has {rows} rows. The first row has {first} seats, and each row after it has {more} more \
         than the one before it. How many seats are there?"
    );
    (
        text,
        rows * first + more * rows * (rows - 1) / 2,
        &["seat", "seats"],
    )
}

fn recipe(rng: &mut Rng) -> Problem {
    let (of_one, few, many, bag) = (5 * rng.u32(4..30), rng.u32(2..6), rng.u32(7..20), 250);
    let need = of_one * many;
    let text = format!(
        "A recipe for {few} people takes {} grams of flour. Flour comes in bags of {bag} grams. How many \
         bags must be bought for {many} people?",
        of_one * few
    );
    (text, need.div_ceil(bag), &["bag", "bags"])
}

fn pupils(rng: &mut Rng) -> Problem {
    let (k, m, part) = (rng.u32(2..6), rng.u32(2..6), rng.u32(2..8));
    // What is left after the first share is k - 1 of k, of which each m-th plays chess.
    let all = k * m * part;
    let others = all - all / k;
    let text = format!(
        "Of {all} pupils one in {k} plays football. Of the others one in {m} plays chess, and nobody plays \
         both. How many pupils play neither?"
    );
    (
        text,
        others - others / m,
        &["pupil", "pupils", "student", "students"],
    )
}

fn average(rng: &mut Rng) -> Problem {
    let (who, k, low) = (person(rng), rng.u32(3..8), rng.u32(60..80));
    let last = low + (k + 1) * rng.u32(1..3);
    let high = (k * low + last) / (k + 1);
    let text = format!(
        "The average of {who}'s first {k} scores is {low}. With one more score the average is {high}. What \
         was that score?"
    );
    (text, last, &["point", "points"])
}

fn tank(rng: &mut Rng) -> Problem {
    let (out, more, minutes) = (rng.u32(2..9), rng.u32(3..12), rng.u32(5..40));
    let there = rng.u32(10..60);
    let text = format!(
        "A tank holds {} litres and has {there} litres in it. {} litres flow in each minute, and {out} \
         litres flow out each minute. After how many minutes is it full?",
        there + more * minutes,
        out + more
    );
    (text, minutes, MINUTES)
}

fn heads(rng: &mut Rng) -> Problem {
    let (hens, rabbits) = (rng.u32(3..40), rng.u32(3..40));
    let text = format!(
        "Hens and rabbits have {} heads and {} legs together. How many rabbits are there?",
        hens + rabbits,
        2 * hens + 4 * rabbits
    );
    (text, rabbits, &["rabbit", "rabbits"])
}

fn stock(rng: &mut Rng) -> Problem {
    let (rolls, long, n, piece) = (
        rng.u32(3..10),
        rng.u32(20..60),
        rng.u32(4..15),
        rng.u32(2..7),
    );
    let used = n * piece;
    let text = format!(
        "A shop has {rolls} rolls of cloth of {long} metres each. It sells {n} pieces of {piece} metres each \
         and buys one more roll. How many metres of cloth does it have then?"
    );
    (text, (rolls + 1) * long - used, METRES)
}
