use std::fs::{self, File, OpenOptions};

use testkit::hub::{COMMIT, etag};
use weights::hub::{Cache, Damage, HubError, Removed, WantedFile};

use crate::support::{Place, REPOSITORY, large, small, tree, wanted};

fn verify(place: &Place, files: &[WantedFile]) -> Vec<Option<Damage>> {
    let names: Vec<&str> = files.iter().map(|f| f.path.as_str()).collect();
    let found = place.cache().snapshot(REPOSITORY, Some(COMMIT), &names[..1]).unwrap();
    let checked = place.cache().verify(&found, files, &mut |_| Ok(())).unwrap();
    checked.into_iter().map(|c| c.damage).collect()
}

#[test]
fn main_is_preferred_and_the_newest_other_snapshot_will_do() {
    let place = Place::new();
    let cache = place.cache();
    assert_eq!(cache.find(REPOSITORY, "large.bin"), None);
    place.pull().unwrap();
    assert_eq!(cache.find(REPOSITORY, "large.bin"), Some(place.snapshot().join("large.bin")));
    let other = "f".repeat(40);
    fs::create_dir_all(place.path("snapshots").join(&other)).unwrap();
    fs::write(place.path("snapshots").join(&other).join("large.bin"), "other").unwrap();
    assert_eq!(cache.snapshot(REPOSITORY, None, &["large.bin"]).unwrap().commit, COMMIT);
    assert_eq!(cache.snapshot(REPOSITORY, Some(&other), &["large.bin"]).unwrap().commit, other);
    fs::remove_file(place.snapshot().join("large.bin")).unwrap();
    assert_eq!(cache.snapshot(REPOSITORY, None, &["large.bin"]).unwrap().commit, other);
    assert_eq!(cache.snapshot(REPOSITORY, Some("main"), &["large.bin"]), None);
    fs::write(place.path("refs/main"), "../../../../etc").unwrap();
    assert_eq!(cache.snapshot(REPOSITORY, Some("main"), &["sub/small.json"]), None);
    assert_eq!(Cache::new("/no/such").find("../..", "passwd"), None);
}

#[test]
fn damage_in_the_cache_is_found() {
    let place = Place::new();
    place.pull().unwrap();
    let mut files = wanted(&["large.bin", "sub/small.json"]).files;
    assert_eq!(verify(&place, &files), [None, None]);
    files[0].size_bytes = Some(5);
    files.push(WantedFile { path: "none.bin".to_owned(), ..WantedFile::default() });
    assert_eq!(verify(&place, &files), [Some(Damage::Size { expected: 5 }), None, Some(Damage::Missing)]);

    files.truncate(2);
    files[0].size_bytes = None;
    for bytes in [large(), small()] {
        let mut wrong = bytes.clone();
        wrong[7] ^= 1;
        fs::write(place.blob(&bytes), &wrong).unwrap();
    }
    let damage = verify(&place, &files);
    for (damage, bytes) in damage.iter().zip([large(), small()]) {
        assert!(matches!(damage, Some(Damage::Hash { expected, .. }) if *expected == etag(&bytes)), "{damage:?}");
    }
    files[0].sha256 = Some("ab".repeat(32));
    assert!(matches!(&verify(&place, &files)[0], Some(Damage::Hash { expected, .. }) if *expected == "ab".repeat(32)));
}

