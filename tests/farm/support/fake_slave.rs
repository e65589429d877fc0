//! The state and the cache of a fake slave, and how calls change them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use serde_json::{Value as Json, json};

use crate::support::{self, sha1};

/// The state of a slave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    Idle,
    /// Without `until`, the build runs until the test ends it.
    Building {
        cookie: String,
        until: Option<Instant>,
    },
    Aborting {
        cookie: String,
        until: Option<Instant>,
    },
    Waiting {
        cookie: String,
        result: Outcome,
    },
    /// A status that no slave has.
    Strange(String),
}

/// The outcome of a build.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    /// Without its prefix, such as `OK`.
    pub(crate) verdict: String,
    /// Names and hashes; the bytes are usually in the cache.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) dependencies: String,
}

/// The outcome of the next builds.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// The time they take; with `None`, they run until the test ends them.
    pub(crate) takes: Option<Duration>,
    pub(crate) verdict: String,
    /// The files they make; with `None`, a package with the name of the source.
    pub(crate) files: Option<Vec<(String, Vec<u8>)>>,
    /// The names and hashes that they report, if these differ from the files.
    pub(crate) claims: Option<Vec<(String, String)>>,
    pub(crate) dependencies: String,
    pub(crate) log: Vec<u8>,
}

impl Work {
    /// Builds that end at once, with this verdict.
    pub(crate) fn ends(verdict: &str) -> Self {
        Self {
            takes: Some(Duration::ZERO),
            verdict: verdict.to_owned(),
            files: None,
            claims: None,
            dependencies: String::new(),
            log: b"a log of the build\n".to_vec(),
        }
    }

    /// Builds that run until the test ends them.
    pub(crate) fn goes_on() -> Self {
        Self {
            takes: None,
            ..Self::ends("OK")
        }
    }

    pub(crate) fn log(self, text: &str) -> Self {
        Self {
            log: text.into(),
            ..self
        }
    }

    pub(crate) fn makes(self, files: Vec<(String, Vec<u8>)>) -> Self {
        Self {
            files: Some(files),
            ..self
        }
    }

    pub(crate) fn takes(self, time: Duration) -> Self {
        Self {
            takes: Some(time),
            ..self
        }
    }
}

/// The outcomes of the builds of a source, by `NAME_VERSION`, on any slave. Each build takes the
/// next outcome, and the last one repeats.
#[derive(Clone, Default)]
pub(crate) struct Plans(Arc<Mutex<HashMap<String, VecDeque<Work>>>>);

impl Plans {
    pub(crate) fn add(&self, source: &str, work: Work) {
        let mut plans = self.0.lock().unwrap();
        plans.entry(source.to_owned()).or_default().push_back(work);
    }

    fn next(&self, source: &str) -> Option<Work> {
        let mut plans = self.0.lock().unwrap();
        let line = plans.get_mut(source)?;
        match line.len() {
            1 => line.front().cloned(),
            _ => line.pop_front(),
        }
    }
}

/// A slave's whole state.
pub(crate) struct Slave {
    pub(crate) state: State,
    pub(crate) tag: String,
    /// The architectures that it says to emulate.
    pub(crate) emulated: Vec<&'static str>,
    pub(crate) version: Option<String>,
    /// Whether `status` answers with the tuples of 2008.
    pub(crate) tuple: bool,
    pub(crate) work: Work,
    /// These take precedence over `work`.
    pub(crate) plans: Plans,
    /// The time an abort takes; with `None`, it never ends.
    pub(crate) abort_takes: Option<Duration>,
    /// The hashes of `ensurepresent` calls.
    pub(crate) present: HashSet<String>,
    /// The files it serves, by name.
    pub(crate) files: HashMap<String, Arc<[u8]>>,
    pub(crate) accepted: Vec<String>,
    pub(crate) misdeeds: Vec<String>,
    /// The source of its build, as `NAME_VERSION`.
    pub(crate) source: String,
}

/// The source of a build that no master has requested.
const NAMELESS: &str = "nameless_0";

/// The reason why a slave refuses a call.
pub(super) struct Refusal(pub(super) i64, pub(super) String);

impl Slave {
    pub(super) fn new(tag: &str) -> Self {
        Self {
            state: State::Idle,
            tag: tag.to_owned(),
            emulated: Vec::new(),
            version: Some("4242".to_owned()),
            tuple: false,
            work: Work::ends("OK"),
            plans: Plans::default(),
            abort_takes: Some(Duration::ZERO),
            present: HashSet::new(),
            files: HashMap::new(),
            accepted: Vec::new(),
            misdeeds: Vec::new(),
            source: NAMELESS.to_owned(),
        }
    }

