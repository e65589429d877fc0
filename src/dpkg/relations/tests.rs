//! Tests of relations, alone and compared with dpkg.

use std::io::Write as _;
use std::process::{Command, Stdio};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;

use super::*;

fn printed(text: &str, spelling: Spelling) -> String {
    Relations::parse(text, spelling).unwrap().to_string()
}

#[test]
fn a_single_angle_is_strict_only_in_messages() {
    use Spelling::{Control, Message};
    for (text, control, message) in [
        ("a (< 1)", "a (<= 1)", "a (<< 1)"),
        ("a(>1)", "a (>= 1)", "a (>> 1)"),
        ("a ( << 1 )", "a (<< 1)", "a (<< 1)"),
        ("a (>> 1)", "a (>> 1)", "a (>> 1)"),
        (
            "a (<= 1), a (>= 1),, a (=1)",
            "a (<= 1), a (>= 1), a (= 1)",
            "a (<= 1), a (>= 1), a (= 1)",
        ),
    ] {
        assert_eq!(printed(text, Control), control);
        assert_eq!(printed(text, Message), message);
    }
}

#[test]
fn every_part_of_a_relation_is_parsed() {
    let text = "a:any (>= 1:2~rc1-3) [linux-any !i386] <!nocheck stage1> <cross> | b.c+d:armhf";
    assert_eq!(printed(text, Spelling::Control), text);
    assert_eq!(
        printed(" a\n[i386]<x>|\tb ", Spelling::Control),
        "a [i386] <x> | b"
    );
    let relations = Relations::parse(
        "a:any (> 1) [x] <y> | b, c, a (>> 1) | b",
        Spelling::Message,
    );
    assert_eq!(relations.unwrap().for_master(), "a (>> 1) | b, c");
}

#[test]
fn damaged_relations_are_refused() {
    for (text, problem) in [
        ("a b", "\"a b\" has \"b\" at its end"),
        ("a | ", "\"\" names no package"),
        ("(>= 1)", "names no package"),
        ("-a", "names no package"),
        ("${misc:Depends}", "names no package"),
        ("a:", "has no architecture after the colon"),
        ("a (>= 1", "has `(` without `)`"),
        ("a [i386", "has `[` without `]`"),
        ("a <x", "has `<` without `>`"),
        ("a <>", "has a build profile that is no name"),
        ("a [i3/86]", "has an architecture that is no name"),
        ("a (>= )", "has no valid version: \"\""),
        ("a (>= 1 2)", "has no valid version: \"1 2\""),
        ("a (1)", "has no operator of versions: \"\""),
        ("a (=> 1)", "has no operator of versions: \"=>\""),
        ("a (>= 1) (<< 2)", "has \"(<< 2)\" at its end"),
    ] {
        let error = Relations::parse(text, Spelling::Control).unwrap_err();
        assert!(error.contains(problem), "{text}: {error}");
    }
}

#[test]
fn architecture_lists_are_read_like_dpkg() {
    let check = |list: &str, arch: &str, expect: bool| {
        let group = Group::parse(&format!("a [{list}]"), Spelling::Control).unwrap();
        assert_eq!(group.applying(arch, &[]).is_some(), expect, "{list} {arch}");
    };
    check("i386 amd64", "amd64", true);
    check("i386", "amd64", false);
    check("!i386", "amd64", true);
    check("!i386 !amd64", "amd64", false);
    check("linux-any", "amd64", true);
    check("!any-amd64", "amd64", false);
    check("", "amd64", true);
    // The first word that matches decides.
    check("!amd64 linux-any", "amd64", false);
    check("linux-any !amd64", "amd64", true);
}

#[test]
fn entries_of_provides_that_apt_ignores_are_left_out() {
    let entries = Provided::parse_all("b (= 1), a, a,, c (>= 1), (x), d:any (= 2) ");
    let shown: Vec<String> = entries
        .iter()
        .map(|one| format!("{}|{}|{}", one.bare_name(), one.qualifier(), one.version))
        .collect();
    assert_eq!(shown, ["a||", "b||1", "d|any|2"]);
    let again = entries.iter();
    let again =
        again.map(|one| Provided::of(one.bare_name(), one.qualifier(), one.version.clone()));
    assert_eq!(again.collect::<Vec<_>>(), entries);
}

/// The versions that random relations and packages have.
const VERSIONS: [&str; 12] = [
    "1",
    "1.0",
    "1.2-1",
    "1.2-1+b1",
    "1.2~rc1-1",
    "1.10",
    "1:0.5",
    "0:1.2-1",
    "2",
    "2.0-0",
    "2a",
    "2+b",
];

fn term() -> impl Strategy<Value = String> {
    let words = select(vec![
        "i386",
        "amd64",
        "linux-any",
        "any-arm",
        "nocheck",
        "stage1",
    ]);
    (any::<bool>(), words).prop_map(|(no, word)| format!("{}{word}", if no { "!" } else { "" }))
}

fn relation(names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let operators = select(vec!["<<", "<=", "=", ">=", ">>"]);
    (
        select(names),
        select(vec!["", "", "", ":any", ":native", ":i386", ":amd64"]),
        prop::option::of((operators, select(&VERSIONS[..]))),
    )
        .prop_map(|(name, qualifier, version)| {
            let version = version.map(|(operator, version)| format!(" ({operator} {version})"));
            format!("{name}{qualifier}{}", version.unwrap_or_default())
        })
}

