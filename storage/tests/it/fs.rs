//! The real file system and the model do the same; the model's disk forgets as it says.

use std::io::ErrorKind;
use std::path::Path;

use tidewire_storage::fs::{Fault, FaultFs, FaultKind, Fs, LockError, Operation, RealFs};

#[test]
fn the_real_file_system_and_the_model_do_the_same() {
    let scratch = tempfile::tempdir().expect("a scratch folder");
    behave(&RealFs, &scratch.path().join("a/b"));
    behave(&FaultFs::new(1), Path::new("/a/b"));
}

fn behave(fs: &dyn Fs, folder: &Path) {
    fs.create_dir_all(folder).expect("possible");
    fs.create_dir_all(folder).expect("again");
    let (one, two) = (folder.join("one"), folder.join("two"));
    let kind = |result: Result<_, tidewire_storage::fs::Error>| {
        result.map(|_| ()).expect_err("refused").kind()
    };

    assert_eq!(kind(fs.open(&one)), ErrorKind::NotFound);
    let file = fs.create(&one).expect("possible");
    assert_eq!(kind(fs.create(&one)), ErrorKind::AlreadyExists);
    assert!(file.is_empty().expect("possible"));
    file.write_at(3, b"lo world").expect("possible");
    file.write_at(0, b"hel").expect("possible");
    assert_eq!(file.append(b"!").expect("possible"), 11);
    assert_eq!(fs.read(&one).expect("possible"), b"hello world!");
    let mut buffer = [0; 20];
    assert_eq!(file.read_at(6, &mut buffer).expect("possible"), 6);
    assert_eq!(&buffer[..6], b"world!");
    assert_eq!(file.read_at(100, &mut buffer).expect("possible"), 0);

    file.set_len(5).expect("possible");
    file.preallocate(4, 4).expect("possible");
    assert_eq!(fs.read(&one).expect("possible"), b"hello\0\0\0");
    file.sync_data().expect("possible");

    fs.rename(&one, &two).expect("possible");
    fs.sync_dir(folder).expect("possible");
    assert!(!fs.exists(&one).expect("possible"));
    assert!(fs.exists(&two).expect("possible"));
    assert_eq!(fs.list(folder).expect("possible"), ["two"]);
    fs.unlink(&two).expect("possible");
    assert_eq!(file.len().expect("open handles go on"), 8);
    let gone = fs.unlink(&two).expect_err("gone").to_string();
    assert!(
        gone.starts_with("cannot unlink /") && gone.contains("two"),
        "{gone}"
    );

    let lock = fs.lock(folder).expect("free");
    let LockError::Held { pid, folder: held } = fs.lock(folder).expect_err("taken") else {
        panic!("another error");
    };
    assert_eq!((pid, held.as_path()), (Some(std::process::id()), folder));
    drop(lock);
    fs.lock(folder).map(|_| ()).expect("let go");
}

#[test]
fn what_is_synced_survives_every_crash_and_what_is_not_survives_some() {
    let (mut kept, mut lost, mut mixed) = (0, 0, 0);
    for seed in 0..100 {
        let fs = FaultFs::new(seed);
        let path = Path::new("/file");
        let file = fs.create(path).expect("possible");
        file.write_at(0, &[1; 2048]).expect("possible");
        file.sync_data().expect("possible");
        fs.sync_dir(Path::new("/")).expect("possible");
        file.write_at(512, &[2; 1024]).expect("possible");

        let bytes = fs.crash().read(path).expect("its name was synced");

        assert_eq!(
            (&bytes[..512], &bytes[1536..]),
            (&[1; 512][..], &[1; 512][..])
        );
        let first = bytes[512];
        assert!(
            bytes[512..1024].iter().all(|byte| *byte == first),
            "sectors are whole"
        );
        match (first, bytes[1024]) {
            (1, 1) => lost += 1,
            (2, 2) => kept += 1,
            _ => mixed += 1,
        }
    }
    assert!(kept > 5 && lost > 5 && mixed > 5, "{kept} {lost} {mixed}");
}

#[test]
fn what_was_cut_off_does_not_come_back_when_the_file_grows_again() {
    for seed in 0..20 {
        let fs = FaultFs::new(seed);
        let path = Path::new("/file");
        let file = fs.create(path).expect("possible");
        file.write_at(0, &[1; 2048]).expect("possible");
        file.sync_data().expect("possible");
        fs.sync_dir(Path::new("/")).expect("possible");
        file.set_len(700).expect("possible");
        file.set_len(1500).expect("possible");
        file.sync_data().expect("possible");

        let bytes = fs.crash().read(path).expect("its name was synced");

        assert_eq!(
            bytes,
            [[1; 700].as_slice(), &[0; 800]].concat(),
            "seed {seed}"
        );
    }
}

#[test]
fn names_that_were_not_synced_may_be_lost_or_come_back() {
    let (mut created, mut unlinked) = (0, 0);
    for seed in 0..100 {
        let fs = FaultFs::new(seed);
        let (old, new) = (Path::new("/old"), Path::new("/new"));
        fs.create(old).expect("possible");
        fs.sync_dir(Path::new("/")).expect("possible");
        fs.create(new).expect("possible");
        fs.unlink(old).expect("possible");

        let fs = fs.crash();

        created += u32::from(fs.exists(new).expect("possible"));
        unlinked += u32::from(!fs.exists(old).expect("possible"));
    }
    assert!((10..90).contains(&created), "{created}");
    assert!((10..90).contains(&unlinked), "{unlinked}");
}

#[test]
fn after_a_failed_sync_a_second_one_succeeds_without_having_written() {
    let mut lost = 0;
    for seed in 0..20 {
        let fs = FaultFs::new(seed);
        let path = Path::new("/file");
        let file = fs.create(path).expect("possible");
        fs.sync_dir(Path::new("/")).expect("possible");
        file.write_at(0, &[1; 512]).expect("possible");
        fs.inject(Fault {
            operation: Some(Operation::SyncData),
            path: "file".to_owned(),
            skip: 0,
            kind: FaultKind::Io,
        });
        file.sync_data().expect_err("injected");
        file.sync_data().expect("believed clean");
        assert_eq!(fs.read(path).expect("cached"), [1; 512]);
        lost += u32::from(fs.crash().read(path).expect("possible") != [1; 512]);
    }
    assert_eq!(lost, 20);
}