    /// Moves it to the state that is due by now.
    pub(crate) fn pass_time(&mut self) {
        let over = |until: &Option<Instant>| until.is_some_and(|until| until <= Instant::now());
        match self.state.clone() {
            State::Building { until, .. } if over(&until) => self.finish(),
            State::Aborting { cookie, until } if over(&until) => self.wait(
                &cookie,
                Outcome {
                    verdict: "ABORTED".to_owned(),
                    files: Vec::new(),
                    dependencies: String::new(),
                },
            ),
            _ => {}
        }
    }

    /// Ends the running build with the outcome in `work`.
    pub(crate) fn finish(&mut self) {
        let State::Building { cookie, .. } = self.state.clone() else {
            panic!("nothing is built: {:?}", self.state);
        };
        let made = self.work.files.clone();
        let made = match (made, self.work.verdict.as_str()) {
            (Some(made), _) => made,
            (None, "OK") => package(&self.source, &self.tag),
            (None, _) => Vec::new(),
        };
        let mut files = Vec::new();
        for (name, bytes) in made {
            let sum = sha1(&bytes);
            self.files.insert(sum.clone(), bytes.into());
            files.push((name, sum));
        }
        let result = Outcome {
            verdict: self.work.verdict.clone(),
            files: self.work.claims.clone().unwrap_or(files),
            dependencies: self.work.dependencies.clone(),
        };
        self.wait(&cookie, result);
    }

    /// Makes it wait with a finished build of that name.
    pub(crate) fn wait(&mut self, cookie: &str, result: Outcome) {
        let cookie = cookie.to_owned();
        self.state = State::Waiting { cookie, result };
    }

    fn cookie(&self) -> Option<&str> {
        match &self.state {
            State::Idle | State::Strange(_) => None,
            State::Building { cookie, .. }
            | State::Aborting { cookie, .. }
            | State::Waiting { cookie, .. } => Some(cookie),
        }
    }

    pub(super) fn file(&self, name: &str) -> Option<Arc<[u8]>> {
        match name {
            "buildlog" => self.cookie().map(|_| self.work.log.clone().into()),
            sum => self.files.get(sum).cloned(),
        }
    }

    /// Answers a call as a slave does.
    pub(super) fn answer(&mut self, method: &str, args: &[Json]) -> Result<Json, Refusal> {
        self.pass_time();
        match method {
            "echo" => Ok(json!(args)),
            "info" => {
                let kind = if self.tuple {
                    "debian"
                } else {
                    "binarypackage"
                };
                let emulated = self.emulated.iter().map(|tag| format!("emulate:{tag}"));
                let types: Vec<String> = [kind.to_owned()].into_iter().chain(emulated).collect();
                Ok(json!(["1.0", self.tag, types]))
            }
            "status" if self.tuple => Ok(self.status_tuple()),
            "status" => Ok(self.status_dict()),
            "status_dict" if !self.tuple => Ok(self.status_dict()),
            "ensurepresent" => {
                let sum = args[0].as_str().unwrap().to_owned();
                let news = self.present.insert(sum);
                Ok(json!([true, if news { "Download" } else { "Cache" }]))
            }
            "build" => self.build(args),
            "abort" => self.abort(),
            "clean" => self.clean(),
            other => Err(Refusal(8001, format!("procedure {other} not found"))),
        }
    }

    fn build(&mut self, args: &[Json]) -> Result<Json, Refusal> {
        let cookie = args[0].as_str().unwrap();
        if self.state != State::Idle {
            return Err(self.misdeed(format!("build({cookie})")));
        }
        let files = args[3].as_object().unwrap();
        let sums = files.values().chain([&args[2]]);
        for sum in sums.map(|sum| sum.as_str().unwrap()) {
            if !self.present.contains(sum) {
                let misdeed = format!("build({cookie}) without {sum}");
                self.misdeeds.push(misdeed);
                return Ok(json!(["BuilderStatus.UNKNOWNSUM", sum]));
            }
        }
        let dsc = files.keys().find_map(|name| name.strip_suffix(".dsc"));
        self.source = dsc.unwrap_or(NAMELESS).to_owned();
        if let Some(work) = self.plans.next(&self.source) {
            self.work = work;
        }
        self.accepted.push(cookie.to_owned());
        self.state = State::Building {
            cookie: cookie.to_owned(),
            until: self.work.takes.map(|time| Instant::now() + time),
        };
        Ok(json!(["BuilderStatus.BUILDING", cookie]))
    }

    fn abort(&mut self) -> Result<Json, Refusal> {
        let cookie = match &self.state {
            State::Building { cookie, .. } => cookie.clone(),
            State::Aborting { .. } => return Ok(json!("BuilderStatus.ABORTING")),
            _ => return Err(self.misdeed("abort".to_owned())),
        };
        let until = self.abort_takes.map(|time| Instant::now() + time);
        self.state = State::Aborting { cookie, until };
        Ok(json!("BuilderStatus.ABORTING"))
    }

