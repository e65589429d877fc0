//! `builder`: who builds. Registered, taken out of service and back.
//!
//! No slave is asked anything here: the farm's processes see what is written at their next look.

use std::thread;
use std::time::Duration;

use clap::Subcommand;
use serde_json::json;

use super::lookup::{find_builder, refuse};
use super::open::Site;
use super::screen::{Screen, note};
use super::{Error, builder_show, names, status};
use crate::client::{SlaveUrl, shown_url};
use crate::db::{self, Tx};
use crate::master::model::ResetProtocol;
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::events::NewEvent;
use crate::master::rows::{events, registry, series};
use crate::sys::clock::now_ms;

/// Between two looks while something is waited for.
const POLL: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  buildd-slave master builder add bob http://bob:8221 --processor i386
  buildd-slave master builder add vm1 http://vm1:8221 --processor amd64 \\
    --virtual --vm-host host1 --reset 1.1
  buildd-slave master builder disable bob --reason 'new disk on Monday'
  buildd-slave master builder drain bob --wait && ssh bob poweroff
  buildd-slave master builder enable bob";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Register a builder
    Add(Add),
    /// List the builders
    List {
        /// Those that were removed too
        #[arg(long)]
        all: bool,
    },
    /// Show all that is known of a builder
    Show { name: String },
    /// Put a builder back into service; its failures are forgotten
    Enable { name: String },
    /// Take a builder out of service at once; its job goes back to the queue
    Disable {
        name: String,
        /// Why, for whoever looks
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Let a builder end its job and give it no other
    Drain {
        name: String,
        /// Wait until it is idle
        #[arg(long)]
        wait: bool,
    },
    /// Give a builder no jobs
    Manual { name: String },
    /// Give a builder jobs
    Auto { name: String },
    /// Say that the machine of a virtual builder has been reset (protocol 2.0)
    Clean { name: String },
    /// Forget a builder
    Remove { name: String },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    #[arg(value_parser = names::new_name)]
    name: String,
    /// Of its slave: http://HOST:8221, or http://USER:PASSWORD@HOST:8221
    url: String,
    /// What it can run; may be given more than once [default: the only one there is]
    #[arg(long, value_name = "NAME")]
    processor: Vec<String>,
    /// What people call it
    #[arg(long, default_value = "", hide_default_value = true)]
    title: String,
    /// Give it no jobs until `builder auto`
    #[arg(long)]
    manual: bool,
    /// It is put back to its first state after each job
    #[arg(long = "virtual", requires_all = ["vm_host", "reset"])]
    virtualized: bool,
    /// The host of its machine
    #[arg(long, value_name = "HOST", requires = "virtualized")]
    vm_host: Option<String>,
    /// How: 1.1, the command ends with the slave up; 2.0, it only accepts the request
    #[arg(long, value_name = "PROTOCOL", requires = "virtualized")]
    reset: Option<ResetProtocol>,
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add(given) => add(&given, site, screen)?,
        Verb::List { all } => builder_show::list(site, screen, all)?,
        Verb::Show { name } => builder_show::show(site, screen, &name)?,
        Verb::Enable { name } => {
            let change =
                |tx: &mut Tx<'_>, builder: &Builder, now| registry::enable(tx, builder.id, now);
            let (builder, _) = alter(site, &name, "enabled", "", change)?;
            let manual = match builder.manual {
                true => "; it is manual still: `builder auto` gives it jobs",
                false => "; it gets jobs when it has been looked at and cleaned",
            };
            tell(screen, &builder, "enabled", manual)?;
        }
        Verb::Disable { name, reason } => {
            let said = reason.clone().unwrap_or_default();
            let change = |tx: &mut Tx<'_>, builder: &Builder, _| {
                registry::disable(tx, builder.id, reason.as_deref())
            };
            let (builder, job) = alter(site, &name, "disabled", &said, change)?;
            let rest = job.map_or_else(String::new, |job| {
                format!(
                    ": its job, build {} ({}), goes back to the queue at the next look; `builder \
                     drain` would have let it end",
                    job.build, job.name
                )
            });
            tell(screen, &builder, "disabled", &rest)?;
        }
        Verb::Clean { name } => {
            let change = |tx: &mut Tx<'_>, builder: &Builder, now| {
                if registry::set_clean(tx, builder.id, now)? {
                    return Ok(());
                }
                let name = &builder.name;
                Err(refuse(format!(
                    "{name} is not being cleaned by somebody else"
                )))
            };
            let (builder, _) = alter(site, &name, "cleaned", "", change)?;
            tell(screen, &builder, "clean", "; it gets jobs from now on")?;
        }
        Verb::Drain { name, wait } => {
            let change =
                |tx: &mut Tx<'_>, builder: &Builder, _| registry::set_manual(tx, builder.id, true);
            let (builder, job) = alter(site, &name, "drained", "", change)?;
            let rest = match &job {
                Some(job) => format!(": it ends build {} ({})", job.build, job.name),
                None => ": it has no job".to_owned(),
            };
            if !wait {
                tell(screen, &builder, "manual", &rest)?;
            } else {
                screen.line(format_args!("{} is manual{rest}", builder.name))?;
                wait_idle(site, &builder)?;
                tell(screen, &builder, "idle", "")?;
            }
        }
        Verb::Manual { name } => set_manual(site, screen, &name, true)?,
        Verb::Auto { name } => set_manual(site, screen, &name, false)?,
        Verb::Remove { name } => {
            let (_, kept) = site.db.write(|tx| {
                let (builder, job) = find_builder(tx, &name)?;
                if let Some(job) = job {
                    return Err(refuse(format!(
                        "{name} builds {}: `builder drain {name} --wait` lets it end, `master \
                         cancel {}` ends it",
                        job.name, job.build
                    )));
                }
                let kept = registry::remove(tx, builder.id)?;
                Ok((builder, kept))
            })?;
            let rest = if kept {
                "; what it built stays known"
            } else {
                ""
            };
            let json = json!({"name": name, "removed": true, "history_kept": kept});
            screen.done(format_args!("{name} is removed{rest}"), &json)?;
        }
    }
    Ok(true)
}

