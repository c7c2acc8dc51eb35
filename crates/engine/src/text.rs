//! From token bytes to text a client may see: whole UTF-8, nothing of a stop string.

use proto::TokenLogprob;

/// Collects token bytes and gives out text as soon as it is certain.
///
/// Bytes are held back while they are an incomplete UTF-8 character or may still
/// become a stop string; a stop string and what follows it is never given out.
#[derive(Debug, Default)]
pub(crate) struct TextStream {
    stops: Vec<String>,
    /// Bytes not given out yet.
    held: Vec<u8>,
    /// Bytes given out so far.
    n_sent: usize,
    /// Log-probabilities whose token's text was not given out yet, with the
    /// offset at which it starts.
    logprobs: Vec<(usize, TokenLogprob)>,
    hit: Option<String>,
}

impl TextStream {
    pub(crate) fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.to_vec(),
            ..Self::default()
        }
    }

    /// Adds a token's bytes; after a stop string was found, more is ignored.
    pub(crate) fn push(&mut self, bytes: &[u8], logprob: Option<TokenLogprob>) {
        if self.hit.is_some() {
            return;
        }
        let start = self.n_sent + self.held.len();
        self.held.extend_from_slice(bytes);
        self.logprobs
            .extend(logprob.map(|logprob| (start, logprob)));
        if let Some((at, stop)) = self.find_stop() {
            self.hit = Some(stop.to_owned());
            self.held.truncate(at);
            let end = self.n_sent + at;
            self.logprobs.retain(|(start, _)| *start < end);
        }
    }

    /// The stop string that ended the text.
    pub(crate) fn stop_hit(&self) -> Option<&str> {
        self.hit.as_deref()
    }

    /// Text that is certain by now, with the log-probabilities of its tokens.
    pub(crate) fn take(&mut self) -> (String, Vec<TokenLogprob>) {
        let len = match self.hit {
            Some(_) => self.held.len(),
            None => self.certain_len(),
        };
        self.send(len)
    }

    /// Everything that is left; an incomplete character becomes U+FFFD.
    pub(crate) fn finish(&mut self) -> (String, Vec<TokenLogprob>) {
        let (text, mut logprobs) = self.send(self.held.len());
        logprobs.extend(self.logprobs.drain(..).map(|(_, logprob)| logprob));
        (text, logprobs)
    }

    fn send(&mut self, len: usize) -> (String, Vec<TokenLogprob>) {
        let bytes: Vec<u8> = self.held.drain(..len).collect();
        self.n_sent += len;
        let n = self
            .logprobs
            .iter()
            .take_while(|(start, _)| *start < self.n_sent)
            .count();
        let logprobs = self
            .logprobs
            .drain(..n)
            .map(|(_, logprob)| logprob)
            .collect();
        (String::from_utf8_lossy(&bytes).into_owned(), logprobs)
    }

    fn find_stop(&self) -> Option<(usize, &str)> {
        self.stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| find(&self.held, stop.as_bytes()).map(|at| (at, stop.as_str())))
            .min_by_key(|(at, _)| *at)
    }

    /// Bytes that are whole characters and cannot be the beginning of a stop string.
    fn certain_len(&self) -> usize {
        let whole = whole_utf8_len(&self.held);
        let may_stop = |from: usize| {
            let tail = &self.held[from..];
            self.stops
                .iter()
                .any(|stop| stop.as_bytes().starts_with(tail))
        };
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let first = self.held.len().saturating_sub(longest);
        let held_from = (first..self.held.len()).find(|from| may_stop(*from));
        // A held tail may begin inside a character only if that character is incomplete.
        held_from.map_or(whole, |from| whole.min(from))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Length of `bytes` without an incomplete character at its end. Bytes that can
/// never become UTF-8 count as whole: they are replaced when given out.
fn whole_utf8_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match std::str::from_utf8(&bytes[at..]) {
            Ok(_) => return bytes.len(),
            Err(error) => match error.error_len() {
                None => return at + error.valid_up_to(),
                Some(len) => at += error.valid_up_to() + len,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, Option<String>) {
        let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
        let mut stream = TextStream::new(&stops);
        let mut seen = Vec::new();
        for piece in pieces {
            stream.push(piece, None);
            seen.push(stream.take().0);
        }
        seen.push(stream.finish().0);
        (seen, stream.stop_hit().map(str::to_owned))
    }

    #[test]
    fn characters_are_never_cut() {
        let euro = "€".as_bytes();
        let (seen, _) = run(&[], &[&euro[..1], &euro[1..2], &euro[2..], b"x"]);
        assert_eq!(seen, ["", "", "€", "x", ""]);
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced_and_nothing_waits_for_them() {
        let (seen, _) = run(&[], &[b"a\xff", b"b"]);
        assert_eq!(seen, ["a\u{fffd}", "b", ""]);
        let (seen, _) = run(&[], &["é".as_bytes(), &[0xe2, 0x82]]);
        assert_eq!(seen, ["é", "", "\u{fffd}"]);
    }

    #[test]
    fn a_stop_string_may_span_tokens() {
        let (seen, hit) = run(&["\n\nUser:"], &[b"Hi", b"\n", b"\nUs", b"er: no"]);
        assert_eq!(seen, ["Hi", "", "", "", ""]);
        assert_eq!(hit.as_deref(), Some("\n\nUser:"));
    }

    #[test]
    fn text_held_for_a_stop_that_never_came_is_given_out() {
        let (seen, hit) = run(&["END"], &[b"aE", b"N", b"x"]);
        assert_eq!(seen, ["a", "", "ENx", ""]);
        assert_eq!(hit, None);
        let (seen, _) = run(&["END"], &[b"aEN"]);
        assert_eq!(seen, ["a", "EN"]);
    }

    #[test]
    fn the_first_of_several_stops_wins() {
        let (seen, hit) = run(&["late", "b"], &[b"abclate"]);
        assert_eq!(seen, ["a", ""]);
        assert_eq!(hit.as_deref(), Some("b"));
    }

    #[test]
    fn logprobs_go_with_their_text_and_stop_with_it() {
        let token = |text: &str| TokenLogprob {
            token: text.to_owned(),
            bytes: text.as_bytes().to_vec(),
            logprob: Some(-1.0),
            top: Vec::new(),
        };
        let mut stream = TextStream::new(&["stop".to_owned()]);
        stream.push(b"a st", Some(token("a st")));
        let (text, logprobs) = stream.take();
        assert_eq!((text.as_str(), logprobs.len()), ("a ", 1));
        stream.push(b"op", Some(token("op")));
        let (text, logprobs) = stream.finish();
        assert_eq!((text.as_str(), logprobs.len()), ("", 0));
    }
}
