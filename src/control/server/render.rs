//! The counters as OpenMetrics text.
//!
//! The workers' counters are read at the moment of the scrape by a prometheus-client collector;
//! the packet path knows nothing of metrics. Labels are bounded: workers, edges, drop reasons,
//! offloads and the first policies, never peers or prefixes.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, info::Info};
use prometheus_client::registry::Registry;

use crate::dataplane::observe::{Counters, EdgeCounters, Fallback, WorkerCounters};
use crate::net::DropReason;

/// What the control plane knows at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Now {
    /// Routes in the forwarding table.
    pub routes: usize,
    /// Known peers.
    pub peers: usize,
    /// Each offload by name, and whether it is active.
    pub offloads: Vec<(String, bool)>,
    /// Whether the running configuration is what the file said when it was last to be read.
    pub reloaded: bool,
    /// Log lines that did not reach stderr.
    pub log_lines_lost: u64,
    /// Packets that the kernel did not hand to the receiving sockets.
    pub socket_drops: u64,
    /// Whether the kernel refuses strangers.
    pub strangers_refused: bool,
    /// The sources that are followed.
    pub sources: Vec<SourceSample>,
    /// Direct paths that are verified and that are not.
    pub direct_paths: [usize; 2],
    /// How often one of these was given up.
    pub direct_path_failures: u64,
    /// The policies that are enforced.
    pub policies: Vec<PolicySample>,
}

/// What a policy decided.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PolicySample {
    /// Its name.
    pub name: Arc<str>,
    /// Connections that it allowed.
    pub allowed: u64,
    /// Packets that it denied.
    pub denied: u64,
}

/// How a source does.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SourceSample {
    /// Its name.
    pub name: String,
    /// Whether it can be reached and understood.
    pub up: bool,
    /// Objects that cannot be used.
    pub refused: usize,
    /// How often more came than could be taken.
    pub overruns: u64,
}

/// Everything a scrape shows.
#[derive(Debug)]
pub struct Exporter(Registry);

impl Exporter {
    /// Exports `counters`, and what `now` returns at each scrape.
    pub fn new(counters: Counters, now: impl Fn() -> Now + Send + Sync + 'static) -> Self {
        let mut registry = Registry::with_prefix("underpass");
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running build", build);
        registry.register_collector(Box::new(Snapshot { counters, now }));
        Self(registry)
    }

    /// The OpenMetrics text, up to and including `# EOF`.
    ///
    /// # Errors
    /// Never in practice; writing to a string does not fail.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(4096);
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

struct Snapshot<F> {
    counters: Counters,
    now: F,
}

impl<F> fmt::Debug for Snapshot<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot").field("workers", &self.counters.workers()).finish_non_exhaustive()
    }
}