fn add(given: &Add, site: &Site, screen: Screen) -> Result<(), Error> {
    let url = full_url(&given.url).map_err(Error::Refused)?;
    let now = now_ms();
    let id = site.db.write(|tx| {
        let known = builders::all(tx)?;
        let others = || known.iter().map(|(builder, _)| builder);
        if others().any(|other| other.name == given.name && other.active) {
            let name = &given.name;
            return Err(refuse(format!(
                "there is a builder {name} already; `builder remove {name}` first"
            )));
        }
        if let Some(other) = others().find(|other| other.url == url) {
            return Err(refuse(format!("{} is at that URL already", other.name)));
        }
        let new = registry::New {
            name: given.name.clone(),
            url: url.clone(),
            title: given.title.clone(),
            manual: given.manual,
            virtualized: given.virtualized,
            vm_host: given.vm_host.clone(),
            reset: given.reset,
            processors: processors(tx, &given.processor)?,
        };
        let id = registry::add(tx, &new, now)?;
        event(tx, now, id, "added", "")?;
        Ok(id)
    })?;
    let name = &given.name;
    let next = match given.manual {
        true => format!("it gets no jobs before `buildd-slave master builder auto {name}`"),
        false => "`buildd-slave master run` looks at it from now on".to_owned(),
    };
    let json = json!({"id": id, "name": name, "url": shown_url(&url), "manual": given.manual});
    screen.done(
        format_args!("{name} is added, not looked at yet; {next}"),
        &json,
    )
}

