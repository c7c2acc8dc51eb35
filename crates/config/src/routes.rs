//! Routes of tasks that are written into the text of a configuration file. Pure.

use std::collections::BTreeMap;

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use crate::fleet::FleetTables;

/// What a line begins with that says why the route below it is as it is.
const NOTE: &str = "# derived: ";

/// A route of `[routing.tasks]` to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRoute {
    pub task: String,
    /// In the order in which they are tried.
    pub targets: Vec<String>,
    /// Why it is so, for the comment above it; one line.
    pub note: String,
}

/// A route, before and after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    pub task: String,
    /// `None`: there was none.
    pub before: Option<Vec<String>>,
    pub after: Vec<String>,
}

impl RouteChange {
    /// Whether it is another route, and not a comment alone.
    #[must_use]
    pub fn is_another(&self) -> bool {
        self.before.as_ref() != Some(&self.after)
    }
}

/// The text of a configuration file with these routes in `[routing.tasks]`, in place of those
/// of the same tasks, and each of them before and after. Comments, other settings and their
/// order stay; what a comment of ours says above a route is renewed. A text that has all of
/// it already comes back as it is.
///
/// # Errors
/// In words: a file that cannot be read, or one of which more would change than these routes.
pub fn with_routes(text: &str, new: &[NewRoute]) -> Result<(String, Vec<RouteChange>), String> {
    let unreadable = || "it cannot be read; `sextant config` says what is wrong".to_owned();
    let before = read(text).ok_or_else(unreadable)?;
    let changes = new.iter().map(|route| RouteChange {
        task: route.task.clone(),
        before: before.get(&route.task).cloned(),
        after: route.targets.clone(),
    });
    let changes = changes.collect();
    let ending = LineEnd::of(text);
    let mut document: DocumentMut = ending.plain(text).parse().map_err(|_| unreadable())?;
    if !new.is_empty() {
        let (tasks, form) = tasks(&mut document)?;
        for route in new {
            write(tasks, form, route);
        }
    }
    let after = ending.restored(&document.to_string());
    let mut wanted = before;
    let routes = new.iter();
    wanted.extend(routes.map(|route| (route.task.clone(), route.targets.clone())));
    match read(&after) == Some(wanted) && others(&after) == others(text) {
        true => Ok((after, changes)),
        false => Err(
            "its routes stand in a form that cannot be changed without changing more; \
                      write them as a table `[routing.tasks]`"
                .to_owned(),
        ),
    }
}

type Routes = BTreeMap<String, Vec<String>>;

/// The routes of tasks in the text of a configuration file; none where it cannot be read.
#[must_use]
pub fn routes_of(text: &str) -> BTreeMap<String, Vec<String>> {
    read(text).unwrap_or_default()
}

fn read(text: &str) -> Option<Routes> {
    let tables = toml::from_str::<FleetTables>(text).ok()?;
    Some(tables.routing.tasks)
}

/// All that is no route of a task.
fn others(text: &str) -> Option<toml::Table> {
    let mut table: toml::Table = toml::from_str(text).ok()?;
    if let Some(toml::Value::Table(routing)) = table.get_mut("routing") {
        routing.remove("tasks");
        if routing.is_empty() {
            table.remove("routing");
        }
    }
    Some(table)
}

/// How lines end in a file. The editor of documents writes one kind alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineEnd {
    Feed,
    ReturnAndFeed,
}

impl LineEnd {
    fn of(text: &str) -> Self {
        match text.contains("\r\n") {
            true => Self::ReturnAndFeed,
            false => Self::Feed,
        }
    }

    fn plain(self, text: &str) -> String {
        match self {
            Self::Feed => text.to_owned(),
            Self::ReturnAndFeed => text.replace("\r\n", "\n"),
        }
    }

    fn restored(self, text: &str) -> String {
        match self {
            Self::Feed => text.to_owned(),
            Self::ReturnAndFeed => text.replace('\n', "\r\n"),
        }
    }
}

/// How the table of tasks is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    /// `{ ... }`, where there is no room for comments.
    Inline,
}

