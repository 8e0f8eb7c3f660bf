use testkit::hub::{COMMIT, Fault};
use weights::hub::{Hub, HubError, HubErrorKind, Listing, MAIN, Settings};

use crate::support::{Place, REPOSITORY, Recorder};

fn list(place: &Place, revision: Option<&str>) -> Result<Listing, HubError> {
    Hub::new(place.settings()).list(REPOSITORY, revision, &())
}

/// It failed so, in one line.
fn fails(place: &Place, kind: HubErrorKind, mentions: &[&str]) {
    let error = list(place, None).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    assert!(!text.contains('\n') && mentions.iter().all(|m| text.contains(m)), "{text}");
}

#[test]
fn a_repository_tells_its_files_and_their_commit() {
    let place = Place::new();
    let files = vec!["large.bin".to_owned(), "sub/small.json".to_owned()];
    let expected = Listing { commit: COMMIT.to_owned(), files };
    for revision in [None, Some(MAIN), Some(COMMIT)] {
        assert_eq!(list(&place, revision).unwrap(), expected);
    }
    let error = list(&place, Some("v9")).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }) && error.to_string().contains("v9"), "{error}");
    for (repository, revision) in [("../x", None), ("org/model", Some("../../x"))] {
        let error = Hub::new(place.settings()).list(repository, revision, &()).unwrap_err();
        assert_eq!(error.kind(), HubErrorKind::Usage, "{error}");
    }
}

#[test]
fn hostile_lists_are_refused() {
    for name in ["../../evil", "/etc/passwd", "a\\\\b", "a/../b", "", "a\\n"] {
        let place = Place::new();
        let siblings = format!("{{\"rfilename\":\"ok.bin\"}},{{\"rfilename\":\"{name}\"}}");
        place.server.announce_listing(&format!("{{\"sha\":\"{COMMIT}\",\"siblings\":[{siblings}]}}"));
        fails(&place, HubErrorKind::Network, &["which is no file inside a repository", "HF_ENDPOINT"]);
    }
    for (text, mentions) in [
        ("<html>".to_owned(), "cannot be read"),
        ("[]".to_owned(), "cannot be read"),
        (format!("{{\"sha\":\"{COMMIT}\"}}"), "cannot be read"),
        ("{\"sha\":\"../../x\",\"siblings\":[]}".to_owned(), "names no commit"),
    ] {
        let place = Place::new();
        place.server.announce_listing(&text);
        fails(&place, HubErrorKind::Network, &[mentions]);
    }
}

#[test]
fn lists_need_the_token_and_patience() {
    let place = Place::new();
    place.server.require_token("hf_secret");
    fails(&place, HubErrorKind::Network, &["refuses org/model (401)", "set HF_TOKEN"]);
    place.server.faults([Fault::Status(503), Fault::Status(429)]);
    let recorder = Recorder::default();
    let hub = Hub::new(place.with_token("hf_secret"));
    assert_eq!(hub.list(REPOSITORY, None, &recorder).unwrap().files.len(), 2);
    assert_eq!(recorder.count("Retry"), 2);
    place.server.faults(vec![Fault::Status(500); 3]);
    let error = hub.list(REPOSITORY, None, &()).unwrap_err();
    assert!(error.to_string().contains("status 500 3 times"), "{error}");
}

#[test]
fn a_list_that_moved_to_another_host_is_asked_for_without_the_token() {
    let place = Place::new();
    place.server.require_token("hf_secret").move_listings();
    Hub::new(place.with_token("hf_secret")).list(REPOSITORY, None, &()).unwrap();
    let log = place.server.log();
    assert_eq!(log.iter().map(|r| r.to_storage).collect::<Vec<_>>(), [false, true]);
    assert!(log.iter().all(|r| r.headers.contains_key("authorization") != r.to_storage), "{log:?}");
}

#[test]
fn offline_it_is_what_is_here() {
    let place = Place::new();
    let offline = || Hub::new(Settings { offline: true, ..place.settings() });
    let error = offline().list(REPOSITORY, None, &()).unwrap_err();
    assert!(error.to_string().contains("the list of files of org/model is not in"), "{error}");
    place.pull().unwrap();
    assert_eq!(offline().list(REPOSITORY, None, &()).unwrap().files, ["large.bin", "sub/small.json"]);
}
