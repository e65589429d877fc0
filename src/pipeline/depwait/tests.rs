//! Tests of the cause of unmet dependencies, with package lists as archives have them.

use super::*;

const PACKAGES: &str = "\
Package: gcc
Architecture: amd64
Version: 4:12.2.0-3
Provides: c-compiler, gcc-api (= 12), gcc-abi (>= 3)
Description: x
 Package: no

Package: libbar-dev
Architecture: amd64
Version: 1

Package: libbar-dev
Architecture: amd64
Version: 1.5

Package: perl
Architecture: amd64
Multi-Arch: allowed
Version: 5.36.0-7

Package: libfoo-dev
Architecture: amd64
Multi-Arch: same
Version: 1.0-1
Conflicts: libfoo-legacy-dev

Package: libfoo-legacy-dev
Architecture: amd64
Version: 0.9-1
Conflicts: libfoo-dev

Package: tool
Architecture: i386
Multi-Arch: foreign
Version: 1

Package: libonly32
Architecture: i386
Multi-Arch: same
Version: 1

";

const AMD64: Target<'static> = Target {
    arch: "amd64",
    arch_indep: false,
    profiles: &[],
};

fn lists(packages: &str) -> PackageLists {
    let mut lists = PackageLists::new("amd64");
    packages.lines().for_each(|line| lists.feed(line));
    assert!(lists.finish());
    lists
}

fn cause_in(packages: &str, depends: &str, named: &[Named], profiles: &[&str]) -> Cause {
    let profiles: Vec<_> = profiles
        .iter()
        .map(|name| BuildProfile::parse(name).unwrap())
        .collect();
    let target = Target {
        profiles: &profiles,
        ..AMD64
    };
    let deps = BuildDeps::parse(&format!("Build-Depends: {depends}\n"), target).unwrap();
    deps.cause(named, &lists(packages))
}

fn check(depends: &str, expect: Cause) {
    assert_eq!(cause_in(PACKAGES, depends, &[], &[]), expect, "{depends}");
}

fn missing(line: &str) -> Cause {
    Cause::Missing(line.to_owned())
}

fn refused(text: &str) -> Cause {
    Cause::Refused(text.to_owned())
}

/// A dependency that apt names.
fn named(package: &str, relation: &str) -> Named {
    Named {
        package: package.to_owned(),
        group: Group::parse(relation, Spelling::Message).unwrap(),
    }
}

const MAIN_DUMMY: &str = "sbuild-build-depends-main-dummy";

fn all_there() -> Cause {
    refused("the package lists have all of them")
}

#[test]
fn what_the_lists_lack_is_missing() {
    check("gcc:native (>= 4:12), libbar-dev (>> 1.4~)", all_there());
    check("gcc,\n libbar-dev (>= 2)", missing("libbar-dev (>= 2)"));
    check(
        "nope:any (>= 1) [linux-any] <!nocheck> | nix [!i386], gcc",
        missing("nope (>= 1) | nix"),
    );
    check("nope | libbar-dev (= 1)", all_there());
    check("nope [i386], nope <cross>, nope [!amd64]", all_there());
    check("nope <!nocheck> <stage1>", missing("nope"));
    check("nope, gcc, nope:native", missing("nope"));
    check("no, libbar-dev (<< 1)", missing("no, libbar-dev (<< 1)"));
    // dpkg and apt read these obsolete forms of a .dsc as `<=` and `>=`.
    check("libbar-dev (< 1), libbar-dev (> 1.5)", all_there());
    check("libbar-dev (< 0.9)", missing("libbar-dev (<= 0.9)"));
    check("", all_there());
}

#[test]
fn a_provided_name_has_a_version_only_by_an_equals_sign() {
    check("c-compiler", all_there());
    check("c-compiler (>= 1)", missing("c-compiler (>= 1)"));
    check("gcc-api (>= 12), gcc-api", all_there());
    check("gcc-api (>> 12)", missing("gcc-api (>> 12)"));
    // apt ignores an entry with another operator.
    check("gcc-abi", missing("gcc-abi"));
}

#[test]
fn a_package_that_is_there_is_no_dep_wait_whatever_its_architecture() {
    let has = |name: &str, version: &str, wanted: &str| {
        refused(&format!(
            "the package lists have {name} {version}, but not as {wanted}"
        ))
    };
    check("perl:any", all_there());
    check("gcc:any (>= 4)", has("gcc", "4:12.2.0-3", "gcc:any"));
    check("gcc:armhf", has("gcc", "4:12.2.0-3", "gcc:armhf"));
    check("gcc:amd64, tool, libonly32:i386", all_there());
    // The package of another architecture does not satisfy an unqualified relation.
    check("libonly32", missing("libonly32"));
    check("gcc:any (>= 5:1)", missing("gcc (>= 5:1)"));
    // No master can tell when a package of another architecture appears.
    check("nope:armhf", all_there());
    check("nope:armhf | nada:any", missing("nada"));
    check("nope:amd64", missing("nope"));
}