/// The table of tasks, which is made where there is none.
fn tasks(document: &mut DocumentMut) -> Result<(&mut dyn TableLike, Form), String> {
    let root: &mut dyn TableLike = document.as_table_mut();
    if !root.contains_key("routing") {
        let mut routing = Table::new();
        // Its header would say nothing above that of the tasks.
        routing.set_implicit(true);
        root.insert("routing", Item::Table(routing));
    }
    let routing = inner(root, "routing")?;
    if !routing.contains_key("tasks") {
        routing.insert("tasks", Item::Table(Table::new()));
    }
    let form = match routing.get("tasks").is_some_and(Item::is_inline_table) {
        true => Form::Inline,
        false => Form::Lines,
    };
    Ok((inner(routing, "tasks")?, form))
}

fn inner<'a>(outer: &'a mut dyn TableLike, name: &str) -> Result<&'a mut dyn TableLike, String> {
    let item = outer.get_mut(name).and_then(Item::as_table_like_mut);
    item.ok_or_else(|| format!("its `{name}` is no table"))
}

fn write(tasks: &mut dyn TableLike, form: Form, route: &NewRoute) {
    let targets: Array = route.targets.iter().collect();
    let mut value = Value::Array(targets);
    let is_same = match tasks.get_mut(&route.task) {
        Some(item) => {
            let is_same = strings(item).as_ref() == Some(&route.targets);
            if !is_same {
                // What stands behind it on its line stays there.
                if let Some(old) = item.as_value() {
                    value.decor_mut().clone_from(old.decor());
                }
                *item = Item::Value(value);
            }
            is_same
        }
        None => {
            tasks.insert(&route.task, Item::Value(value));
            false
        }
    };
    if form == Form::Lines {
        note(tasks, route, is_same);
    }
}

fn strings(item: &Item) -> Option<Vec<String>> {
    let texts = item.as_array()?.iter();
    texts
        .map(|value| value.as_str().map(str::to_owned))
        .collect()
}

