//! Running a stock plugin: the same environment, another configuration, its result.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rscni_plugin::error::Error;
use rscni_plugin::types::CNIResult;
use serde::Deserialize;
use serde_json::Value;

use super::input;

/// Where plugins are beside the directories that the runtime names.
const USUAL: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];
/// Bytes of a plugin's output, at most.
const LONGEST: u64 = 1 << 20;
/// The code of an error that a plugin gave no code of CNI for.
const FAILED: u32 = 100;
/// The code of a plugin that is not there.
const MISSING: u32 = 101;

/// A plugin and where further ones are.
#[derive(Debug)]
pub(super) struct Delegate {
    name: String,
    program: PathBuf,
    path: String,
}

/// What is in the environment instead of what this process got.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attachment<'a> {
    /// `CNI_CONTAINERID`
    pub container_id: &'a str,
    /// `CNI_IFNAME`
    pub ifname: &'a str,
    /// `CNI_NETNS`
    pub netns: &'a str,
}

impl Delegate {
    /// The plugin called `name`, in the directories of `given` or in the usual ones.
    ///
    /// # Errors
    /// When it is in none of them.
    pub(super) fn find(name: &str, given: &[PathBuf]) -> Result<Self, Error> {
        let directories: Vec<&Path> =
            given.iter().map(PathBuf::as_path).chain(USUAL.iter().map(Path::new)).collect();
        let program = directories.iter().map(|directory| directory.join(name)).find(|path| is_program(path));
        let path: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
        let path = path.join(":");
        let program = program.ok_or_else(|| {
            let details = format!(
                "the plugin {name} is in none of {path}; install the stock plugins (containernetworking-plugins)"
            );
            Error::Custom(MISSING, "plugin not found".to_owned(), details)
        })?;
        Ok(Self { name: name.to_owned(), program, path })
    }

    /// The result of `ADD`.
    ///
    /// # Errors
    /// The plugin's.
    pub(super) fn add(&self, conf: &Value) -> Result<CNIResult, Error> {
        let output = self.run("ADD", conf, None)?;
        serde_json::from_slice(&output)
            .map_err(|error| Error::FailedToDecode(format!("the result of {}: {error}", self.name)))
    }

    /// Runs a verb that has no result; `about` is another attachment than that of this call.
    ///
    /// # Errors
    /// The plugin's.
    pub(super) fn order(&self, verb: &str, conf: &Value, about: Option<Attachment<'_>>) -> Result<(), Error> {
        self.run(verb, conf, about).map(drop)
    }

    fn run(&self, verb: &str, conf: &Value, about: Option<Attachment<'_>>) -> Result<Vec<u8>, Error> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::IOFailure(format!("cannot {what} {}: {error}", self.program.display()))
        };
        // A file in memory, so that neither side waits for the other.
        let mut stdin = input::memory().map_err(|error| failed("make the input of", &error))?;
        let text = serde_json::to_vec(conf).map_err(|error| failed("make the input of", &error))?;
        stdin
            .write_all(&text)
            .and_then(|()| stdin.seek(SeekFrom::Start(0)))
            .map_err(|error| failed("make the input of", &error))?;
        let mut command = Command::new(&self.program);
        command.env("CNI_COMMAND", verb).env("CNI_PATH", &self.path).stdin(stdin).stdout(Stdio::piped());
        if let Some(Attachment { container_id, ifname, netns }) = about {
            command.env("CNI_CONTAINERID", container_id).env("CNI_IFNAME", ifname).env("CNI_NETNS", netns);
            command.env_remove("CNI_ARGS");
        }
        let mut child = command.spawn().map_err(|error| failed("run", &error))?;
        let mut output = Vec::new();
        let read = child.stdout.take().map(|stdout| stdout.take(LONGEST + 1).read_to_end(&mut output));
        // What it writes beyond the limit fails, as nobody reads it.
        let status = child.wait().map_err(|error| failed("wait for", &error))?;
        match read {
            Some(Err(error)) => return Err(failed("read from", &error)),
            _ if output.len() as u64 > LONGEST => {
                return Err(failed("read from", &format!("it wrote more than {LONGEST} bytes")));
            }
            _ => {}
        }
        if status.success() { Ok(output) } else { Err(self.error(&output, &status.to_string())) }
    }

    /// What a plugin that failed says.
    fn error(&self, output: &[u8], status: &str) -> Error {
        /// What it may leave out is empty.
        #[derive(Deserialize)]
        struct Said {
            code: u32,
            #[serde(default)]
            msg: String,
            #[serde(default)]
            details: String,
        }
        let Ok(Said { code, msg, details }) = serde_json::from_slice(output) else {
            let start = String::from_utf8_lossy(&output[..output.len().min(200)]).into_owned();
            return Error::Custom(FAILED, format!("{} failed", self.name), format!("{status}: {start:?}"));
        };
        Error::Custom(code, format!("{}: {msg}", self.name), details)
    }
}

fn is_program(path: &Path) -> bool {
    File::open(path)
        .and_then(|file| file.metadata())
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use rscni_plugin::error::Error;
    use serde_json::json;

    use super::{Attachment, Delegate};

    /// A plugin that is a script.
    fn plugin(script: &str) -> (tempfile::TempDir, Delegate) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stock");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let delegate = Delegate::find("stock", &[dir.path().to_owned()]).unwrap();
        (dir, delegate)
    }

    #[test]
    fn a_plugin_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("nothing-at-all"), "").unwrap();
        let error = Delegate::find("nothing-at-all", &[dir.path().to_owned()]).unwrap_err();
        assert_eq!(u32::from(&error), 101);
        assert!(error.to_string().contains(&format!("{}:/opt/cni/bin:/usr/lib/cni", dir.path().display())));
    }

    #[test]
    fn results_and_errors_are_passed_on() {
        let result = r#"echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"}]}'"#;
        let (_dir, stock) = plugin(&format!("grep -q '\"a\":1' && {result}"));
        assert_eq!(stock.add(&json!({"a": 1})).unwrap().ips[0].address.to_string(), "10.1.0.2/24");
        for (script, code, part) in [
            (r#"echo '{"code":11,"msg":"busy"}'; exit 1"#, 11, "stock: busy"),
            (r#"echo '{"code":999,"msg":"no","details":"why"}'; exit 1"#, 999, "why"),
            ("echo oops; exit 3", 100, "oops"),
            ("kill -9 $$", 100, "signal: 9"),
            ("echo nonsense", 6, "the result of stock"),
            ("yes", 5, "it wrote more than"),
        ] {
            let (_dir, stock) = plugin(script);
            let error = stock.add(&json!({})).unwrap_err();
            assert_eq!(u32::from(&error), code, "{script}: {error}");
            assert!(error.to_string().contains(part), "{script}: {error}");
        }
    }

    #[test]
    fn another_attachment_is_in_the_environment() {
        let (dir, stock) = plugin(r#"echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" >"$0.out""#);
        let about = Attachment { container_id: "c1", ifname: "eth0", netns: "" };
        stock.order("DEL", &json!({"long": "x".repeat(200_000)}), Some(about)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("stock.out")).unwrap(), "DEL c1 eth0 \n");
        assert!(matches!(stock.add(&json!({})), Err(Error::FailedToDecode(_))));
    }
}