#[test]
fn dependencies_that_conflict_are_refused() {
    let both = "libfoo-dev, libfoo-legacy-dev";
    let unmet = [
        named(MAIN_DUMMY, "libfoo-dev"),
        named(MAIN_DUMMY, "libfoo-legacy-dev"),
    ];
    let cause = cause_in(PACKAGES, both, &unmet, &[]);
    let why = "the package lists have libfoo-dev 1.0-1, which apt does not choose";
    assert_eq!(cause, refused(why));
}

#[test]
fn a_version_that_apt_does_not_choose_is_refused() {
    let unmet = [named(MAIN_DUMMY, "libbar-dev (>= 1.2)")];
    let cause = cause_in(PACKAGES, "gcc, libbar-dev (>= 1.2)", &unmet, &[]);
    let why = "the package lists have libbar-dev 1.5, which apt does not choose";
    assert_eq!(cause, refused(why));
}

#[test]
fn what_only_apt_names_is_looked_up_as_well() {
    let check = |unmet: &[Named], expect: Cause| {
        let cause = cause_in(PACKAGES, "gcc | nix", unmet, &[]);
        assert_eq!(cause, expect, "{unmet:?}");
    };
    // A dependency of a dependency.
    check(
        &[named("gcc", "libc6-dev (> 2)")],
        missing("libc6-dev (>> 2)"),
    );
    // sbuild's own dependency.
    check(
        &[named(MAIN_DUMMY, "build-essential:amd64")],
        missing("build-essential"),
    );
    // sbuild leaves out alternatives: the .dsc counts.
    let why = "the package lists have gcc 4:12.2.0-3, which apt does not choose";
    check(&[named(MAIN_DUMMY, "nix"), named("x", "gcc")], refused(why));
    check(&[named("", "nope")], missing("nope"));
}

#[test]
fn a_missing_dependency_of_a_dependency_is_found_with_and_without_apts_help() {
    let packages = "Package: a\nVersion: 1-1\nArchitecture: amd64\nPre-Depends: b\n\n\
        Package: b\nVersion: 2\nArchitecture: all\nDepends: c (>> 1) | d, e:any\n\n\
        Package: c\nVersion: 1\nArchitecture: amd64\n\n\
        Package: e\nVersion: 1\nArchitecture: amd64\nMulti-Arch: allowed\n";
    let expect = missing("c (>> 1) | d | b (>> 2) | a (>> 1-1)");
    assert_eq!(cause_in(packages, "a", &[], &[]), expect);
    let unmet = [named(MAIN_DUMMY, "a"), named("b", "c (> 1)")];
    assert_eq!(cause_in(packages, "a", &unmet, &[]), expect);
    // What is missing itself comes first.
    assert_eq!(cause_in(packages, "a, nope", &unmet, &[]), missing("nope"));
}

#[test]
fn dependencies_follow_the_active_profiles() {
    let check = |depends: &str, profiles: &[&str], expect: Option<&str>| {
        let cause = cause_in(PACKAGES, depends, &[], profiles);
        let expect = expect.map_or_else(all_there, missing);
        assert_eq!(cause, expect, "{depends} {profiles:?}");
    };
    check("nope <!nodoc>", &[], Some("nope"));
    check("nope <!nodoc>", &["nodoc"], None);
    check("nope <cross>", &["cross"], Some("nope"));
    check("nope <!nocheck !nodoc>", &["nodoc"], None);
    check("nope <!nocheck> <!nodoc>", &["nodoc"], Some("nope"));
    check("nope <!nocheck> <!nodoc>", &["nodoc", "nocheck"], None);
    check("nope <stage1 !nodoc>", &["stage1", "nodoc"], None);
}

#[test]
fn indep_dependencies_count_only_when_built() {
    let dsc = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nBuild-Depends-Arch: a\n\
               Build-Depends-Indep: b,\n c\n-----BEGIN PGP SIGNATURE-----\n\
               -----END PGP SIGNATURE-----\n";
    let check = |indep, expect: &str| {
        let target = Target {
            arch_indep: indep,
            ..AMD64
        };
        let deps = BuildDeps::parse(dsc, target).unwrap();
        assert_eq!(deps.cause(&[], &lists("")), missing(expect));
    };
    check(false, "a");
    check(true, "a, b, c");
    let error = BuildDeps::parse("Build-Depends: a b\n", AMD64).unwrap_err();
    assert!(
        error.to_string().starts_with("Build-Depends, line 1: "),
        "{error}"
    );
}
