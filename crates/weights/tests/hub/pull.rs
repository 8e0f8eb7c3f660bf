use std::fs;
use std::time::Duration;

use testkit::hub::{COMMIT, Fault, etag};
use weights::hub::{Bytes, Hub, HubError, HubErrorKind, Settings, Wanted, WantedFile};

use crate::support::{Place, REPOSITORY, Recorder, large, pull, small, tree, wanted};

#[test]
fn a_pull_writes_what_pythons_library_writes() {
    let place = Place::new();
    let folder = place.pull().unwrap();
    assert_eq!(folder, place.snapshot());
    let mut expected = vec![
        format!("blobs/{}", etag(&large())),
        format!("blobs/{}", etag(&small())),
        "refs/main".to_owned(),
        format!("snapshots/{COMMIT}/large.bin"),
        format!("snapshots/{COMMIT}/sub/small.json"),
    ];
    expected.sort();
    assert_eq!(tree(&place.path("")), expected);
    assert_eq!(fs::read_to_string(place.path("refs/main")).unwrap(), COMMIT);
    assert_eq!(fs::read(folder.join("large.bin")).unwrap(), large());
    assert_eq!(fs::read(folder.join("sub/small.json")).unwrap(), small());
    let lock = place.root.path().join("hub/.locks/models--org--model").join(format!("{}.lock", etag(&large())));
    assert!(lock.is_file());
    let tag = fs::read_to_string(place.root.path().join("hub/CACHEDIR.TAG")).unwrap();
    assert!(tag.starts_with("Signature: 8a477f597d28d172789f06886806bc55\n"));
    #[cfg(unix)]
    {
        let link = |path: &str| fs::read_link(folder.join(path)).unwrap().to_str().unwrap().to_owned();
        assert_eq!(link("large.bin"), format!("../../blobs/{}", etag(&large())));
        assert_eq!(link("sub/small.json"), format!("../../../blobs/{}", etag(&small())));
    }
}

#[test]
fn a_second_pull_asks_but_gets_nothing() {
    let place = Place::new();
    place.pull().unwrap();
    let hub = Hub::new(place.settings());
    let plan = hub.plan(&[wanted(&["large.bin", "sub/small.json"])], &()).unwrap();
    assert_eq!((plan.missing(), plan.bytes()), (Bytes(0), Bytes(3_000_017 + 16)));
    plan.run(&()).unwrap();
    assert_eq!(place.server.downloads(), 1);
}

#[test]
fn a_commit_that_is_here_needs_no_network() {
    let place = Place::new();
    place.pull().unwrap();
    let settings = Settings { endpoint: "http://127.0.0.1:9".to_owned(), ..place.settings() };
    let fixed = Wanted { revision: Some(COMMIT.to_owned()), ..wanted(&["large.bin"]) };
    assert_eq!(pull(&Hub::new(settings), &[fixed], &()).unwrap(), place.snapshot());
}

#[test]
fn a_commit_gets_no_ref_and_is_found_without_one() {
    let place = Place::new();
    let fixed = Wanted { revision: Some(COMMIT.to_owned()), ..wanted(&["large.bin"]) };
    pull(&Hub::new(place.settings()), &[fixed], &()).unwrap();
    assert!(!place.path("refs").exists());
    assert_eq!(place.cache().find(REPOSITORY, "large.bin"), Some(place.snapshot().join("large.bin")));
    assert_eq!(place.cache().find(REPOSITORY, "sub/small.json"), None);
}

#[test]
fn a_cut_connection_is_taken_up_where_it_ended() {
    let place = Place::new();
    place.server.faults([Fault::CutAfter(1_500_000), Fault::Status(503), Fault::CutAfter(1_000_000)]);
    let recorder = Recorder::default();
    let folder = place.pull_with(place.settings(), &["large.bin"], &recorder).unwrap();
    assert_eq!(fs::read(folder.join("large.bin")).unwrap(), large());
    assert_eq!(recorder.count("Retry"), 3);
    let ranges: Vec<_> =
        place.server.log().iter().filter(|r| r.to_storage).map(|r| r.headers.get("range").cloned()).collect();
    let range = |start: usize| Some(format!("bytes={start}-"));
    assert_eq!(ranges, [None, range(1_500_000), range(1_500_000), range(2_500_000)]);
}

#[test]
fn a_cancelled_pull_goes_on_later() {
    let place = Place::new();
    let recorder = Recorder { cancel_at: Some(1_000_000), ..Recorder::default() };
    let error = place.pull_with(place.settings(), &["large.bin"], &recorder).unwrap_err();
    assert_eq!(error.kind(), HubErrorKind::Cancelled);
    assert!(error.to_string().contains("goes on from there"), "{error}");
    let here = fs::metadata(place.unfinished(&large())).unwrap().len();
    assert!((1_000_000..3_000_017).contains(&here), "{here}");
    assert_eq!(place.cache().unfinished(REPOSITORY), [(etag(&large()), here)]);
    assert_eq!(place.cache().find(REPOSITORY, "large.bin"), None);
    assert!(!place.path("refs").exists(), "a ref must not lead to a snapshot that is not complete");

    let hub = Hub::new(place.settings());
    let plan = hub.plan(&[wanted(&["large.bin"])], &()).unwrap();
    assert_eq!(plan.missing(), Bytes(3_000_017 - here));
    plan.run(&()).unwrap();
    assert_eq!(fs::read(place.snapshot().join("large.bin")).unwrap(), large());
    assert_eq!(place.server.log().last().unwrap().headers["range"], format!("bytes={here}-"));
    assert!(!place.unfinished(&large()).exists());
}