/// Finds what a builder is said to run.
fn processors(tx: &mut Tx<'_>, words: &[String]) -> Result<Vec<i64>, db::Error> {
    let known = series::processors(tx)?;
    let there = || known.iter().map(|(_, name, _)| name.clone()).collect();
    let make = "`master arch add SERIES ARCH` makes them";
    if let ([], [(only, _, _)]) = (words, &known[..]) {
        return Ok(vec![*only]);
    }
    if words.is_empty() {
        let there: Vec<String> = there();
        let names = match there.is_empty() {
            true => format!("there is none yet; {make}"),
            false => format!("known: {}", there.join(", ")),
        };
        return Err(refuse(format!("which --processor has it? ({names})")));
    }
    let mut found = Vec::new();
    for word in words {
        let processor = known.iter().find(|(_, name, _)| name == word);
        let Some((id, _, _)) = processor else {
            return Err(refuse(names::unknown("processor", word, there(), make)));
        };
        if !found.contains(id) {
            found.push(*id);
        }
    }
    Ok(found)
}

/// Returns the URL of a slave as it is kept: whole, with its credentials and a slash at the end.
fn full_url(text: &str) -> Result<String, String> {
    let url = SlaveUrl::parse(text).map_err(|error| error.to_string())?;
    let (scheme, rest) = url.base.split_once("://").unwrap_or(("http", &url.base));
    let given = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = given.split('/').next().unwrap_or_default();
    let userinfo = authority.rfind('@').and_then(|at| authority.get(..=at));
    let userinfo = userinfo.unwrap_or_default();
    Ok(format!("{scheme}://{userinfo}{rest}/"))
}

/// Changes a builder and notes it; returns builder and job as they were.
fn alter(
    site: &Site,
    name: &str,
    kind: &str,
    why: &str,
    change: impl Fn(&mut Tx<'_>, &Builder, i64) -> Result<(), db::Error>,
) -> Result<(Builder, Option<Job>), Error> {
    let altered = site.db.write(|tx| {
        let (builder, job) = find_builder(tx, name)?;
        if !builder.active {
            return Err(refuse(format!(
                "{name} was removed; `builder add` takes it back"
            )));
        }
        let now = now_ms();
        change(tx, &builder, now)?;
        event(tx, now, builder.id, kind, why)?;
        Ok((builder, job))
    })?;
    Ok(altered)
}

fn event(tx: &mut Tx<'_>, now: i64, id: i64, kind: &str, why: &str) -> Result<(), db::Error> {
    let who = status::who();
    let message = match why {
        "" => format!("{kind} by {who}"),
        why => format!("{kind} by {who}: {why}"),
    };
    events::add(
        tx,
        &NewEvent {
            builder: Some(id),
            ..NewEvent::info(now, kind, &message)
        },
    )
}

fn tell(screen: Screen, builder: &Builder, word: &str, rest: &str) -> Result<(), Error> {
    let json = json!({"name": &builder.name, "state": word});
    screen.done(format_args!("{} is {word}{rest}", builder.name), &json)
}

fn set_manual(site: &Site, screen: Screen, name: &str, manual: bool) -> Result<(), Error> {
    let word = if manual { "manual" } else { "automatic" };
    let change =
        |tx: &mut Tx<'_>, builder: &Builder, _| registry::set_manual(tx, builder.id, manual);
    let (builder, _) = alter(site, name, word, "", change)?;
    let rest = match builder.ok {
        true => "",
        false => ", and disabled: `builder enable` puts it into service",
    };
    tell(screen, &builder, word, rest)
}

/// Waits until a builder has no job.
fn wait_idle(site: &Site, builder: &Builder) -> Result<(), Error> {
    let mut warned = false;
    loop {
        let since = now_ms() - status::ALIVE_MS;
        let (found, live) = site.db.read(|tx| {
            let found = builders::view(tx, builder.id)?;
            Ok((found, registry::is_anybody_there(tx, since)?))
        })?;
        if found.is_none_or(|(_, job)| job.is_none()) {
            return Ok(());
        }
        if !live && !warned {
            warned = true;
            note(status::NOBODY);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_kept_whole_and_shown_without_password() {
        for (text, kept, shown) in [
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
            let url = full_url(text).unwrap();
            assert_eq!(url, kept);
            assert_eq!(shown_url(&url), shown);
            assert_eq!(full_url(&url).unwrap(), kept, "what is kept reads back");
        }
        let error = full_url("http://me:secret@/").unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
