//! Support for the tests of the farm: farms, their database, fake slaves, a librarian.

pub(crate) mod backups;
pub(crate) mod database;
pub(crate) mod fake;
mod fake_http;
pub(crate) mod fake_slave;
pub(crate) mod farm;
pub(crate) mod librarian;
pub(crate) mod million;
pub(crate) mod postgres;
pub(crate) mod rows;
pub(crate) mod tls_server;
pub(crate) mod uploads;

pub(crate) use database::Engine;
pub(crate) use fake::{Does, Fake};
pub(crate) use fake_slave::{State, Work};
pub(crate) use farm::{Farm, QUICK};

/// A number from the environment, for larger load tests.
pub(crate) fn from_env<T: std::str::FromStr>(name: &str, default: T) -> T {
    let given = std::env::var(name).ok();
    given.map_or(default, |text| {
        let number = text.parse().ok();
        number.unwrap_or_else(|| panic!("{name}: {text:?} is not a number"))
    })
}