impl<F: Fn() -> Now + Send + Sync + 'static> Collector for Snapshot<F> {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let packets = counter(&mut encoder, "packets", "Packets over an edge, after segmentation")?;
        self.edges(packets, |edge| (edge.rx_packets.get(), edge.tx_packets.get()))?;
        let bytes = counter(&mut encoder, "bytes", "Bytes over an edge, IP headers included")?;
        self.edges(bytes, |edge| (edge.rx_bytes.get(), edge.tx_bytes.get()))?;
        self.drops(counter(&mut encoder, "drops", "Packets not delivered")?)?;
        let refusals = "Refusals of an offload by the kernel at run time";
        self.fallbacks(counter(&mut encoder, "offload_fallbacks", refusals)?)?;
        let (probes, questions) = self.counters.tunnel_control();
        let help = "Received packets that are the tunnel's own and no traffic";
        let mut control = counter(&mut encoder, "tunnel_control_packets", help)?;
        for (kind, value) in [("probe", probes), ("question", questions)] {
            ConstCounter::new(value).encode(control.encode_family(&[("kind", kind)])?)?;
        }
        let hairpinned = self.counters.hairpinned_packets();
        let help = "Packets that went back to the TUN, for local pods and the outside";
        ConstCounter::new(hairpinned).encode(counter(&mut encoder, "hairpinned_packets", help)?)?;
        let recut = self.counters.recut_super_packets();
        let help = "Received TCP super-packets whose segment size nobody knew";
        ConstCounter::new(recut).encode(counter(&mut encoder, "recut_super_packets", help)?)?;
        let help = "Reads of the TUN that the kernel refused";
        let errors = self.counters.device_read_errors();
        ConstCounter::new(errors).encode(counter(&mut encoder, "device_read_errors", help)?)?;
        let (sent, suppressed) = self.counters.icmp_errors();
        let mut errors =
            counter(&mut encoder, "icmp_errors", "ICMP errors to the senders of dropped packets")?;
        for (outcome, value) in [("sent", sent), ("suppressed", suppressed)] {
            ConstCounter::new(value).encode(errors.encode_family(&[("outcome", outcome)])?)?;
        }
        let (connections, untracked) = self.counters.connections();
        let connections = usize::try_from(connections).unwrap_or(usize::MAX);
        gauge(&mut encoder, "connections", "Connections that policies follow", connections)?;
        let help = "Connections that found no room and passed all the same";
        let family = counter(&mut encoder, "connections_untracked", help)?;
        ConstCounter::new(untracked).encode(family)?;
        let mut now = (self.now)();
        policies(&mut encoder, std::mem::take(&mut now.policies))?;
        let help = "How often more came from a source than could be taken, so that everything was read again";
        let mut overruns = counter(&mut encoder, "source_overruns", help)?;
        for source in &now.sources {
            let label = [("source", source.name.as_str())];
            ConstCounter::new(source.overruns).encode(overruns.encode_family(&label)?)?;
        }
        let help = "How often a verified direct path was given up for the tunnel";
        let failures = counter(&mut encoder, "direct_path_failures", help)?;
        ConstCounter::new(now.direct_path_failures).encode(failures)?;
        let [verified, unverified] = now.direct_paths;
        let paths = [("verified", verified), ("unverified", unverified)];
        gauges(&mut encoder, ("direct_paths", "state"), "Direct paths that are to be verified", &paths)?;
        let Now { routes, peers, offloads, reloaded, .. } = now;
        let help = "Log lines that stderr did not take or nobody read in time";
        let lost = counter(&mut encoder, "log_lines_lost", help)?;
        ConstCounter::new(now.log_lines_lost).encode(lost)?;
        let help =
            "Packets that the kernel did not hand to the receiving sockets: strangers, or a full buffer";
        let drops = counter(&mut encoder, "socket_drops", help)?;
        ConstCounter::new(now.socket_drops).encode(drops)?;
        let help = "Whether the kernel refuses strangers, because there are many";
        gauge(&mut encoder, "strangers_refused", help, usize::from(now.strangers_refused))?;
        let active: Vec<_> =
            offloads.iter().map(|(name, active)| (name.as_str(), usize::from(*active))).collect();
        gauges(&mut encoder, ("offload_active", "offload"), "Whether an offload is in use", &active)?;
        let of_sources = |value: fn(&SourceSample) -> usize| {
            now.sources.iter().map(|source| (source.name.as_str(), value(source))).collect::<Vec<_>>()
        };
        let up = of_sources(|source| usize::from(source.up));
        gauges(&mut encoder, ("source_up", "source"), "Whether a source is followed", &up)?;
        let refused = of_sources(|source| source.refused);
        let help = "Objects of a source that cannot be used";
        gauges(&mut encoder, ("source_refused", "source"), help, &refused)?;
        gauge(&mut encoder, "routes", "Routes in the forwarding table", routes)?;
        gauge(&mut encoder, "peers", "Known peers", peers)?;
        let help = "Workers that make no progress";
        gauge(&mut encoder, "stuck_workers", help, self.counters.stuck().len())?;
        let help = "Whether the configuration file could be followed when it was last to be read";
        gauge(&mut encoder, "config_last_reload_successful", help, usize::from(reloaded))
    }
}

impl<F> Snapshot<F> {
    /// Each worker by its number, and the programs in the kernel.
    fn workers(&self) -> impl Iterator<Item = (String, &WorkerCounters)> {
        let workers =
            (0..self.counters.workers()).map(|index| (index.to_string(), self.counters.worker(index)));
        workers.chain([("kernel".to_owned(), self.counters.kernel())])
    }

