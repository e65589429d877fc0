//! Integration tests of the farm: master, librarian and slaves, on SQLite and on PostgreSQL.

mod attempts;
mod commands;
mod commands_steps;
mod commands_work;
mod crash;
mod dispatch;
mod fakes;
mod leases;
mod librarian_commands;
mod librarian_gc;
mod librarian_http;
mod librarian_store;
mod librarian_uploads;
mod many;
mod published;
mod results;
mod scale;
mod scan;
mod schema_fixture;
mod seed;
mod seed_rows;
mod sqlite_files;
mod support;
mod tls;
mod uploads;
mod uploads_ways_out;
