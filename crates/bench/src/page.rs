//! Results as a page that stands by itself: HTML with nothing to load and no scripts, or Markdown
//! with the same figures.

mod html;

use std::fmt::Write as _;

/// A page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    pub title: String,
    pub sections: Vec<Section>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Section {
    pub title: String,
    /// What one has to know to read it.
    pub note: String,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    Table(Table),
    Bars(Bars),
    Scatter(Scatter),
    Heat(Heat),
    Remarks(Vec<String>),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Bars of one unit, each with the interval that it may truly be in.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    pub title: String,
    pub unit: String,
    /// The end of the scale; `None`: that of the longest bar.
    pub most: Option<f64>,
    pub bars: Vec<Bar>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub label: String,
    pub value: f64,
    pub interval: Option<(f64, f64)>,
}

/// Dots of which more to the right and higher is better.
#[derive(Debug, Clone, PartialEq)]
pub struct Scatter {
    pub title: String,
    pub x: String,
    pub y: String,
    pub dots: Vec<Dot>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Dot {
    pub label: String,
    pub x: f64,
    pub y: f64,
    pub y_interval: (f64, f64),
}

/// Shares by rows and columns.
#[derive(Debug, Clone, PartialEq)]
pub struct Heat {
    pub title: String,
    pub columns: Vec<String>,
    pub rows: Vec<(String, Vec<Option<Cell>>)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// From 0 to 1.
    pub share: f64,
    pub text: String,
}

/// Places of the points that no other one beats in both, from the left.
#[must_use]
pub fn pareto(points: &[(f64, f64)]) -> Vec<usize> {
    let is_beaten = |(x, y): (f64, f64)| {
        points
            .iter()
            .any(|(a, b)| *a >= x && *b >= y && (*a > x || *b > y))
    };
    let mut front: Vec<usize> = (0..points.len())
        .filter(|at| !is_beaten(points[*at]))
        .collect();
    front.sort_by(|a, b| points[*a].0.total_cmp(&points[*b].0));
    front
}

/// A number with as many digits as say something.
#[must_use]
pub fn short(number: f64) -> String {
    match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

impl Page {
    #[must_use]
    pub fn html(&self) -> String {
        html::page(self)
    }

    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("# {}\n", line(&self.title));
        for section in &self.sections {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n## {}\n", line(&section.title));
            if !section.note.is_empty() {
                let _ = write!(text, "\n{}\n", line(&section.note));
            }
            for part in &section.parts {
                text.push_str(&part.markdown());
            }
        }
        text
    }
}

impl Part {
    fn markdown(&self) -> String {
        match self {
            Self::Table(table) => markdown_table("", table),
            Self::Bars(bars) => markdown_table(&bars.title, &bars.table()),
            Self::Scatter(scatter) => markdown_table(&scatter.title, &scatter.table()),
            Self::Heat(heat) => markdown_table(&heat.title, &heat.table()),
            Self::Remarks(remarks) => {
                let lines = remarks.iter().map(|remark| format!("- {}\n", line(remark)));
                format!("\n{}", lines.collect::<String>())
            }
        }
    }
}

fn words(interval: (f64, f64)) -> String {
    format!("{} to {}", short(interval.0), short(interval.1))
}

impl Bars {
    fn table(&self) -> Table {
        let rows = self.bars.iter().map(|bar| {
            let interval = bar.interval.map(words).unwrap_or_default();
            vec![bar.label.clone(), short(bar.value), interval]
        });
        Table {
            head: vec![String::new(), self.unit.clone(), "95 %".into()],
            rows: rows.collect(),
        }
    }
}

impl Scatter {
    fn front(&self) -> Vec<usize> {
        let points: Vec<(f64, f64)> = self.dots.iter().map(|dot| (dot.x, dot.y)).collect();
        pareto(&points)
    }

