//! `sextant audit`: the audit log on standard output.

use std::io::{self, BufWriter, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::ArgMatches;
use store::AuditFilter;

use crate::outcome::{Code, Outcome, fault};
use crate::{configuration, database};

pub(crate) fn run(matches: &ArgMatches) -> Outcome {
    let config = configuration::read_quiet(matches)?;
    let filter = AuditFilter {
        since_ms: match matches.get_one::<String>("since") {
            None => 0,
            Some(span) => since_ms(span)?,
        },
        key_name: matches.get_one::<String>("key").cloned(),
    };
    let Some(store) = database::open_existing(&config)? else {
        crate::output::say("there is no audit log yet; `sextant serve` writes one");
        return Ok(());
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let session = store.connect()?;
    session.audit(&filter, |row| writeln!(out, "{}", row.line()))??;
    Ok(out.flush()?)
}

/// The moment that lies so far back, milliseconds since 1970.
pub(crate) fn since_ms(span: &str) -> Outcome<u64> {
    let span = store::span(span).ok_or_else(|| {
        let message =
            format!("`--since` is `{span}`; it must be a span such as 90s, 15m, 1h or 7d");
        fault(Code::Usage, message)
    })?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.saturating_sub(span).as_millis())?)
}
