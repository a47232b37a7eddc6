//! The network configuration that a container runtime reads: made by the daemon, understood by the plugin.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The name of the plugin's program.
pub const PLUGIN: &str = "underpass-cni";
/// The name of the network.
pub const NETWORK: &str = "underpass";
/// What the stock plugins of today's distributions and containerd 1.6 understand.
const VERSION: &str = "1.0.0";

/// What the configuration says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Conflist<'a> {
    /// The stock plugin that makes interfaces.
    pub plugin: &'a str,
    /// This node's pod subnets, as they are when it is written.
    pub subnets: &'a [String],
    /// Bytes of the largest packet of a pod, as they are when it is written.
    pub mtu: u16,
    /// The daemon's control socket.
    pub socket: &'a Path,
    /// Where records are kept.
    pub state_dir: &'a Path,
}

impl Conflist<'_> {
    /// The file, line by line.
    pub fn render(&self) -> String {
        let plugins = json!([
            {
                "type": PLUGIN,
                "plugin": self.plugin,
                "socket": self.socket,
                "state_dir": self.state_dir,
                "subnets": self.subnets,
                "mtu": self.mtu,
                "capabilities": {"labels": true}
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
        ]);
        let list = json!({"cniVersion": VERSION, "name": NETWORK, "plugins": plugins});
        // There is no part that JSON cannot express.
        serde_json::to_string_pretty(&list).unwrap_or_default() + "\n"
    }
}

/// The file of the same directory that a container runtime takes instead of `ours`, if there is one: it takes the
/// first by name.
pub fn first_before(ours: &Path) -> Option<PathBuf> {
    let (directory, name) = (ours.parent()?, ours.file_name()?);
    let names = std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let wanted = |other: &std::ffi::OsString| {
        let ending = Path::new(other).extension().and_then(|ending| ending.to_str());
        matches!(ending, Some("conflist" | "conf" | "json")) && other.as_os_str() < name
    };
    names.filter(wanted).min().map(|first| directory.join(first))
}

/// The subnets of one family each, as `host-local` takes them: an address of each family for every pod.
pub(super) fn ranges(subnets: &[ipnet::IpNet]) -> Vec<Value> {
    let of = |is_ipv4: bool| {
        let family = subnets.iter().filter(|subnet| subnet.addr().is_ipv4() == is_ipv4);
        family.map(|subnet| json!({"subnet": subnet.to_string()})).collect::<Vec<_>>()
    };
    [of(true), of(false)].into_iter().filter(|family| !family.is_empty()).map(Value::from).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::{Conflist, first_before};

    #[test]
    fn the_file_names_both_plugins() {
        let subnets = ["10.244.1.0/24".to_owned(), "fd00::/64".to_owned()];
        let list = Conflist {
            plugin: "ptp",
            subnets: &subnets,
            mtu: 1430,
            socket: Path::new("/run/underpass/underpass.sock"),
            state_dir: Path::new("/run/underpass/cni"),
        };
        let text = list.render();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(text.ends_with("}\n"));
        assert_eq!((&value["cniVersion"], &value["name"]), (&"1.0.0".into(), &"underpass".into()));
        let plugins = value["plugins"].as_array().unwrap();
        assert_eq!((&plugins[0]["type"], &plugins[1]["type"]), (&"underpass-cni".into(), &"portmap".into()));
        assert_eq!((&plugins[0]["mtu"], &plugins[0]["subnets"][1]), (&1430.into(), &"fd00::/64".into()));
        assert_eq!(plugins[1]["capabilities"]["portMappings"], true);
    }

    #[test]
    fn runtimes_take_the_first_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("10-underpass.conflist");
        assert_eq!(first_before(&ours), None);
        for name in ["10-underpass.conflist", "20-other.conflist", "05-readme.txt", ".tmp"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(first_before(&ours), None);
        std::fs::write(dir.path().join("05-flannel.conflist"), "").unwrap();
        assert_eq!(first_before(&ours), Some(dir.path().join("05-flannel.conflist")));
        assert_eq!(first_before(Path::new("/nonexistent/1.conflist")), None);
    }
}
