//! A pool that is given beside the file, by options of `run` or their environment variables.

use super::diagnostic::ConfigErrors;
use super::{Config, Pool};
use crate::net::EncapMode;

impl Config {
    /// This configuration with one pool more.
    ///
    /// # Errors
    /// Why there cannot be this pool, in the name of the option that gives it.
    pub fn with_pool(mut self, pool: Pool) -> Result<Self, ConfigErrors> {
        let option = |message: &str| ConfigErrors::of_file(&format!("--pool {}", pool.cidr), message);
        if self.pools.iter().any(|known| known.cidr == pool.cidr) {
            return Err(option("the configuration file has this pool already; leave out one of them"));
        }
        if pool.ipip_mode != EncapMode::Never && pool.vxlan_mode != EncapMode::Never {
            return Err(option(&format!(
                "--ipip-mode {} and --vxlan-mode {} for one pool; set one of them to Never",
                pool.ipip_mode, pool.vxlan_mode
            )));
        }
        self.pools.push(pool);
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{Pool, parse};
    use crate::net::EncapMode;

    const FILE: &str = "[node]\nname = \"a\"\naddress = \"192.0.2.1/24\"\n[local]\nsubnets = [\"10.1.0.0/24\"]\n\
                        [[pool]]\ncidr = \"10.1.0.0/16\"\n";

    #[test]
    fn a_pool_comes_on_top_or_its_option_is_at_fault() {
        let with = |cidr: &str, ipip_mode, vxlan_mode| {
            let pool = Pool {
                cidr: cidr.parse().unwrap(),
                ipip_mode,
                vxlan_mode,
                nat_outgoing: true,
                verify: false,
            };
            parse(FILE, "f").unwrap().with_pool(pool).map_err(|errors| errors.to_string())
        };
        let (never, always) = (EncapMode::Never, EncapMode::Always);
        let config = with("10.1.2.0/24", always, never).unwrap();
        let pools: Vec<_> =
            config.pools.iter().map(|pool| (pool.cidr.to_string(), pool.nat_outgoing)).collect();
        assert_eq!(pools, [("10.1.0.0/16".to_owned(), false), ("10.1.2.0/24".to_owned(), true)]);
        assert_eq!(
            with("10.1.0.0/16", always, never).unwrap_err(),
            "--pool 10.1.0.0/16: the configuration file has this pool already; leave out one of them"
        );
        assert_eq!(
            with("10.2.0.0/16", always, EncapMode::CrossSubnet).unwrap_err(),
            "--pool 10.2.0.0/16: --ipip-mode Always and --vxlan-mode CrossSubnet for one pool; set one of them to Never"
        );
    }
}