/// Puts our comment above a route, in place of an earlier one. A route that somebody wrote by
/// hand, and that is as it should be, is left alone.
fn note(tasks: &mut dyn TableLike, route: &NewRoute, is_same: bool) {
    let Some(mut key) = tasks.key_mut(&route.task) else {
        return;
    };
    let decor = key.leaf_decor_mut();
    let prefix = decor.prefix().and_then(|prefix| prefix.as_str());
    let prefix = prefix.unwrap_or_default();
    // Behind the last line end stands what the key is indented by.
    let (above, indent) = match prefix.rfind('\n') {
        Some(end) => prefix.split_at(end + 1),
        None => ("", prefix),
    };
    let is_ours = |line: &str| line.trim_start().starts_with(NOTE);
    if is_same && !above.lines().any(is_ours) {
        return;
    }
    let kept = above.split_inclusive('\n').filter(|line| !is_ours(line));
    let kept: String = kept.collect();
    let words: String = route.note.chars().filter(|c| !c.is_control()).collect();
    let prefix = format!("{kept}{indent}{NOTE}{words}\n{indent}");
    decor.set_prefix(prefix);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(task: &str, targets: &[&str]) -> NewRoute {
        NewRoute {
            task: task.into(),
            targets: targets.iter().map(|&target| target.into()).collect(),
            note: "the fastest (q-1)".into(),
        }
    }

    fn with(text: &str, new: &[NewRoute]) -> String {
        with_routes(text, new).unwrap().0
    }

    #[test]
    fn routes_are_written_and_all_else_stays() {
        let code = [route("code", &["box:a", "b"])];
        let line = "# derived: the fastest (q-1)\ncode = [\"box:a\", \"b\"]";
        let table = format!("[routing.tasks]\n{line}\n");
        for (before, after) in [
            (String::new(), table.clone()),
            ("port = 7\n".into(), format!("port = 7\n\n{table}")),
            (
                "# mine\nport = 7 # here\n\n[routing] # rules\nauto = [ 'x:' ]\n\n\
                 [routing.aliases]\na = ['b']\n\n[[providers]]\nname = 'x'\nkind = 'openai'\n\
                 url = 'http://x'\n# the end\n"
                    .into(),
                format!(
                    "# mine\nport = 7 # here\n\n[routing] # rules\nauto = [ 'x:' ]\n\n\
                     [routing.aliases]\na = ['b']\n\n{table}\n[[providers]]\nname = 'x'\n\
                     kind = 'openai'\nurl = 'http://x'\n# the end\n"
                ),
            ),
            (
                "[routing.tasks] # by hand\n# chat\nfast_chat = [\n  'c', # small\n]\n# old\n\
                 code = ['c'] # or d\n"
                    .into(),
                format!(
                    "[routing.tasks] # by hand\n# chat\nfast_chat = [\n  'c', # small\n]\n# old\n\
                     {line} # or d\n"
                ),
            ),
            (
                "routing.tasks.deep = ['d']\nport = 7\n".into(),
                "routing.tasks.deep = ['d']\n# derived: the fastest (q-1)\n\
                 routing.tasks.code = [\"box:a\", \"b\"]\nport = 7\n"
                    .into(),
            ),
            (
                "routing = { auto = ['x:'], tasks = { code = ['c'] } }\n".into(),
                "routing = { auto = ['x:'], tasks = { code = [\"box:a\", \"b\"] } }\n".into(),
            ),
        ] {
            assert_eq!(with(&before, &code), after);
            assert_eq!(with(&after, &code), after, "twice is as once");
            let crlf = |text: &str| text.replace('\n', "\r\n");
            // A file without a line has no kind of ends.
            if !before.is_empty() {
                assert_eq!(with(&crlf(&before), &code), crlf(&after));
            }
        }
    }

    #[test]
    fn a_comment_of_ours_is_renewed_and_one_of_others_is_left() {
        let anew = NewRoute {
            note: "the best\n(q-2)".into(),
            ..route("code", &["a"])
        };
        let by_hand = "[routing.tasks]\ncode = ['a']\n";
        assert_eq!(with(by_hand, std::slice::from_ref(&anew)), by_hand);
        let ours = "[routing.tasks]\n# mine\n  # derived: once\n  code = ['a']\n";
        let after = "[routing.tasks]\n# mine\n  # derived: the best(q-2)\n  code = ['a']\n";
        assert_eq!(with(ours, &[anew]), after);
    }

    #[test]
    fn each_route_is_told_before_and_after() {
        let text = "[routing.tasks]\ncode = ['a']\ndeep = ['d']\n";
        let new = [
            route("code", &["b"]),
            route("deep", &["d"]),
            route("tools", &["t"]),
        ];
        let (_, changes) = with_routes(text, &new).unwrap();
        let before: Vec<_> = changes.iter().map(|one| one.before.clone()).collect();
        let of = |name: &str| Some(vec![name.to_owned()]);
        assert_eq!(before, [of("a"), of("d"), None]);
        let is_another: Vec<bool> = changes.iter().map(RouteChange::is_another).collect();
        assert_eq!(is_another, [true, false, true]);
    }

    #[test]
    fn what_cannot_be_read_or_is_no_table_is_refused() {
        for text in [
            "port = ",
            "routing = 7\n",
            "[routing]\ntasks = 'code'\n",
            "[routing.tasks]\ncode = 'a'\n",
        ] {
            let told = with_routes(text, &[route("code", &["a"])]).unwrap_err();
            assert!(told.contains("cannot be read"), "{text}: {told}");
        }
    }

    #[test]
    fn nothing_new_changes_nothing() {
        let text = "port = 7 # mine\r\n\n[routing.tasks]\n";
        let plain = "port = 7 # mine\n\n[routing.tasks]\n";
        assert_eq!(with(plain, &[]), plain);
        // Lines that end in two ways end in one afterwards.
        assert_eq!(with(text, &[]), plain.replace('\n', "\r\n"));
    }
}