#[test]
fn a_server_without_parts_sends_it_again() {
    let place = Place::new();
    place.server.faults([Fault::CutAfter(2_000_000), Fault::WholeFile]);
    place.pull().unwrap();
    assert_eq!(fs::read(place.snapshot().join("large.bin")).unwrap(), large());
}

#[test]
fn wrong_bytes_of_an_earlier_run_are_thrown_away() {
    let place = Place::new();
    fs::create_dir_all(place.path("blobs")).unwrap();
    for wrong in [vec![1; 1_000_000], vec![1; 3_000_017], vec![1; 4_000_000]] {
        let _ = fs::remove_file(place.blob(&large()));
        fs::write(place.unfinished(&large()), wrong).unwrap();
        place.pull().unwrap();
        assert_eq!(fs::read(place.snapshot().join("large.bin")).unwrap(), large());
    }
}

#[test]
fn the_token_goes_to_the_hub_only_and_ranges_go_everywhere() {
    let place = Place::new();
    place.server.require_token("hf_secret").faults([Fault::CutAfter(100_000)]);
    place.pull_with(place.with_token("hf_secret"), &["large.bin", "sub/small.json"], &()).unwrap();
    let log = place.server.log();
    assert!(log.iter().any(|r| r.to_storage));
    for request in log {
        let shown = request.headers.contains_key("authorization");
        assert_eq!(shown, !request.to_storage, "{request:?}");
        assert_eq!(request.headers["accept-encoding"], "identity");
    }
}

#[test]
fn pulls_at_the_same_time_download_once() {
    let place = Place::new();
    place.server.delay(Duration::from_millis(300));
    std::thread::scope(|scope| {
        for pull in [(); 4].map(|()| scope.spawn(|| place.pull())) {
            assert_eq!(pull.join().unwrap().unwrap(), place.snapshot());
        }
    });
    assert_eq!(place.server.downloads(), 1);
    assert_eq!(fs::read(place.snapshot().join("large.bin")).unwrap(), large());
}

#[test]
fn files_of_several_repositories_make_one_plan() {
    let place = Place::new();
    place.server.put("other/tokens", "tokenizer.json", "{}").put("other/tokens", "empty", "");
    let other = Wanted { repository: "other/tokens".to_owned(), ..wanted(&["tokenizer.json", "empty"]) };
    let hub = Hub::new(place.settings());
    let plan = hub.plan(&[wanted(&["large.bin"]), other], &()).unwrap();
    assert_eq!((plan.files().len(), plan.bytes()), (3, Bytes(3_000_019)));
    plan.run(&()).unwrap();
    assert!(plan.folder("other/tokens").unwrap().join("empty").is_file());
    assert_eq!(plan.folder("third/one"), None);
}

#[test]
fn files_of_one_content_are_linked_side_by_side() {
    let place = Place::new();
    let names: Vec<String> = (0..40).map(|i| format!("twins/{i}.bin")).collect();
    for name in &names {
        place.server.put(REPOSITORY, name, vec![7; 2000]);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let folder = place.pull_with(Settings { connections: 16, ..place.settings() }, &names, &()).unwrap();
    assert!(names.iter().all(|n| fs::read(folder.join(n)).unwrap() == vec![7; 2000]));
    assert_eq!((place.server.downloads(), tree(&folder).len()), (1, 40));
}

#[test]
fn at_most_so_many_files_come_at_the_same_time() {
    let place = Place::new();
    let names: Vec<String> = (0..6).map(|i| format!("{i}.bin")).collect();
    for (i, name) in names.iter().enumerate() {
        place.server.put(REPOSITORY, name, vec![i as u8; 100_000]);
    }
    place.server.delay(Duration::from_millis(100));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let recorder = Recorder::default();
    place.pull_with(Settings { connections: 2, ..place.settings() }, &names, &recorder).unwrap();
    let (mut open, mut most) = (0i32, 0);
    for line in recorder.lines.lock().unwrap().iter() {
        open += i32::from(line.starts_with("FileStarted")) - i32::from(line.starts_with("FileFinished"));
        most = most.max(open);
    }
    assert_eq!((open, most), (0, 2));
    assert!(recorder.lines.lock().unwrap().iter().all(|l| l.contains("repository: \"org/model\"")));
}

#[test]
fn what_is_known_must_be_what_the_hub_has() {
    let place = Place::new();
    let with = |size_bytes: Option<u64>, sha256: Option<String>| {
        let file = WantedFile { path: "large.bin".to_owned(), size_bytes, sha256 };
        pull(&Hub::new(place.settings()), &[Wanted { files: vec![file], ..wanted(&[]) }], &())
    };
    for wrong in [with(Some(5), None), with(Some(3_000_017), Some("ab".repeat(32)))] {
        let error = wrong.unwrap_err();
        assert!(matches!(error, HubError::Changed { .. }), "{error}");
        assert!(error.to_string().contains("--revision"));
    }
    assert_eq!(place.server.downloads(), 0);
    with(Some(3_000_017), Some(etag(&large()))).unwrap();
}

#[test]
fn a_mirrors_tag_that_is_no_hash_is_checked_against_the_known_one() {
    let place = Place::new();
    place.server.announce_etag("mirror-1");
    let with = |sha256: String| {
        let file = WantedFile { path: "large.bin".to_owned(), size_bytes: None, sha256: Some(sha256) };
        pull(&Hub::new(place.settings()), &[Wanted { files: vec![file], ..wanted(&[]) }], &())
    };
    assert!(matches!(with("ab".repeat(32)), Err(HubError::Checksum { .. })));
    assert!(with(etag(&large())).unwrap().join("large.bin").is_file());
    assert!(place.path("blobs/mirror-1").is_file());
}
