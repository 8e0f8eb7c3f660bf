use std::fs;
use std::time::Duration;

use testkit::hub::Fault;
use weights::hub::{Hub, HubError, HubErrorKind, Settings, Wanted};

use crate::support::{Place, Recorder, large, pull, tree, wanted};

/// It failed so, in one line, and nothing is left that looks complete.
fn fails(place: &Place, settings: Settings, kind: HubErrorKind, mentions: &[&str]) -> HubError {
    let error = place.pull_with(settings, &["large.bin"], &()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(!text.contains('\n'), "{text}");
    for m in mentions {
        assert!(text.contains(m), "{m:?} is missing in: {text}");
    }
    assert!(!place.blob(&large()).exists(), "{text}");
    assert_eq!(place.cache().find("org/model", "large.bin"), None);
    assert!(!place.path("refs").exists());
    error
}

#[test]
fn damage_on_the_way_is_found_and_removed() {
    let place = Place::new();
    place.server.faults([Fault::Corrupt]);
    fails(&place, place.settings(), HubErrorKind::Model, &["large.bin is damaged", "was removed", "again"]);
    assert!(!place.unfinished(&large()).exists());
    place.pull().unwrap();
}

#[test]
fn what_the_hub_says_no_to() {
    let place = Place::new();
    let gone = place.pull_with(place.settings(), &["none.bin"], &()).unwrap_err();
    assert!(matches!(gone, HubError::NotFound { .. }) && gone.kind() == HubErrorKind::Network, "{gone}");
    let revision = Wanted { revision: Some("v9".to_owned()), ..wanted(&["large.bin"]) };
    let gone = pull(&Hub::new(place.settings()), &[revision], &()).unwrap_err();
    assert!(gone.to_string().contains("v9"), "{gone}");

    place.server.require_token("hf_secret");
    fails(&place, place.settings(), HubErrorKind::Network, &["refuses org/model (401)", "set HF_TOKEN to"]);
    let wrong = fails(&place, place.with_token("hf_wrong"), HubErrorKind::Network, &["check that the token"]);
    assert!(!wrong.to_string().contains("hf_wrong"));
    place.server.heads([403]);
    fails(&place, place.with_token("hf_secret"), HubErrorKind::Network, &["(403)", "/org/model"]);
    assert_eq!(tree(place.root.path()), [""; 0], "a refused pull writes nothing");
}

#[test]
fn a_hub_in_trouble_is_asked_again_and_given_up() {
    let place = Place::new();
    place.server.heads([500, 429]);
    let recorder = Recorder::default();
    place.pull_with(place.settings(), &["sub/small.json"], &recorder).unwrap();
    assert_eq!(recorder.count("Retry"), 2);
    place.server.heads([500; 3]);
    fails_alone(&place, &["status 500 3 times"]);
    place.server.heads([418]);
    fails_alone(&place, &["status 418;"]);
}

#[test]
fn the_server_says_how_long_to_wait() {
    for (header, seconds) in [
        ("retry-after: 0", "seconds: 0.0 "),
        ("date: Wed, 21 Oct 2026 07:28:00 GMT\r\nretry-after: Wed, 21 Oct 2026 07:28:01 GMT", "seconds: 1.0 "),
        ("ratelimit: \"api\";r=0;t=1", "seconds: 1.0 "),
    ] {
        let place = Place::new();
        place.server.refuse_with(header).heads([429]).faults([Fault::Status(429)]);
        let recorder = Recorder::default();
        place
            .pull_with(Settings { backoff: Duration::from_secs(7), ..place.settings() }, &["large.bin"], &recorder)
            .unwrap();
        let lines = recorder.lines.lock().unwrap();
        let told: Vec<_> = lines.iter().filter(|l| l.starts_with("Retry")).collect();
        assert_eq!(told.len(), 2, "asking and downloading");
        assert!(told.iter().all(|l| l.contains(seconds) && l.contains("status 429")), "{told:?}");
    }
}

#[test]
fn a_server_that_falls_silent_is_asked_again_from_there() {
    let place = Place::new();
    place.server.faults([Fault::Stall(Duration::from_secs(60))]);
    let settings = Settings { read_timeout: Duration::from_millis(500), ..place.settings() };
    let recorder = Recorder::default();
    let folder = place.pull_with(settings, &["large.bin"], &recorder).unwrap();
    assert_eq!(fs::read(folder.join("large.bin")).unwrap(), large());
    assert_eq!(recorder.count("Retry"), 1);
    let last = place.server.log().pop().unwrap();
    assert!(last.headers["range"].starts_with("bytes=1"), "{last:?}");
}

fn fails_alone(place: &Place, mentions: &[&str]) {
    let text = place.pull_with(place.settings(), &["large.bin"], &()).unwrap_err().to_string();
    assert!(mentions.iter().all(|m| text.contains(m)), "{text}");
}

#[test]
fn storage_in_trouble_is_given_up_and_kept() {
    let place = Place::new();
    place.server.faults([Fault::CutAfter(500_000)]).faults(vec![Fault::Status(503); 3]);
    fails(&place, place.settings(), HubErrorKind::Network, &["broke off at 500.0 kB of 3.0 MB", "503", "goes on"]);
    assert_eq!(fs::metadata(place.unfinished(&large())).unwrap().len(), 500_000);
    place.pull().unwrap();
}

#[test]
fn truncated_bodies_end_some_time() {
    let place = Place::new();
    place.server.faults(vec![Fault::CutAfter(0); 3]);
    fails(&place, place.settings(), HubErrorKind::Network, &["broke off at 0 B"]);
}

#[test]
fn lies_about_the_size_are_errors() {
    for fault in [Fault::Longer(10), Fault::LongerUnannounced(10)] {
        let place = Place::new();
        place.server.faults([fault]);
        let error = fails(&place, place.settings(), HubErrorKind::Model, &["announced with 3000017 B"]);
        assert!(matches!(error, HubError::Size { found: 3_000_027, .. }), "{error}");
        assert!(!place.unfinished(&large()).exists());
    }
    for size in [10, 4_000_000] {
        let place = Place::new();
        place.server.announce_size(size);
        fails(&place, place.settings(), HubErrorKind::Model, &["large.bin", "3000017 B"]);
    }
}

#[test]
fn offline_means_offline() {
    let place = Place::new();
    let offline = Settings { offline: true, ..place.settings() };
    fails(&place, offline.clone(), HubErrorKind::Network, &["large.bin of org/model", "HF_HUB_OFFLINE"]);
    assert_eq!(place.server.log(), []);
    place.pull().unwrap();
    let asked = place.server.log().len();
    assert_eq!(place.pull_with(offline, &["large.bin"], &()).unwrap(), place.snapshot());
    assert_eq!(place.server.log().len(), asked);
}

#[test]
fn a_full_disk_is_noticed_before_a_byte_is_sent() {
    let place = Place::new();
    let hub = Hub::new(place.settings()).with_free_space(|_| Ok(1_000_000));
    let error = pull(&hub, &[wanted(&["large.bin"])], &()).unwrap_err();
    assert!(matches!(error, HubError::NoSpace { .. }));
    let text = error.to_string();
    assert!(
        text.contains("1.0 MB free") && text.contains("271.4 MB are needed") && text.contains("HF_HUB_CACHE"),
        "{text}"
    );
    assert_eq!((place.server.downloads(), tree(place.root.path()).len()), (0, 0));
    place.pull().unwrap();
    pull(&hub, &[wanted(&["large.bin"])], &()).unwrap();
}

#[test]
fn sizes_that_no_disk_has_are_refused_as_such() {
    let place = Place::new();
    place.server.put("org/model", "other.bin", vec![3; 2000]).announce_size(u64::MAX);
    let hub = Hub::new(place.settings());
    let plan = hub.plan(&[wanted(&["large.bin", "other.bin"])], &()).unwrap();
    assert_eq!((plan.bytes().0, plan.missing().0), (u64::MAX, u64::MAX));
    assert!(matches!(plan.run(&()), Err(HubError::NoSpace { .. })));
    assert_eq!(place.server.downloads(), 0);
}

#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_on_the_way_is_told_with_what_to_do() {
    let place = Place::new();
    fs::create_dir_all(place.path("blobs")).unwrap();
    // A device that takes nothing: there is never room.
    std::os::unix::fs::symlink("/dev/full", place.unfinished(&large())).unwrap();
    let error =
        fails(&place, place.settings(), HubErrorKind::Other, &["is full: large.bin ends at 0 B of 3.0 MB", "goes on"]);
    assert!(matches!(error, HubError::Full { .. }), "{error:?}");
    fs::remove_file(place.unfinished(&large())).unwrap();
    place.pull().unwrap();
}

