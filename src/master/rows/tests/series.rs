//! Series, their architectures and chroots.

use super::farm::{Farm, NOW, farm};
use crate::db::params;
use crate::db::tests::both;
use crate::master::model::{Pocket, SeriesStatus};
use crate::master::rows::files::Content;
use crate::master::rows::{archives, series};

#[test]
fn architectures_are_listed_with_families_and_chroots() {
    both(|db| {
        let farm = farm(db);
        db.write(|tx| {
            let sql = "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                VALUES ($1, $2, $3, 0)";
            tx.execute(sql, &params![farm.arch_series[0], 10, farm.alias])?;
            tx.execute(sql, &params![farm.arch_series[1], 0, None::<i64>])
        })
        .unwrap();
        let all = db.read(series::architectures).unwrap();
        let known = |one: &series::ArchSeries| {
            let has_chroot = !one.chroots.is_empty();
            (one.tag.clone(), one.family.clone(), has_chroot)
        };
        let all: Vec<_> = all.iter().map(known).collect();
        let of = |tag: &str, family: &str, has| (tag.to_owned(), family.to_owned(), has);
        assert_eq!(all, [of("amd64", "amd64", false), of("i386", "x86", true)]);
    });
}

#[test]
fn chroots_are_replaced_and_removed() {
    both(|db| {
        let Farm {
            arch_series: [arch, _],
            alias,
            ..
        } = farm(db);
        let set = |pocket| {
            db.write(|tx| series::set_chroot(tx, arch, pocket, alias, NOW))
                .unwrap()
        };
        set(Pocket::Release);
        set(Pocket::Release);
        set(Pocket::Security);
        let found = db.read(series::chroots).unwrap();
        let pockets: Vec<Pocket> = found.iter().map(|one| one.pocket).collect();
        assert_eq!(pockets, [Pocket::Release, Pocket::Security]);
        assert_eq!(
            found[0].file.content,
            Some(Content {
                size: 3,
                sha1: "sha1-of-it".to_owned()
            })
        );
        let known = db.read(series::architectures).unwrap();
        assert_eq!(known[1].chroots, pockets, "{known:?}");
        let remove = |pocket| {
            db.write(|tx| series::remove_chroot(tx, arch, pocket))
                .unwrap()
        };
        assert!(remove(Pocket::Security) && !remove(Pocket::Security));
        assert_eq!(db.read(series::chroots).unwrap().len(), 1);
    });
}

#[test]
fn changes_of_series_and_archives_are_stored() {
    both(|db| {
        farm(db);
        let mut hoary = db.read(series::all).unwrap().remove(0);
        hoary.status = SeriesStatus::Current;
        hoary.nominated = Some("i386".to_owned());
        db.write(|tx| series::set(tx, &hoary)).unwrap();
        let found = db.read(series::all).unwrap().remove(0);
        assert_eq!(found.status, SeriesStatus::Current);
        assert_eq!(found.nominated.as_deref(), Some("i386"));
        let again = db
            .write(|tx| series::ensure_distribution(tx, "ubuntu"))
            .unwrap();
        assert_eq!(again, hoary.distribution_id);

        let mut archive = db.read(archives::all).unwrap().remove(0);
        archive.private = true;
        archive.relative_score = -7;
        db.write(|tx| {
            archives::set(tx, &archive)?;
            archives::set_secret(tx, archive.id, "s3cret")
        })
        .unwrap();
        let found = db.read(archives::all).unwrap().remove(0);
        assert!(found.private && found.has_secret && found.relative_score == -7);
        assert!(!format!("{found:?}").contains("s3cret"));
    });
}