#[test]
fn removing_takes_the_models_files_and_leaves_those_of_others() {
    let place = Place::new();
    place.server.put(REPOSITORY, "twin.bin", large());
    place.pull_with(place.settings(), &["large.bin", "twin.bin", "sub/small.json"], &()).unwrap();
    let removed = place.cache().remove(REPOSITORY, &["large.bin", "sub/small.json", "none.bin"]).unwrap();
    // The twin needs the large blob, so only the small one goes.
    assert_eq!(removed, Removed { files: 3, bytes: small().len() as u64 });
    let blob = format!("blobs/{}", etag(&large()));
    assert_eq!(tree(&place.path("")), [blob, "refs/main".to_owned(), format!("snapshots/{COMMIT}/twin.bin")]);
    assert!(!place.snapshot().join("sub").exists());

    fs::write(place.path("blobs").join(format!("{}.incomplete", "a".repeat(64))), "half").unwrap();
    let removed = place.cache().remove(REPOSITORY, &["twin.bin"]).unwrap();
    assert_eq!(removed, Removed { files: 3, bytes: large().len() as u64 + 4 });
    assert!(!place.path("").exists());
    assert_eq!(place.cache().remove(REPOSITORY, &["twin.bin"]).unwrap(), Removed::default());
}

#[test]
fn unfinished_downloads_of_others_stay() {
    let place = Place::new();
    place.pull().unwrap();
    let other = place.path("blobs").join(format!("{}.incomplete", "a".repeat(64)));
    fs::write(&other, "half").unwrap();
    place.cache().remove(REPOSITORY, &["large.bin"]).unwrap();
    assert!(other.is_file(), "all that was to be removed was complete");
    place.cache().remove(REPOSITORY, &["large.bin", "sub/small.json"]).unwrap();
    assert!(!place.path("").exists(), "it may be of a file that is not here");
}

#[test]
fn a_snapshot_tells_its_files() {
    let place = Place::new();
    place.pull().unwrap();
    let found = || place.cache().snapshot(REPOSITORY, None, &[]).unwrap().files();
    assert_eq!(found(), ["large.bin", "sub/small.json"]);
    fs::remove_file(place.blob(&large())).unwrap();
    assert_eq!(found(), ["sub/small.json"], "a link whose content is gone does not count");
}

#[test]
fn a_download_that_goes_on_is_not_removed() {
    let place = Place::new();
    place.pull_with(place.settings(), &["large.bin"], &()).unwrap();
    let locks = place.root.path().join("hub/.locks/models--org--model");
    for name in ["a".repeat(64), format!("{}.0123abcd", "b".repeat(64))] {
        fs::write(place.path("blobs").join(format!("{name}.incomplete")), "half").unwrap();
        let lock = locks.join(format!("{}.lock", &name[..64]));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock).unwrap();
        file.lock().unwrap();
        let error = place.cache().remove(REPOSITORY, &["large.bin"]).unwrap_err();
        assert!(matches!(error, HubError::Busy { .. }), "{error}");
        assert!(place.snapshot().join("large.bin").is_file());
        drop(file);
        File::open(lock).unwrap();
    }
    place.cache().remove(REPOSITORY, &["large.bin"]).unwrap();
}

#[cfg(unix)]
#[test]
fn nothing_outside_the_cache_is_touched() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    place.pull().unwrap();
    let outside = place.root.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("small.json"), "precious").unwrap();
    let refused = |files: &[&str]| {
        let error = place.cache().remove(REPOSITORY, files).unwrap_err();
        assert!(matches!(error, HubError::OutsideCache { .. }), "{error}");
        assert_eq!(fs::read_to_string(outside.join("small.json")).unwrap(), "precious");
        assert!(place.snapshot().join("large.bin").symlink_metadata().is_ok(), "all or nothing");
    };
    // A link to a file, a link to a folder, a link in place of the repository.
    symlink(outside.join("small.json"), place.snapshot().join("evil.bin")).unwrap();
    refused(&["large.bin", "evil.bin"]);
    fs::remove_dir_all(place.snapshot().join("sub")).unwrap();
    symlink(&outside, place.snapshot().join("sub")).unwrap();
    refused(&["large.bin", "sub/small.json"]);
    fs::rename(place.path(""), outside.join("repository")).unwrap();
    symlink(outside.join("repository"), place.root.path().join("hub/models--org--model")).unwrap();
    refused(&["large.bin"]);
}
