//! The table of all open connections; chooses which one is closed when there are too many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::phase::Connection;

/// Connections above the limit, reserved for health checks.
const RESERVE: usize = 32;

/// How many connections may be open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub total: usize,
    /// From one address that is not a trusted proxy, before its idle and silent ones are closed.
    pub by_address: usize,
    /// From one such address, however many requests are in progress.
    pub most_by_address: usize,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    all: HashMap<u64, Arc<Connection>>,
    by_address: HashMap<IpAddr, usize>,
}

/// The table of open connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Table {
    open: Arc<Mutex<Open>>,
    limits: Limits,
}

/// A place in the table. Dropping it frees the place.
pub(super) struct Place {
    pub connection: Arc<Connection>,
    id: u64,
    table: Table,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.table.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.remove(self.id);
    }
}

impl Open {
    fn remove(&mut self, id: u64) {
        let Some(connection) = self.all.remove(&id) else { return };
        if let Some(count) = self.by_address.get_mut(&connection.ip) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&connection.ip);
            }
        }
    }

    /// Closes the connection with the lowest rank, of one address or of all. Returns whether one was closed.
    fn close_one(&mut self, of: Option<IpAddr>) -> bool {
        let now = Instant::now();
        let candidates = self.all.iter().filter(|(_, connection)| of.is_none_or(|ip| connection.ip == ip));
        let ranked = candidates.filter_map(|(id, connection)| Some((connection.rank(now)?, *id)));
        let Some((_, id)) = ranked.min() else { return false };
        if let Some(connection) = self.all.get(&id) {
            connection.end.notify_one();
        }
        // Its place is free immediately; its task ends a moment later.
        self.remove(id);
        true
    }
}

impl Table {
    pub(super) fn new(limits: Limits) -> Self {
        Self { open: Arc::default(), limits }
    }

    /// Returns a place for a connection from this address; connections of a trusted proxy are not counted by address.
    /// `None` if requests are in progress on all connections, including those of the reserve.
    pub(super) fn enter(&self, ip: IpAddr, is_proxy: bool) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_surplus = false;
        let own = open.by_address.get(&ip).copied().unwrap_or_default();
        if !is_proxy && own >= self.limits.by_address && !open.close_one(Some(ip)) {
            is_surplus = own >= self.limits.most_by_address;
        }
        if open.all.len() >= self.limits.total {
            is_surplus |= !open.close_one(None);
        }
        if open.all.len() >= self.limits.total + RESERVE {
            return None;
        }
        let id = open.next;
        open.next += 1;
        let connection = Arc::new(Connection::new(ip, is_surplus));
        open.all.insert(id, Arc::clone(&connection));
        *open.by_address.entry(ip).or_default() += 1;
        Some(Place { connection, id, table: self.clone() })
    }

    /// Closes a connection without a request in progress, because the process has reached its file limit.
    pub(super) fn make_room(&self) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).close_one(None);
    }

    /// Closes the connections whose clients have exceeded their time limit.
    pub(super) fn close_overdue(&self, is_stopping: bool) {
        let now = Instant::now();
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for connection in open.all.values().filter(|connection| connection.is_overdue(now, is_stopping)) {
            connection.end.notify_one();
        }
    }

    pub(super) fn count(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_asks_nothing_makes_room_and_only_then_the_reserve_is_used() {
        let table = Table::new(Limits { total: 5, by_address: 2, most_by_address: 3 });
        let (here, there) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let first = table.enter(here, false).unwrap();
        let second = table.enter(here, false).unwrap();
        second.connection.begin(false);
        let third = table.enter(here, false).unwrap();
        assert!(!third.connection.is_surplus);
        assert_eq!(table.count(), 2, "the first one was closed");
        drop(first);
        assert_eq!(table.count(), 2, "its place was free already");
        third.connection.begin(false);
        let fourth = table.enter(here, false).unwrap();
        assert!(!fourth.connection.is_surplus, "all of this address are at work");
        fourth.connection.begin(false);
        let fifth = table.enter(here, false).unwrap();
        assert!(fifth.connection.is_surplus, "it has its share of the whole");
        fifth.connection.begin(false);
        assert!(!table.enter(here, true).unwrap().connection.is_surplus, "a proxy has as many as it needs");
        let mut held = Vec::new();
        for _ in 0..100 {
            held.extend(table.enter(there, true).inspect(|place| place.connection.begin(false)));
        }
        assert_eq!(table.count(), 5 + RESERVE);
        assert!(!held[0].connection.is_surplus, "one place was left");
        assert!(held[1..].iter().all(|place| place.connection.is_surplus));
        drop((second, third, fourth, fifth, held));
        assert_eq!(table.count(), 0);
        assert!(table.open.lock().unwrap().by_address.is_empty());
    }
}
