//! `master builder`: registers builders, and takes them out of service and back.
//!
//! These commands write rows and contact no slave. Running masters see the rows at the next scan.

use std::thread;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::lookup::{find_builder, refuse};
use super::open::Site;
use super::screen::{Screen, stderr_line};
use super::words::one_of;
use super::{Error, builder_show, names, status};
use crate::client::{SlaveUrl, shown_url};
use crate::db::{self, Tx};
use crate::master::model::ResetProtocol;
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::events::NewEvent;
use crate::master::rows::{events, registry, series};
use crate::sys::clock::now_ms;

/// Time between two polls while waiting for an idle builder.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  buildd-slave master builder add bob http://bob:8221 --processor i386
  buildd-slave master builder add vm1 http://vm1:8221 --processor i386 \\
    --virtual --vm-host host1 --reset 1.1
  buildd-slave master builder list
  buildd-slave master builder show bob
  buildd-slave master builder disable bob --reason 'new disk on Monday'
  buildd-slave master builder enable bob
  buildd-slave master builder drain bob --wait && ssh bob poweroff
  buildd-slave master builder manual bob
  buildd-slave master builder auto bob
  buildd-slave master builder clean vm1        # its host has reset vm1
  buildd-slave master builder remove vm1";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Register a builder
    Add(Add),
    /// List builders with their status
    List(builder_show::List),
    /// Show a builder, with its latest builds and events
    Show {
        /// Name of the builder
        name: String,
    },
    /// Put a builder back into service, and reset its failure count
    Enable {
        /// Name of the builder
        name: String,
    },
    /// Take a builder out of service at once; its build returns to the queue
    Disable {
        /// Name of the builder
        name: String,
        /// Reason, shown by `builder list`
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a builder finish its build, and dispatch no more builds to it until `auto`
    Drain {
        /// Name of the builder
        name: String,
        /// Wait until the builder is idle
        #[arg(long)]
        wait: bool,
    },
    /// Stop dispatching builds to a builder until `auto`; a running build continues
    Manual {
        /// Name of the builder
        name: String,
    },
    /// Dispatch builds to a builder again
    Auto {
        /// Name of the builder
        name: String,
    },
    /// Report that a virtual builder has been reset (protocol 2.0)
    Clean {
        /// Name of the builder
        name: String,
    },
    /// Remove an idle builder
    Remove {
        /// Name of the builder
        name: String,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Name of the new builder
    #[arg(value_parser = names::new_name)]
    name: String,
    /// URL of its slave: http://HOST:8221, or http://USER:PASSWORD@HOST:8221
    url: String,
    /// Processor of the builder; repeat for several [default: the only known processor]
    #[arg(long, value_name = "NAME")]
    processor: Vec<String>,
    /// Description for people [default: none]
    #[arg(long, default_value = "", hide_default_value = true)]
    title: String,
    /// Dispatch no builds to it until `builder auto`
    #[arg(long)]
    manual: bool,
    /// Virtual builder: its machine is reset after each build
    #[arg(long = "virtual", requires_all = ["vm_host", "reset"])]
    virtualized: bool,
    /// Host of the virtual machine, passed to `[master] reset_command`
    #[arg(long, value_name = "HOST", requires = "virtualized")]
    vm_host: Option<String>,
    /// Reset protocol: 1.1, the reset command exits when the slave is up again; 2.0, the command
    /// only starts the reset, and `builder clean` reports its end
    #[arg(long, value_name = "PROTOCOL", requires = "virtualized")]
    #[arg(value_parser = one_of(ResetProtocol::ALL), hide_possible_values = true)]
    reset: Option<ResetProtocol>,
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add(args) => add(&args, site, screen)?,
        Verb::List(args) => builder_show::list(site, screen, &args)?,
        Verb::Show { name } => builder_show::show(site, screen, &name)?,
        Verb::Enable { name } => enable(site, screen, &name)?,
        Verb::Disable { name, reason } => disable(site, screen, &name, reason.as_deref())?,
        Verb::Drain { name, wait } => drain(site, screen, &name, wait)?,
        Verb::Manual { name } => set_manual(site, screen, &name, true)?,
        Verb::Auto { name } => set_manual(site, screen, &name, false)?,
        Verb::Clean { name } => set_clean(site, screen, &name)?,
        Verb::Remove { name } => remove(site, screen, &name)?,
    }
    Ok(true)
}

fn enable(site: &Site, screen: Screen, name: &str) -> Result<(), Error> {
    let change = |tx: &mut Tx<'_>, builder: &Builder, now| registry::enable(tx, builder.id, now);
    let (builder, _) = change_builder(site, name, "enabled", "", change)?;
    let rest = match builder.manual {
        true => format!(", but manual; `master builder auto {name}` dispatches builds to it"),
        false => "; it gets builds after the next scan has cleaned it".to_owned(),
    };
    report_state(screen, &builder, "enabled", &rest)
}