#[test]
fn nobody_is_there() {
    let place = Place::new();
    // No resolver is asked for a label of more than 63 letters.
    let nameless = format!("http://{}.invalid", "x".repeat(64));
    for (endpoint, mentions) in
        [("http://127.0.0.1:9", "refused"), (nameless.as_str(), ".invalid: its name cannot be resolved")]
    {
        let settings = Settings { endpoint: endpoint.to_owned(), tries: 2, ..place.settings() };
        fails(&place, settings, HubErrorKind::Network, &["cannot reach", mentions, "HF_ENDPOINT"]);
    }
    for endpoint in ["", "huggingface.co", "ftp://h", "file:///etc"] {
        let settings = Settings { endpoint: endpoint.to_owned(), ..place.settings() };
        fails(&place, settings, HubErrorKind::Usage, &["HF_ENDPOINT"]);
    }
    let settings = place.with_token("two words");
    let error = fails(&place, settings, HubErrorKind::Usage, &["HF_TOKEN"]);
    assert!(!error.to_string().contains("two words"));
}

#[test]
fn hostile_names_are_refused_before_anything_is_asked() {
    let place = Place::new();
    for file in ["../../evil", "/etc/passwd", "a/../../b", "", "a\\b"] {
        let error = place.pull_with(place.settings(), &[file], &()).unwrap_err();
        assert_eq!(error.kind(), HubErrorKind::Usage, "{file:?}: {error}");
        assert_eq!(place.cache().find("org/model", file), None);
        assert!(place.cache().remove("org/model", &[file]).is_err());
    }
    let repository = Wanted { repository: "../x".to_owned(), ..wanted(&["a"]) };
    assert!(pull(&Hub::new(place.settings()), &[repository], &()).is_err());
    assert_eq!(place.server.log(), []);
    // And a server's own.
    place.server.announce_etag("../../../evil");
    fails(&place, place.settings(), HubErrorKind::Usage, &["evil", "entity tag"]);
}

#[test]
fn a_cache_that_cannot_be_is_found_out_before_anything_is_asked() {
    let place = Place::new();
    let file = place.root.path().join("file");
    std::fs::write(&file, "").unwrap();
    let settings = Settings { cache: file.join("hub"), ..place.settings() };
    fails(&place, settings, HubErrorKind::Other, &["cannot create", "file/hub"]);
    assert_eq!(place.server.log(), []);
}
