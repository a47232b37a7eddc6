//! Client commands without a daemon that answers them.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use assert_cmd::cargo::cargo_bin;

use super::daemon::Daemon;
use super::{finish, underpass};

#[test]
fn an_absent_daemon_exits_3() {
    let dir = tempfile::tempdir().unwrap();
    let absent = dir.path().join("absent");
    let stale = dir.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    for (socket, reason) in [(&absent, "No such file"), (&stale, "Connection refused")] {
        let socket = socket.to_str().unwrap();
        for command in [&["status"][..], &["route", "list"], &["route", "get", "10.0.0.1"], &["drops"]] {
            let (code, stdout, stderr) = underpass(&[command, &["--socket", socket]].concat());
            assert_eq!((code, stdout.as_str()), (3, ""), "{command:?}");
            assert!(stderr.starts_with(&format!("underpass: no daemon at {socket}")), "{stderr}");
            assert_eq!(stderr.matches(reason).count(), 1, "{stderr}");
        }
    }
}

#[test]
fn a_silent_daemon_exits_3() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let _listener = UnixListener::bind(&socket).unwrap();
    let (code, _, stderr) = underpass(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(code, 3);
    assert!(stderr.contains("did not answer within 5 s"), "{stderr}");
}

#[test]
fn a_closed_socket_file_exits_4() {
    let daemon = Daemon::start();
    fs::set_permissions(daemon.dir.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&daemon.socket, Permissions::from_mode(0o000)).unwrap();
    let (code, stdout, stderr) = status_without_privileges(&daemon);
    assert_eq!((code, stdout.as_str()), (4, ""), "{stderr}");
    assert!(stderr.starts_with("underpass: not allowed to use"), "{stderr}");
}

#[test]
fn strangers_to_the_group_are_denied() {
    let daemon = Daemon::start();
    if !is_root(daemon.dir.path()) {
        return; // The owner may connect, and only root can become somebody else.
    }
    fs::set_permissions(daemon.dir.path(), Permissions::from_mode(0o755)).unwrap();
    let (code, _, stderr) = status_without_privileges(&daemon);
    assert_eq!(code, 4, "{stderr}");
}

/// `status` as whoever runs the tests, or as nobody when that is root, whom no mode stops.
fn status_without_privileges(daemon: &Daemon) -> (i32, String, String) {
    let mut binary = cargo_bin!("underpass").to_path_buf();
    let root = is_root(daemon.dir.path());
    if root {
        // Nobody may lack access to the build directory.
        let copy = daemon.dir.path().join("underpass");
        fs::copy(&binary, &copy).unwrap();
        binary = copy;
    }
    let mut command = Command::new(binary);
    command.arg("status").arg("--socket").arg(&daemon.socket).current_dir("/");
    if root {
        command.uid(65534).gid(65534);
    }
    // Another test that begins a process at this moment has the copy open for writing until that runs.
    for _ in 0..100 {
        match command.output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => sleep(Duration::from_millis(50)),
            output => return finish(output.unwrap()),
        }
    }
    panic!("the copy of the program is open for writing all the time");
}

#[test]
fn a_filter_that_the_daemon_does_not_understand_exits_2() {
    let daemon = Daemon::with_state();
    let file = daemon.dir.path().join("x.pcapng");
    let (code, stdout, stderr) =
        daemon.try_ask(&["capture", "-w", file.to_str().unwrap(), "--filter", "host"]);
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert_eq!(stderr, "underpass: filter: it ends where an address should be; try '--help'\n");
    assert!(!file.exists());
}

fn is_root(own_directory: &Path) -> bool {
    fs::metadata(own_directory).unwrap().uid() == 0
}
