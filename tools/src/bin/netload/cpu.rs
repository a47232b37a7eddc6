//! CPU time that the whole machine has spent working, from `/proc/stat` (proc(5)).

use anyhow::Context;

/// Seconds of user, nice, system, irq and softirq time of all CPUs since boot. Idle time is left out,
/// and so are steal, which is another machine's, and guest, which user contains already.
pub fn busy_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
    // USER_HZ is 100 on every architecture that Linux still supports TUN offloads on.
    busy_ticks(&text).map(|ticks| ticks as f64 / 100.0).context("/proc/stat has no line of all CPUs")
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    match fields[..] {
        [user, nice, system, _idle, _iowait, irq, softirq, ..] => Some(user + nice + system + irq + softirq),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::busy_ticks;

    #[test]
    fn counts_work_only() {
        assert_eq!(busy_ticks("cpu  1 2 4 1000 1000 8 16 1000 1000 0\ncpu0 9 9 9 9\n"), Some(31));
        assert_eq!(busy_ticks("cpu  1 2\n"), None);
    }
}