    fn clean(&mut self) -> Result<Json, Refusal> {
        if !matches!(self.state, State::Waiting { .. }) {
            return Err(self.misdeed("clean".to_owned()));
        }
        self.state = State::Idle;
        self.files.clear();
        Ok(json!("BuilderStatus.IDLE"))
    }

    fn misdeed(&mut self, what: String) -> Refusal {
        let text = format!("error: {what} in {:?}", self.state);
        self.misdeeds.push(text.clone());
        Refusal(8002, text)
    }

    fn logtail(&self) -> Json {
        let tail = self.work.log.len().saturating_sub(2048);
        json!({"base64": BASE64_STANDARD.encode(&self.work.log[tail..])})
    }

    fn status_dict(&self) -> Json {
        let mut status = match &self.state {
            State::Idle => json!({"builder_status": "BuilderStatus.IDLE"}),
            State::Building { cookie, .. } => json!({
                "builder_status": "BuilderStatus.BUILDING",
                "build_id": cookie,
                "logtail": self.logtail(),
            }),
            State::Aborting { cookie, .. } => json!({
                "builder_status": "BuilderStatus.ABORTING",
                "build_id": cookie,
            }),
            State::Waiting { cookie, result } => {
                let mut status = json!({
                    "builder_status": "BuilderStatus.WAITING",
                    "build_id": cookie,
                    "build_status": format!("BuildStatus.{}", result.verdict),
                });
                if result.is_telling() {
                    status["filemap"] = result.filemap();
                    status["dependencies"] = json!(result.dependencies);
                }
                status
            }
            State::Strange(word) => json!({"builder_status": format!("BuilderStatus.{word}")}),
        };
        if let Some(version) = &self.version {
            status["builder_version"] = json!(version);
        }
        status
    }

    fn status_tuple(&self) -> Json {
        match &self.state {
            State::Idle => json!(["BuilderStatus.IDLE", ""]),
            State::Building { cookie, .. } => {
                json!(["BuilderStatus.BUILDING", cookie, self.logtail()])
            }
            State::Aborting { cookie, .. } => json!(["BuilderStatus.ABORTING", cookie]),
            State::Waiting { cookie, result } if result.verdict == "ABORTED" => {
                json!(["BuilderStatus.ABORTED", cookie])
            }
            State::Waiting { cookie, result } => {
                let verdict = format!("BuildStatus.{}", result.verdict);
                let mut items = vec![json!("BuilderStatus.WAITING"), json!(verdict)];
                items.push(json!(cookie));
                if result.is_telling() {
                    items.extend([result.filemap(), json!(result.dependencies)]);
                }
                Json::Array(items)
            }
            State::Strange(word) => json!([format!("BuilderStatus.{word}"), ""]),
        }
    }
}

impl Outcome {
    /// Whether the answer has files and dependencies for this verdict.
    fn is_telling(&self) -> bool {
        ["OK", "PACKAGEFAIL", "DEPFAIL"].contains(&self.verdict.as_str())
    }

    fn filemap(&self) -> Json {
        let member = |(name, sum): &(String, String)| (name.clone(), json!(sum));
        Json::Object(self.files.iter().map(member).collect())
    }
}

/// Makes the results of a build of `source`, as `NAME_VERSION`: a package and its `.changes`.
pub(crate) fn package(source: &str, tag: &str) -> Vec<(String, Vec<u8>)> {
    let (name, version) = source.split_once('_').unwrap_or((source, "0"));
    let deb = format!("{source}_{tag}.deb");
    let bytes = support::deb(name, name, version, tag);
    let files = [(deb.as_str(), bytes.as_slice())];
    let changes = changes(name, version, tag, &files);
    vec![
        (deb.clone(), bytes.clone()),
        (format!("{source}_{tag}.changes"), changes.into_bytes()),
    ]
}

/// Writes a `.changes` that lists `files`.
pub(crate) fn changes(name: &str, version: &str, tag: &str, files: &[(&str, &[u8])]) -> String {
    let mut text = format!(
        "Format: 1.8\nSource: {name}\nBinary: {name}\nArchitecture: {tag}\nVersion: {version}\n\
         Distribution: hoary\n"
    );
    text.push_str("Checksums-Sha1:\n");
    for (file, bytes) in files {
        text.push_str(&format!(" {} {} {file}\n", sha1(bytes), bytes.len()));
    }
    text.push_str("Files:\n");
    for (file, bytes) in files {
        let sum = md5(bytes);
        text.push_str(&format!(" {sum} {} devel optional {file}\n", bytes.len()));
    }
    text
}

/// Returns the MD5 of bytes, in hexadecimal.
pub(crate) fn md5(bytes: &[u8]) -> String {
    use md5::Digest as _;
    let sum = md5::Md5::digest(bytes);
    sum.iter().map(|byte| format!("{byte:02x}")).collect()
}