fn disable(site: &Site, screen: Screen, name: &str, reason: Option<&str>) -> Result<(), Error> {
    let change = |tx: &mut Tx<'_>, builder: &Builder, _| registry::disable(tx, builder.id, reason);
    let why = reason.unwrap_or_default();
    let (builder, job) = change_builder(site, name, "disabled", why, change)?;
    let rest = job.map_or_else(String::new, |job| {
        format!(
            "; build {} ({}) returns to the queue at the next scan (`master builder drain` lets a \
             build finish)",
            job.build, job.name
        )
    });
    report_state(screen, &builder, "disabled", &rest)
}

fn drain(site: &Site, screen: Screen, name: &str, wait: bool) -> Result<(), Error> {
    let change = |tx: &mut Tx<'_>, builder: &Builder, _| registry::set_manual(tx, builder.id, true);
    let (builder, job) = change_builder(site, name, "drained", "", change)?;
    let rest = match &job {
        Some(job) => format!("; it finishes build {} ({})", job.build, job.name),
        None => "; it has no build".to_owned(),
    };
    if !wait {
        return report_state(screen, &builder, "manual", &rest);
    }
    screen.line(format_args!("builder {} is manual{rest}", builder.name))?;
    wait_idle(site, &builder)?;
    report_state(screen, &builder, "idle", "")
}

fn set_clean(site: &Site, screen: Screen, name: &str) -> Result<(), Error> {
    let change = |tx: &mut Tx<'_>, builder: &Builder, now| {
        if registry::set_clean(tx, builder.id, now)? {
            return Ok(());
        }
        Err(refuse(format!(
            "builder {name} is not waiting for the end of a reset by protocol 2.0"
        )))
    };
    let (builder, _) = change_builder(site, name, "cleaned", "", change)?;
    report_state(screen, &builder, "clean", "; it gets builds again")
}

fn remove(site: &Site, screen: Screen, name: &str) -> Result<(), Error> {
    let kept = site.db.write(|tx| {
        let (builder, job) = find_builder(tx, name)?;
        if let Some(job) = job {
            return Err(refuse(format!(
                "builder {name} is running {}; let it finish with `master builder drain {name} \
                 --wait`, or end it with `master cancel {}`",
                job.name, job.build
            )));
        }
        registry::remove(tx, builder.id)
    })?;
    let rest = if kept {
        "; its build history is kept"
    } else {
        ""
    };
    let json = json!({"name": name, "removed": true, "history_kept": kept});
    screen.done(format_args!("removed builder {name}{rest}"), &json)
}

fn add(args: &Add, site: &Site, screen: Screen) -> Result<(), Error> {
    let url = normalize_url(&args.url).map_err(Error::Refused)?;
    let now = now_ms();
    let id = site.db.write(|tx| {
        if builders::named(tx, &args.name)?.is_some_and(|(other, _)| other.active) {
            let name = &args.name;
            return Err(refuse(format!(
                "builder {name} already exists; `master builder remove {name}` removes it"
            )));
        }
        if let Some(other) = builders::name_of_url(tx, &url)? {
            return Err(refuse(format!("builder {other} already has that URL")));
        }
        let new = registry::New {
            name: args.name.clone(),
            url: url.clone(),
            title: args.title.clone(),
            manual: args.manual,
            virtualized: args.virtualized,
            vm_host: args.vm_host.clone(),
            reset: args.reset,
            processors: find_processors(tx, &args.processor)?,
        };
        let id = registry::add(tx, &new, now)?;
        add_event(tx, now, id, "added", "")?;
        Ok(id)
    })?;
    let name = &args.name;
    let next = match args.manual {
        true => format!("it gets no builds until `buildd-slave master builder auto {name}`"),
        false => "`buildd-slave master run` probes it".to_owned(),
    };
    let json = json!({"id": id, "name": name, "url": shown_url(&url), "manual": args.manual});
    screen.done(
        format_args!("added builder {name}, not probed yet; {next}"),
        &json,
    )
}

