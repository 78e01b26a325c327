use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tidewire_benches::demo::{self, Error, Options};

#[test]
fn what_makes_no_sense_ends_with_2_and_names_the_option() {
    let wrong = [
        (
            "--nodes 0: must be 1 to 5",
            Options {
                nodes: 0,
                ..Options::default()
            },
        ),
        (
            "--nodes 6: must be 1 to 5",
            Options {
                nodes: 6,
                ..Options::default()
            },
        ),
        (
            "kafka.bootstrap = \"k\"",
            Options {
                kafka: Some("k".to_owned()),
                ..Options::default()
            },
        ),
        (
            "--devices 0",
            Options {
                devices: 0,
                ..Options::default()
            },
        ),
        (
            "--interval 1ms",
            Options {
                interval: Duration::from_millis(1),
                ..Options::default()
            },
        ),
        (
            "--for 0ns",
            Options {
                duration: Duration::ZERO,
                ..Options::default()
            },
        ),
    ];
    for (named, options) in wrong {
        let mut out = Vec::new();
        let error = demo::run(&options, &mut out).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{named}");
        assert!(error.to_string().contains(named), "{error}");
        assert!(out.is_empty(), "{named}");
    }
}

#[test]
fn a_folder_in_use_is_not_taken_for_a_new_demo() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("precious"), "x").unwrap();
    let options = Options {
        data: Some(folder.path().to_owned()),
        ..Options::default()
    };

    let error = demo::run(&options, &mut Vec::new()).unwrap_err();

    assert!(matches!(error, Error::Usage(_)), "{error}");
    assert!(error.to_string().contains("not empty"), "{error}");
}

#[test]
fn a_node_that_ends_before_it_is_ready_fails_the_demo_and_its_words_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let node = folder.path().join("node");
    std::fs::write(
        &node,
        "#!/bin/sh\necho \"cannot $1: the disk is gone\" >&2\nexit 3\n",
    )
    .unwrap();
    std::fs::set_permissions(&node, std::fs::Permissions::from_mode(0o755)).unwrap();
    let options = Options {
        data: Some(folder.path().join("demo")),
        program: Some(node),
        ..Options::default()
    };

    let error = demo::run(&options, &mut Vec::new()).unwrap_err();

    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    assert!(
        error.to_string().contains("cannot serve: the disk is gone"),
        "{error}"
    );
}

#[test]
fn a_check_of_a_folder_without_a_demo_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let error = demo::check(folder.path()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("demo.json"), "{error}");
}