    fn table(&self) -> Table {
        let front = self.front();
        let rows = self.dots.iter().enumerate().map(|(at, dot)| {
            let is_best = if front.contains(&at) { "yes" } else { "" };
            vec![
                dot.label.clone(),
                short(dot.x),
                short(dot.y),
                words(dot.y_interval),
                is_best.into(),
            ]
        });
        Table {
            head: vec![
                String::new(),
                self.x.clone(),
                self.y.clone(),
                "95 %".into(),
                "on the front".into(),
            ],
            rows: rows.collect(),
        }
    }
}

impl Heat {
    fn table(&self) -> Table {
        let text = |cell: &Option<Cell>| match cell {
            Some(cell) => cell.text.clone(),
            None => "-".to_owned(),
        };
        let row = |(label, cells): &(String, Vec<Option<Cell>>)| {
            let mut row = vec![label.clone()];
            row.extend(cells.iter().map(text));
            row
        };
        let mut head = vec![String::new()];
        head.extend(self.columns.iter().cloned());
        Table {
            head,
            rows: self.rows.iter().map(row).collect(),
        }
    }
}

/// Numbers stand at the right.
fn markdown_table(title: &str, table: &Table) -> String {
    let cells = |row: &[String]| {
        let cells = row.iter().map(|cell| line(cell).replace('|', "\\|"));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let rule = (0..table.head.len()).map(|at| if at == 0 { "---" } else { "---:" });
    let mut text = String::new();
    if !title.is_empty() {
        let _ = write!(text, "\n{}\n", line(title));
    }
    let _ = write!(
        text,
        "\n{}|{}|\n",
        cells(&table.head),
        rule.collect::<Vec<_>>().join("|")
    );
    table.rows.iter().for_each(|row| text += &cells(row));
    text
}

/// What others have named stays on its line, and is no markup.
fn line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .flat_map(|c| {
            let is_markup = matches!(c, '<' | '>' | '`' | '*' | '[' | ']');
            is_markup.then_some('\\').into_iter().chain([c])
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let dot = |label: &str, x: f64, y: f64| Dot {
            label: label.into(),
            x,
            y,
            y_interval: (y - 0.1, y + 0.1),
        };
        Page {
            title: "A <b>title</b>".into(),
            sections: vec![Section {
                title: "Quality".into(),
                note: "All & nothing.".into(),
                parts: vec![
                    Part::Table(Table {
                        head: vec!["model".into(), "right".into()],
                        rows: vec![vec!["a|b<script>".into(), "3/4".into()]],
                    }),
                    Part::Bars(Bars {
                        title: "code".into(),
                        unit: "%".into(),
                        most: Some(100.0),
                        bars: vec![Bar {
                            label: "a".into(),
                            value: 50.0,
                            interval: Some((25.0, 75.0)),
                        }],
                    }),
                    Part::Scatter(Scatter {
                        title: "both".into(),
                        x: "answers a minute".into(),
                        y: "right".into(),
                        dots: vec![
                            dot("slow", 1.0, 0.9),
                            dot("fast", 9.0, 0.5),
                            dot("bad", 1.0, 0.1),
                        ],
                    }),
                    Part::Heat(Heat {
                        title: "depths".into(),
                        columns: vec!["0 %".into(), "100 %".into()],
                        rows: vec![(
                            "1024".into(),
                            vec![
                                Some(Cell {
                                    share: 1.0,
                                    text: "2/2".into(),
                                }),
                                None,
                            ],
                        )],
                    }),
                    Part::Remarks(vec!["one\ntwo".into()]),
                ],
            }],
        }
    }

    #[test]
    fn the_front_is_what_nothing_beats_in_both() {
        let points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.5, 5.0)];
        assert_eq!(pareto(&points), [0, 1, 3]);
        assert_eq!(pareto(&[(1.0, 1.0), (1.0, 1.0)]), [0, 1]);
        assert!(pareto(&[]).is_empty());
    }

    #[test]
    fn names_are_no_markup() {
        let (html, markdown) = (page().html(), page().markdown());
        assert!(
            !html.contains("<script>") && !html.contains("<b>"),
            "{html}"
        );
        assert!(html.contains("a|b&lt;script&gt;") && html.contains("All &amp; nothing."));
        assert!(markdown.contains(r"| a\|b\<script\> | 3/4 |"), "{markdown}");
        assert!(markdown.contains("- one two\n"));
    }

    #[test]
    fn a_page_loads_nothing() {
        let html = page().html();
        for word in ["http", "src=", "@import", "url("] {
            assert!(!html.contains(word), "{word}");
        }
        // Bars and their intervals are in percent of the scale.
        assert!(html.contains("width:50.00%"), "{html}");
        assert!(html.contains("left:25.00%;width:50.00%"), "{html}");
    }

    #[test]
    fn markdown_has_the_same_figures() {
        let markdown = page().markdown();
        for row in [
            "| a | 50.0 | 25.0 to 75.0 |",
            "| slow | 1.00 | 0.90 | 0.80 to 1.00 | yes |",
            "| bad | 1.00 | 0.10 | 0.00 to 0.20 |  |",
            "| 1024 | 2/2 | - |",
        ] {
            assert!(markdown.contains(row), "{row}\n{markdown}");
        }
    }
}