fn restricted() -> impl Strategy<Value = String> {
    let list = vec(term(), 0..3);
    let formulas = vec(vec(term(), 1..3), 0..3);
    (relation(&["a", "b", "lib-c++.1"]), list, formulas).prop_map(|(relation, list, formulas)| {
        let list = match list.as_slice() {
            [] => String::new(),
            list => format!(" [{}]", list.join(" ")),
        };
        let formulas = formulas
            .iter()
            .map(|formula| format!(" <{}>", formula.join(" ")));
        format!("{relation}{list}{}", formulas.collect::<String>())
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_parsed_back(groups in vec(vec(restricted(), 1..4), 0..4)) {
        let groups: Vec<String> = groups.iter().map(|group| group.join(" | ")).collect();
        // Only the spelling of an epoch may differ.
        let text = groups.join(", ").replace("0:1.2", "1.2");
        for spelling in [Spelling::Control, Spelling::Message] {
            let relations = Relations::parse(&text, spelling).unwrap();
            prop_assert_eq!(relations.to_string(), &text[..]);
            let line = relations.for_master();
            let again = Relations::parse(&line, spelling).unwrap();
            prop_assert_eq!(again.for_master(), &line[..]);
            prop_assert_eq!(again.to_string(), line);
        }
    }
}

/// Judges lines `RELATION\tNAME\tVERSION\tARCH\tMULTIARCH\tPROVIDES`: 1 if the package satisfies
/// the relation on amd64.
const DPKG: &str = r#"
use Dpkg::Deps;
while (<STDIN>) {
    chomp;
    my ($relation, $name, $version, $arch, $ma, $provides) = split(/\t/, $_, -1);
    my %options = (host_arch => 'amd64', build_arch => 'amd64', build_dep => 1, tests_dep => 1);
    my $facts = Dpkg::Deps::KnownFacts->new();
    $facts->add_installed_package($name, $version, $arch, $ma);
    my $list = deps_parse($provides, %options, virtual => 1, union => 1);
    for my $entry ($list->get_deps()) {
        $facts->add_provided_package($entry->{package}, $entry->{relation}, $entry->{version}, $name);
    }
    my $dep = deps_parse($relation, %options);
    my $answer = $dep->get_evaluation($facts);
    print defined $answer ? $answer : '?', "\n";
}
"#;

/// One package and one relation.
type Case = (String, [String; 4], String);

fn case() -> impl Strategy<Value = Case> {
    let names: &[&str] = &["a", "virtual", "real-api"];
    let package = (
        select(names),
        select(&VERSIONS[..]),
        select(vec!["amd64", "i386", "all"]),
        select(vec!["no", "same", "foreign", "allowed"]),
    );
    let provides = select(vec![
        "",
        "virtual",
        "real-api (= 1.2-1)",
        "virtual (= 2), real-api",
    ]);
    (relation(names), package, provides).prop_map(|(relation, package, provides)| {
        let (name, version, arch, multi_arch) = package;
        let package = [name, version, arch, multi_arch].map(str::to_owned);
        (relation, package, provides.to_owned())
    })
}

/// True where apt deliberately differs from dpkg.
fn is_of_apt((relation, package, provides): &Case) -> bool {
    let [_, _, arch, multi_arch] = package;
    let qualified = relation.contains(':') && !relation.contains(":native");
    let relation = Relation::parse(relation, Spelling::Control).unwrap();
    let mut entries = Provided::parse_all(provides).into_iter();
    let provided = entries.any(|entry| entry.bare_name() == relation.name);
    // dpkg ignores the architecture of what is provided, and `all` is no `:amd64` to it. It takes
    // no foreign package for `:native`, while sbuild leaves `:native` out.
    let qualified = qualified && relation.qualifier.is_some();
    provided && (qualified || arch == "i386")
        || qualified && arch == "all"
        || relation.qualifier == Some(Qualifier::Native) && multi_arch == "foreign"
}

#[test]
fn relations_are_satisfied_as_in_dpkg() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let cases: Vec<Case> = (0..4000)
        .map(|_| case().new_tree(&mut runner).unwrap().current())
        .filter(|case| !is_of_apt(case))
        .collect();
    let mut input = String::new();
    let mut ours = Vec::new();
    for (relation, [name, version, arch, multi_arch], provides) in &cases {
        input.push_str(&format!(
            "{relation}\t{name}\t{version}\t{arch}\t{multi_arch}\t{provides}\n"
        ));
        let package = crate::dpkg::packages::Package {
            name: name.clone(),
            version: version.clone(),
            architecture: arch.clone(),
            multi_arch: MultiArch::parse(multi_arch),
            provides: Provided::parse_all(provides),
        };
        let relation = Relation::parse(relation, Spelling::Control).unwrap();
        let mut offers = package.offers(&relation.name);
        ours.push(offers.any(|offer| relation.is_satisfied_by(&offer, "amd64")));
    }
    let mut perl = Command::new("perl");
    perl.args(["-e", DPKG])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = perl.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), cases.len());
    for ((case, ours), answer) in cases.iter().zip(ours).zip(answers) {
        assert_eq!(ours, answer == "1", "{case:?}: dpkg says {answer}");
    }
}
