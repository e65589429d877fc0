//! The published binaries that a dep-wait is compared with.

use super::farm::{NOW, farm};
use crate::db::params;
use crate::db::tests::both;
use crate::dpkg::packages::Package;
use crate::dpkg::relations::{MultiArch, Provided};
use crate::master::rows::depwaits;
use crate::master::rows::published::{self, Binary, Existing, List};

fn binary(name: &str, version: &str, provides: &str) -> Binary {
    Binary {
        package: Package {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: "i386".to_owned(),
            multi_arch: MultiArch::Allowed,
            provides: Provided::parse_all(provides),
        },
        component: "main".to_owned(),
        source: name.to_owned(),
    }
}

#[test]
fn packages_and_what_provides_them_are_found_in_the_archives_of_a_build() {
    both(|db| {
        let farm = farm(db);
        let sql = "INSERT INTO archive (distribution_id, owner, name, purpose)
            SELECT distribution_id, $1, 'ppa', 2 FROM archive WHERE id = $2 RETURNING id";
        let add = |owner: &str| {
            let added = db.write(|tx| tx.query_one(sql, &params![owner, farm.archive]));
            added.unwrap().get::<i64>(0).unwrap()
        };
        let (own, other) = (add("bob"), add("eve"));
        let arch_series = farm.arch_series[0];
        let publish = |archive: i64, binaries: &[Binary]| {
            let list = List {
                arch_series,
                archive,
            };
            db.write(|tx| published::publish(tx, list, binaries, Existing::Update, NOW))
                .unwrap();
        };
        publish(
            farm.archive,
            &[binary("a", "1", "v (= 7), w"), binary("a", "2", "")],
        );
        publish(own, &[binary("a", "3", "v:any"), binary("v", "1", "")]);
        publish(other, &[binary("v", "9", ""), binary("x", "9", "v")]);
        let wanted = |archive: i64, name: &str| (arch_series, archive, name.to_owned());
        let found =
            db.read(|tx| depwaits::published(tx, [wanted(own, "v"), wanted(farm.archive, "w")]));
        let mut shown: Vec<String> = found
            .unwrap()
            .iter()
            .map(|((_, _, name), known)| {
                let package = &known.package;
                let provides = package.provides.iter();
                let provides: Vec<_> = provides
                    .map(|entry| format!("{}={}", entry.name, entry.version))
                    .collect();
                assert_eq!(package.multi_arch, MultiArch::Allowed);
                let (provider, version) = (&package.name, &package.version);
                let archive = &known.archive;
                format!(
                    "{name}: {provider} {version} {archive} {}",
                    provides.join(",")
                )
            })
            .collect();
        shown.sort();
        // All versions of a provider, also those that provide nothing.
        let expected = [
            "v: a 1 primary v=7",
            "v: a 2 primary ",
            "v: a 3 bob/ppa v:any=",
            "v: v 1 bob/ppa ",
            "w: a 1 primary w=",
            "w: a 2 primary ",
        ];
        assert_eq!(shown, expected);
    });
}
