//! The page as HTML. Bars and shares are boxes in tables, so that they fit a phone and can be
//! copied; dots are a drawing.

use std::fmt::Write as _;

use super::{Bars, Heat, Page, Part, Scatter, Table, short, words};

/// Of the drawing, in its own units.
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 48.0;
/// Lines of a scale.
const STEPS: u32 = 4;
/// How much wider than its greatest value a scale is.
const ROOM: f64 = 1.15;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--line:#d1d9e0;--paper:#fff;--bar:#4f6bd8;--best:#0a7d4f}
@media(prefers-color-scheme:dark){:root{--ink:#e6eaef;--soft:#9aa4af;--line:#3a424c;--paper:#14171b;--bar:#8ea3f5;--best:#4cc38a}}
body{margin:0 auto;max-width:60rem;padding:1.5rem 1rem 4rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
h3{font-size:1rem;margin:1.5rem 0 .5rem}p,li{color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;width:100%}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);font-variant-numeric:tabular-nums}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
td.bar{width:50%;min-width:8rem}.track{position:relative;height:1rem}
.fill{position:absolute;inset:.15rem auto .15rem 0;background:var(--bar);border-radius:2px;opacity:.75}
.reach{position:absolute;top:.42rem;height:.16rem;background:var(--ink)}
td.heat{text-align:center;background:color-mix(in srgb,var(--bar) calc(var(--share)*70%),transparent)}
svg{width:100%;height:auto;max-width:44rem}svg text{fill:var(--soft);font-size:12px}
.grid{stroke:var(--line)}.reach-line{stroke:var(--soft)}.dot{fill:var(--bar)}
.best{fill:var(--best)}.front{fill:none;stroke:var(--best);stroke-dasharray:5 4}
";

pub(super) fn page(page: &Page) -> String {
    let title = escaped(&page.title);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    );
    for section in &page.sections {
        // Writing to a string cannot fail.
        let _ = writeln!(html, "<section>\n<h2>{}</h2>", escaped(&section.title));
        if !section.note.is_empty() {
            let _ = writeln!(html, "<p>{}</p>", escaped(&section.note));
        }
        for part in &section.parts {
            html.push_str(&match part {
                Part::Table(of) => table(of),
                Part::Bars(of) => bars(of),
                Part::Scatter(of) => scatter(of),
                Part::Heat(of) => heat(of),
                Part::Remarks(of) => remarks(of),
            });
        }
        html.push_str("</section>\n");
    }
    html.push_str("</body>\n</html>\n");
    html
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn head(cells: &[String]) -> String {
    let cells = cells
        .iter()
        .map(|cell| format!("<th>{}</th>", escaped(cell)));
    format!("<thead><tr>{}</tr></thead>", cells.collect::<String>())
}

fn titled(title: &str, table: &str) -> String {
    let title = match title.is_empty() {
        true => String::new(),
        false => format!("<h3>{}</h3>\n", escaped(title)),
    };
    format!("{title}<div class=\"wide\"><table>{table}</table></div>\n")
}

fn table(of: &Table) -> String {
    let row = |row: &Vec<String>| {
        let cells = row.iter().map(|cell| format!("<td>{}</td>", escaped(cell)));
        format!("<tr>{}</tr>", cells.collect::<String>())
    };
    let rows: String = of.rows.iter().map(row).collect();
    titled("", &format!("{}<tbody>{rows}</tbody>", head(&of.head)))
}

fn bars(of: &Bars) -> String {
    let longest = of.bars.iter().fold(0.0_f64, |most, bar| {
        most.max(bar.interval.map_or(bar.value, |interval| interval.1))
    });
    let most = of.most.unwrap_or(longest).max(f64::MIN_POSITIVE);
    let percent = |value: f64| (100.0 * value / most).clamp(0.0, 100.0);
    let mut rows = String::new();
    for bar in &of.bars {
        let reach = bar.interval.map_or_else(String::new, |(low, high)| {
            let (low, high) = (percent(low), percent(high));
            let width = high - low;
            format!("<span class=\"reach\" style=\"left:{low:.2}%;width:{width:.2}%\"></span>")
        });
        let _ = write!(
            rows,
            "<tr><td>{}</td><td class=\"bar\"><div class=\"track\"><span class=\"fill\" \
             style=\"width:{:.2}%\"></span>{reach}</div></td><td>{}</td><td>{}</td></tr>",
            escaped(&bar.label),
            percent(bar.value),
            short(bar.value),
            bar.interval.map(words).unwrap_or_default(),
        );
    }
    let names = ["", "", &of.unit, "95 %"].map(str::to_owned);
    titled(&of.title, &format!("{}<tbody>{rows}</tbody>", head(&names)))
}

fn heat(of: &Heat) -> String {
    let mut rows = String::new();
    for (label, cells) in &of.rows {
        let cells = cells.iter().map(|cell| match cell {
            Some(cell) => format!(
                "<td class=\"heat\" style=\"--share:{:.2}\">{}</td>",
                cell.share.clamp(0.0, 1.0),
                escaped(&cell.text)
            ),
            None => "<td class=\"heat\" style=\"--share:0\">-</td>".to_owned(),
        });
        let cells: String = cells.collect();
        let _ = write!(rows, "<tr><td>{}</td>{cells}</tr>", escaped(label));
    }
    let mut names = vec![String::new()];
    names.extend(of.columns.iter().cloned());
    titled(&of.title, &format!("{}<tbody>{rows}</tbody>", head(&names)))
}

fn remarks(of: &[String]) -> String {
    let lines = of
        .iter()
        .map(|remark| format!("<li>{}</li>", escaped(remark)));
    format!("<ul>{}</ul>\n", lines.collect::<String>())
}

/// From a value to its place in the drawing.
struct Scale {
    x_most: f64,
    y_most: f64,
}

impl Scale {
    fn of(scatter: &Scatter) -> Self {
        let most = |values: &mut dyn Iterator<Item = f64>| {
            values.fold(0.0_f64, f64::max).max(f64::MIN_POSITIVE)
        };
        Self {
            x_most: ROOM * most(&mut scatter.dots.iter().map(|dot| dot.x)),
            y_most: most(&mut scatter.dots.iter().map(|dot| dot.y_interval.1.max(dot.y))),
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * value / self.x_most
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / self.y_most
    }
}

fn scatter(of: &Scatter) -> String {
    let scale = Scale::of(of);
    let mut drawing = grid(of, &scale);
    let front = of.front();
    let points = front.iter().map(|at| {
        let dot = &of.dots[*at];
        format!("{:.1},{:.1}", scale.x(dot.x), scale.y(dot.y))
    });
    let points: Vec<String> = points.collect();
    let _ = write!(
        drawing,
        "<polyline class=\"front\" points=\"{}\"/>",
        points.join(" ")
    );
    for (at, dot) in of.dots.iter().enumerate() {
        let (x, y) = (scale.x(dot.x), scale.y(dot.y));
        let (low, high) = (scale.y(dot.y_interval.0), scale.y(dot.y_interval.1));
        let class = if front.contains(&at) { "best" } else { "dot" };
        // Names of dots on the right half stand at their left.
        let (anchor, beside) = match x > WIDTH / 2.0 {
            true => ("end", x - 9.0),
            false => ("start", x + 9.0),
        };
        let _ = write!(
            drawing,
            "<line class=\"reach-line\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{low:.1}\" y2=\"{high:.1}\"/>\
             <circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>\
             <text x=\"{beside:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>",
            y - 7.0,
            escaped(&dot.label)
        );
    }
    format!(
        "<h3>{title}</h3>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{title}\">{drawing}</svg>\n<p>On the dashed line: nothing is better in both. Upright \
         lines are intervals of 95 %.</p>\n{}",
        table(&of.table()),
        title = escaped(&of.title),
    )
}

fn grid(of: &Scatter, scale: &Scale) -> String {
    let (left, right) = (LEFT, WIDTH - RIGHT);
    let (top, bottom) = (TOP, HEIGHT - BOTTOM);
    let mut grid = String::new();
    for step in 0..=STEPS {
        let share = f64::from(step) / f64::from(STEPS);
        let (x_value, y_value) = (share * scale.x_most, share * scale.y_most);
        let (x, y) = (scale.x(x_value), scale.y(y_value));
        let _ = write!(
            grid,
            "<line class=\"grid\" x1=\"{left}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            left - 6.0,
            y + 4.0,
            short(y_value),
            bottom + 16.0,
            short(x_value),
        );
    }
    let _ = write!(
        grid,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(12 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (left + right) / 2.0,
        HEIGHT - 8.0,
        escaped(&of.x),
        (top + bottom) / 2.0,
        escaped(&of.y),
    );
    grid
}
