//! What this node had, by flannel's `subnet.env`: flanneld may have written it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::net::Prefix;

/// More than flannel ever writes.
const LARGEST: u64 = 4096;

/// The subnets that the file at `path` says this node had: none where there is no such file.
pub(super) fn subnets(path: &Path) -> Vec<Prefix> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST).read_to_string(&mut text));
    let lines = text.lines().filter(|_| read.is_ok());
    let value = |line: &str| {
        let value =
            line.strip_prefix("FLANNEL_SUBNET=").or_else(|| line.strip_prefix("FLANNEL_IPV6_SUBNET="))?;
        let (address, len) = value.split_once('/')?;
        Prefix::containing(address.parse().ok()?, len.parse().ok()?)
    };
    lines.filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::subnets;

    #[test]
    fn what_flannel_writes_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("subnet.env");
        assert_eq!(subnets(&path), []);
        let text = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\n\
                    FLANNEL_IPV6_NETWORK=fd00:244::/48\nFLANNEL_IPV6_SUBNET=fd00:244:0:3::1/64\n\
                    FLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
        std::fs::write(&path, text).unwrap();
        assert_eq!(subnets(&path), ["10.244.3.0/24".parse().unwrap(), "fd00:244:0:3::/64".parse().unwrap()]);
        for junk in ["FLANNEL_SUBNET=", "FLANNEL_SUBNET=10.1.2.3", "FLANNEL_SUBNET=10.1.2.3/33", "\u{1}\n=\n"]
        {
            std::fs::write(&path, junk).unwrap();
            assert_eq!(subnets(&path), []);
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(subnets(&path), []);
    }
}