    /// One family over edges, directions and workers; `read` picks its (rx, tx) from an edge.
    fn edges(&self, mut family: MetricEncoder, read: impl Fn(&EdgeCounters) -> (u64, u64)) -> fmt::Result {
        for (index, worker) in self.workers() {
            for (edge, counters) in [("device", &worker.device), ("underlay", &worker.underlay)] {
                let (rx, tx) = read(counters);
                for (direction, value) in [("rx", rx), ("tx", tx)] {
                    let labels = [("edge", edge), ("direction", direction), ("worker", index.as_str())];
                    ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }

    fn drops(&self, mut family: MetricEncoder) -> fmt::Result {
        let totals = self.counters.totals();
        for reason in DropReason::ALL {
            let labels = [("reason", reason.name())];
            ConstCounter::new(totals.drops(reason)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn fallbacks(&self, mut family: MetricEncoder) -> fmt::Result {
        for fallback in Fallback::ALL {
            let labels = [("offload", fallback.offload())];
            ConstCounter::new(self.counters.fallbacks(fallback)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Policies with samples of their own.
const MOST_POLICIES: usize = 500;
/// The label of all others together, which no policy can have.
const OTHER_POLICIES: &str = "(others)";

/// What policies decided: of the first ones by name each, of the rest their sums.
fn policies(encoder: &mut DescriptorEncoder, mut samples: Vec<PolicySample>) -> fmt::Result {
    samples.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let rest = samples.split_off(samples.len().min(MOST_POLICIES));
    if !rest.is_empty() {
        let sum = rest.iter().fold((0, 0), |sum, one| (sum.0 + one.allowed, sum.1 + one.denied));
        samples.push(PolicySample { name: OTHER_POLICIES.into(), allowed: sum.0, denied: sum.1 });
    }
    let allowed = samples.iter().map(|policy| (&*policy.name, policy.allowed));
    let help = "Connections that a policy allowed";
    by_policy(counter(encoder, "policy_connections_allowed", help)?, allowed)?;
    let denied = samples.iter().map(|policy| (&*policy.name, policy.denied));
    by_policy(counter(encoder, "policy_packets_denied", "Packets that a policy denied")?, denied)
}

/// The samples of one family by policy.
fn by_policy<'a>(mut family: MetricEncoder, samples: impl Iterator<Item = (&'a str, u64)>) -> fmt::Result {
    for (name, value) in samples {
        ConstCounter::new(value).encode(family.encode_family(&[("policy", name)])?)?;
    }
    Ok(())
}

/// A gauge with one label, whose values are beside each one's.
fn gauges(
    encoder: &mut DescriptorEncoder,
    (name, label): (&str, &str),
    help: &str,
    values: &[(&str, usize)],
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (of, value) in values {
        let value = i64::try_from(*value).unwrap_or(i64::MAX);
        ConstGauge::new(value).encode(family.encode_family(&[(label, *of)])?)?;
    }
    Ok(())
}

fn counter<'a>(
    encoder: &'a mut DescriptorEncoder,
    name: &'a str,
    help: &str,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: usize) -> fmt::Result {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

#[cfg(test)]
mod tests {
    use super::{Exporter, MOST_POLICIES, Now, PolicySample, SourceSample};
    use crate::dataplane::observe::{Counters, Fallback};
    use crate::net::DropReason;

    #[test]
    fn the_text_holds_every_value() {
        let counters = Counters::new(2);
        counters.worker(0).device.rx_packets.add(3);
        counters.worker(1).underlay.tx_bytes.add(1500);
        counters.worker(0).dropped(DropReason::Ecn, 1);
        counters.worker(1).dropped(DropReason::Ecn, 2);
        let refused = std::io::ErrorKind::InvalidInput.into();
        counters.worker(0).fell_back(Fallback::UdpGso, &refused);
        counters.worker(1).fell_back(Fallback::UdpGso, &refused);
        counters.worker(0).icmp_sent.add(5);
        counters.worker(1).hairpinned_packets.add(3);
        counters.worker(0).recut_super_packets.add(1);
        counters.worker(1).recut_super_packets.add(8);
        counters.worker(1).icmp_suppressed.add(7);
        counters.worker(1).probes.add(6);
        counters.worker(0).connections.set(20);
        counters.worker(1).connections.set(1);
        counters.worker(1).untracked_connections.add(22);
        let offloads = vec![("tso".to_owned(), true), ("udp_gso".to_owned(), false)];
        let now = Now {
            routes: 4,
            peers: 3,
            offloads,
            reloaded: false,
            log_lines_lost: 9,
            socket_drops: 5,
            strangers_refused: true,
            sources: vec![SourceSample { name: "kernel".to_owned(), up: false, refused: 7, overruns: 3 }],
            direct_paths: [8, 2],
            direct_path_failures: 11,
            policies: vec![PolicySample { name: "shop/web".into(), allowed: 12, denied: 34 }],
        };
        let exporter = Exporter::new(counters.clone(), move || now.clone());
        let text = exporter.render().unwrap();
        for line in [
            r#"underpass_packets_total{edge="device",direction="rx",worker="0"} 3"#,
            r#"underpass_packets_total{edge="device",direction="rx",worker="1"} 0"#,
            r#"underpass_bytes_total{edge="underlay",direction="tx",worker="1"} 1500"#,
            r#"underpass_drops_total{reason="ecn"} 3"#,
            "# TYPE underpass_drops counter",
            r#"underpass_offload_active{offload="tso"} 1"#,
            r#"underpass_offload_active{offload="udp_gso"} 0"#,
            "# TYPE underpass_offload_active gauge",
            r#"underpass_offload_fallbacks_total{offload="udp_gso"} 2"#,
            r#"underpass_offload_fallbacks_total{offload="packet_socket"} 0"#,
            r#"underpass_icmp_errors_total{outcome="sent"} 5"#,
            r#"underpass_icmp_errors_total{outcome="suppressed"} 7"#,
            "underpass_hairpinned_packets_total 3",
            "underpass_recut_super_packets_total 9",
            "underpass_tunnel_control_packets_total{kind=\"probe\"} 6",
            "underpass_tunnel_control_packets_total{kind=\"question\"} 0",
            "underpass_log_lines_lost_total 9",
            "underpass_socket_drops_total 5",
            "underpass_strangers_refused 1",
            r#"underpass_source_up{source="kernel"} 0"#,
            r#"underpass_source_refused{source="kernel"} 7"#,
            r#"underpass_source_overruns_total{source="kernel"} 3"#,
            r#"underpass_direct_paths{state="verified"} 8"#,
            r#"underpass_direct_paths{state="unverified"} 2"#,
            "underpass_direct_path_failures_total 11",
            r#"underpass_policy_connections_allowed_total{policy="shop/web"} 12"#,
            r#"underpass_policy_packets_denied_total{policy="shop/web"} 34"#,
            "underpass_connections 21",
            "underpass_connections_untracked_total 22",
            "underpass_device_read_errors_total 0",
            "underpass_stuck_workers 0",
            "underpass_routes 4",
            "underpass_peers 3",
            concat!(r#"underpass_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        for reason in DropReason::ALL {
            assert!(text.contains(&format!("reason=\"{}\"", reason.name())), "{reason}");
        }
        for fallback in Fallback::ALL {
            let sample = format!("underpass_offload_fallbacks_total{{offload=\"{}\"}}", fallback.offload());
            assert!(text.contains(&sample), "{sample} is not in\n{text}");
        }
        assert!(text.ends_with("\n# EOF\n"));
        assert_eq!(text.matches("# TYPE").count(), text.matches("# HELP").count());

        counters.worker(0).device.rx_packets.add(1);
        let later = exporter.render().unwrap();
        assert!(later.contains(r#"underpass_packets_total{edge="device",direction="rx",worker="0"} 4"#));
    }
    #[test]
    fn policies_beyond_the_first_are_one() {
        let policies = (0..MOST_POLICIES + 3).rev().map(|number| PolicySample {
            name: format!("p{number:04}").into(),
            allowed: 1,
            denied: number as u64,
        });
        let now = Now { policies: policies.collect(), ..Now::default() };
        let text = Exporter::new(Counters::new(1), move || now.clone()).render().unwrap();
        assert_eq!(text.matches("underpass_policy_packets_denied_total{").count(), MOST_POLICIES + 1);
        for line in [
            r#"underpass_policy_packets_denied_total{policy="p0499"} 499"#,
            r#"underpass_policy_packets_denied_total{policy="(others)"} 1503"#,
            r#"underpass_policy_connections_allowed_total{policy="(others)"} 3"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("p0500"));
    }
}
