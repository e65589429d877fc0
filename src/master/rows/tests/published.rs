//! The binaries published in an archive.

use super::farm::{NOW, farm};
use crate::db::tests::both;
use crate::dpkg::packages::Package;
use crate::dpkg::relations::Provided;
use crate::master::rows::published::{self, Binary, Existing, List};
use crate::master::rows::series;

#[test]
fn binaries_are_recorded_in_thousands_and_more_than_once() {
    both(|db| {
        let farm = farm(db);
        let list = List {
            arch_series: farm.arch_series[0],
            archive: farm.archive,
        };
        let binary = |number: usize, component: &str| Binary {
            package: Package {
                name: format!("lib{number}"),
                version: "1".to_owned(),
                provides: Provided::parse_all("x, y (= 2)"),
                ..Package::default()
            },
            component: component.to_owned(),
            source: format!("src{}", number % 2),
        };
        let publish = |component: &str, count: usize| {
            let all: Vec<Binary> = (0..count).map(|number| binary(number, component)).collect();
            db.write(|tx| published::publish(tx, list, &all, Existing::Update, NOW))
                .unwrap();
        };
        publish("main", 1001);
        publish("universe", 3);
        publish("universe", 0);
        let counted = db.read(published::counts).unwrap();
        let counts: Vec<(&str, i64)> = counted
            .iter()
            .map(|one| (one.component.as_str(), one.binaries))
            .collect();
        assert_eq!(counts, [("main", 998), ("universe", 3)]);
        let series = db.read(series::all).unwrap()[0].id;
        let of = |tag, source| {
            db.read(|tx| published::binaries_of(tx, series, tag, source))
                .unwrap()
                .len()
        };
        assert_eq!(
            (of("i386", "src1"), of("amd64", "src1"), of("i386", "x")),
            (500, 0, 0)
        );
    });
}
