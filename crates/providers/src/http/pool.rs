//! Connections that wait for their next request.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::Connection;

/// Connections to an engine that each thread keeps for later requests.
pub(super) const IDLE_MAX: usize = 128;
/// How long one is kept that nobody uses.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// The idle connections of one thread, the one used last on top.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is open.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.idle();
        while let Some(one) = idle.pop() {
            if one.since.elapsed() > IDLE_TIME_MAX {
                // Those below have waited for longer.
                idle.clear();
                return None;
            }
            if one.connection.is_open() {
                return Some(one.connection);
            }
        }
        None
    }

    pub(super) fn put(&self, connection: Connection) {
        let since = Instant::now();
        let mut idle = self.idle();
        if idle.len() < IDLE_MAX {
            idle.push(Idle { connection, since });
        }
    }

    /// Closes those that nobody has used for too long, or that the engine has ended.
    pub(super) fn close_old(&self) {
        self.close_older_than(IDLE_TIME_MAX);
    }

    fn close_older_than(&self, limit: Duration) {
        let is_good = |one: &Idle| one.since.elapsed() <= limit && one.connection.is_open();
        self.idle().retain(is_good);
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn connection(listener: &TcpListener) -> (Connection, TcpStream) {
        let address = listener.local_addr().unwrap();
        let (ours, theirs) = tokio::join!(TcpStream::connect(address), listener.accept());
        (Connection::new(ours.unwrap()), theirs.unwrap().0)
    }

    #[tokio::test]
    async fn no_more_are_kept_than_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, mut theirs) = (Pool::default(), Vec::new());
        for _ in 0..IDLE_MAX + 2 {
            let (ours, other) = connection(&listener).await;
            pool.put(ours);
            theirs.push(other);
        }
        assert_eq!(pool.idle().len(), IDLE_MAX);
    }

    #[tokio::test]
    async fn what_has_waited_too_long_or_was_closed_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::default();
        let (ours, _open) = connection(&listener).await;
        pool.put(ours);
        let (ours, closed) = connection(&listener).await;
        drop(closed);
        ours.until_readable().await;
        pool.put(ours);
        pool.close_old();
        assert_eq!(
            pool.idle().len(),
            1,
            "one has been closed by the other side"
        );
        pool.close_older_than(Duration::ZERO);
        assert_eq!(pool.idle().len(), 0);
    }
}