/// Returns the ids of the named processors. Without names, the only known processor is meant.
fn find_processors(tx: &mut Tx<'_>, words: &[String]) -> Result<Vec<i64>, db::Error> {
    let known = series::processors(tx)?;
    let existing = || known.iter().map(|(_, name, _)| name.clone()).collect();
    let hint = "`master arch add SERIES ARCH` adds one";
    if let ([], [(only, _, _)]) = (words, &known[..]) {
        return Ok(vec![*only]);
    }
    if words.is_empty() {
        let existing: Vec<String> = existing();
        let list = match existing.is_empty() {
            true => format!("none exists yet; {hint}"),
            false => format!("known: {}", existing.join(", ")),
        };
        return Err(refuse(format!("no --processor given ({list})")));
    }
    let mut found = Vec::new();
    for word in words {
        let processor = known.iter().find(|(_, name, _)| name == word);
        let Some((id, _, _)) = processor else {
            return Err(refuse(names::unknown("processor", word, existing(), hint)));
        };
        if !found.contains(id) {
            found.push(*id);
        }
    }
    Ok(found)
}

/// Returns the URL of a slave as the database stores it: with port, credentials and final slash.
fn normalize_url(text: &str) -> Result<String, String> {
    let url = SlaveUrl::parse(text).map_err(|error| error.to_string())?;
    let (scheme, rest) = url.base.split_once("://").unwrap_or(("http", &url.base));
    let rest_of_text = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest_of_text.split('/').next().unwrap_or_default();
    let userinfo = authority.rfind('@').and_then(|at| authority.get(..=at));
    let userinfo = userinfo.unwrap_or_default();
    Ok(format!("{scheme}://{userinfo}{rest}/"))
}

/// Applies `change` to a builder and adds an event. Returns the builder and its job before that.
fn change_builder(
    site: &Site,
    name: &str,
    kind: &str,
    why: &str,
    change: impl Fn(&mut Tx<'_>, &Builder, i64) -> Result<(), db::Error>,
) -> Result<(Builder, Option<Job>), Error> {
    let changed = site.db.write(|tx| {
        let (builder, job) = find_builder(tx, name)?;
        if !builder.active {
            return Err(refuse(format!(
                "builder {name} was removed; `master builder add` registers it again"
            )));
        }
        let now = now_ms();
        change(tx, &builder, now)?;
        add_event(tx, now, builder.id, kind, why)?;
        Ok((builder, job))
    })?;
    Ok(changed)
}

fn add_event(tx: &mut Tx<'_>, now: i64, id: i64, kind: &str, why: &str) -> Result<(), db::Error> {
    let operator = status::operator();
    let message = match why {
        "" => format!("{kind} by {operator}"),
        why => format!("{kind} by {operator}: {why}"),
    };
    events::add(
        tx,
        &NewEvent {
            builder: Some(id),
            ..NewEvent::info(now, kind, &message)
        },
    )
}

fn report_state(screen: Screen, builder: &Builder, word: &str, rest: &str) -> Result<(), Error> {
    let json = json!({"name": &builder.name, "state": word});
    screen.done(
        format_args!("builder {} is {word}{rest}", builder.name),
        &json,
    )
}

fn set_manual(site: &Site, screen: Screen, name: &str, manual: bool) -> Result<(), Error> {
    let word = if manual { "manual" } else { "automatic" };
    let change =
        |tx: &mut Tx<'_>, builder: &Builder, _| registry::set_manual(tx, builder.id, manual);
    let (builder, _) = change_builder(site, name, word, "", change)?;
    let rest = match builder.ok {
        true => String::new(),
        false => format!(", but disabled; `master builder enable {name}` enables it"),
    };
    report_state(screen, &builder, word, &rest)
}

fn wait_idle(site: &Site, builder: &Builder) -> Result<(), Error> {
    let mut warned = false;
    loop {
        let (found, is_master_alive) = site.db.read(|tx| {
            let found = builders::view(tx, builder.id)?;
            Ok((found, status::is_master_alive(tx)?))
        })?;
        if found.is_none_or(|(_, job)| job.is_none()) {
            return Ok(());
        }
        if !is_master_alive && !warned {
            warned = true;
            stderr_line(status::NO_MASTER);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_stored_with_password_and_printed_without() {
        for (text, stored, shown) in [
            ("bob", "http://bob:8221/", "http://bob:8221/"),
            (
                "http://localhost:8221/",
                "http://localhost:8221/",
                "http://localhost:8221/",
            ),
            (
                "http://bob:8221/rpc/",
                "http://bob:8221/",
                "http://bob:8221/",
            ),
            (
                "https://me:p%40ss@bob/x",
                "https://me:p%40ss@bob:443/x/",
                "https://bob:443/x/",
            ),
            ("me:pw@bob:1", "http://me:pw@bob:1/", "http://bob:1/"),
        ] {
            let url = normalize_url(text).unwrap();
            assert_eq!(url, stored);
            assert_eq!(shown_url(&url), shown);
            assert_eq!(
                normalize_url(&url).unwrap(),
                stored,
                "a stored URL stays as it is"
            );
        }
        let error = normalize_url("http://me:secret@/").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
