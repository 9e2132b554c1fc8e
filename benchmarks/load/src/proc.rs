//! CPU time and memory of processes, from /proc (proc(5)).

use std::collections::BTreeSet;
use std::fs;

/// CPU of some processes and of the whole machine at one moment, seconds.
#[derive(Debug, Clone, Default)]
pub struct Cpu {
    /// Nanosecond clock: threads that have ended since are not in it.
    exact_s: f64,
    /// Clock of 10 ms: includes threads that have ended.
    user_s: f64,
    system_s: f64,
    /// Which threads `exact_s` sums up.
    threads: BTreeSet<u32>,
    /// Everybody, from /proc/stat.
    machine_s: f64,
}

/// What was spent between two moments, seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// User and system together, the best clock there is.
    pub total_s: f64,
    /// The same by the clock of 10 ms, to compare.
    pub coarse_s: f64,
    /// The share of it in user mode, 0 to 1, by the coarse clock.
    pub user_share: f64,
    /// The whole machine.
    pub machine_s: f64,
}

impl Cpu {
    /// Of these processes (not of their children: see [`family`]).
    pub fn of(pids: &[u32]) -> Self {
        let mut cpu = Self {
            machine_s: machine_seconds(),
            ..Self::default()
        };
        for pid in pids {
            if let Some((user, system)) = coarse(*pid) {
                cpu.user_s += user;
                cpu.system_s += system;
            }
            for thread in numbers(&format!("/proc/{pid}/task")) {
                let text = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat"));
                let first = text
                    .ok()
                    .and_then(|t| t.split(' ').next()?.parse::<f64>().ok());
                if let Some(nanoseconds) = first {
                    cpu.exact_s += nanoseconds / 1e9;
                    cpu.threads.insert(thread);
                }
            }
        }
        cpu
    }

    /// What was spent since an earlier moment.
    pub fn since(&self, earlier: &Self) -> Spent {
        let (user, system) = (
            self.user_s - earlier.user_s,
            self.system_s - earlier.system_s,
        );
        let coarse = user + system;
        // A thread that has ended took its exact time with it; the coarse clock kept it.
        let is_exact = earlier.threads.is_subset(&self.threads) && !self.threads.is_empty();
        let total_s = if is_exact {
            self.exact_s - earlier.exact_s
        } else {
            coarse
        };
        Spent {
            total_s,
            coarse_s: coarse,
            user_share: if coarse > 0.0 { user / coarse } else { 0.0 },
            machine_s: self.machine_s - earlier.machine_s,
        }
    }
}

/// Memory of some processes, KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    pub rss: u64,
    pub pss: u64,
    pub private: u64,
}

impl Memory {
    /// Of these processes, from /proc/PID/smaps_rollup.
    pub fn of(pids: &[u32]) -> Self {
        let mut memory = Self::default();
        for pid in pids {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            for line in text.lines() {
                let mut words = line.split_ascii_whitespace();
                let (Some(name), Some(value)) = (words.next(), words.next()) else {
                    continue;
                };
                let value = value.parse().unwrap_or(0);
                match name {
                    "Rss:" => memory.rss += value,
                    "Pss:" => memory.pss += value,
                    "Private_Clean:" | "Private_Dirty:" => memory.private += value,
                    _ => {}
                }
            }
        }
        memory
    }
}

/// These processes with all their descendants.
pub fn family(pids: &[u32]) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = numbers("/proc")
        .into_iter()
        .filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, fields(&stat)?.nth(1)?.parse().ok()?))
        })
        .collect();
    let mut found: BTreeSet<u32> = pids.iter().copied().collect();
    loop {
        let before = found.len();
        for (pid, parent) in &parents {
            if found.contains(parent) {
                found.insert(*pid);
            }
        }
        if found.len() == before {
            return found.into_iter().collect();
        }
    }
}

/// The fields of /proc/PID/stat behind the name, which may contain anything: state is the first.
fn fields(stat: &str) -> Option<std::str::SplitAsciiWhitespace<'_>> {
    Some(stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace())
}

/// User and system seconds. USER_HZ is 100 on every Linux that Rust runs on.
fn coarse(pid: u32) -> Option<(f64, f64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut times = fields(&stat)?
        .skip(11)
        .map(|t| t.parse::<f64>().unwrap_or(0.0) / 100.0);
    Some((times.next()?, times.next()?))
}

fn machine_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let times: Vec<f64> = line
        .split_ascii_whitespace()
        .skip(1)
        .map(|t| t.parse().unwrap_or(0.0))
        .collect();
    // user nice system idle iowait irq softirq steal; guests are in user.
    let busy = [0, 1, 2, 5, 6, 7];
    busy.iter().filter_map(|&i| times.get(i)).sum::<f64>() / 100.0
}

/// The names in a folder that are numbers.
fn numbers(folder: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_work_is_seen() {
        let me = [std::process::id()];
        let before = Cpu::of(&me);
        let mut x = 1_u64;
        for i in 0..20_000_000_u64 {
            x = std::hint::black_box(x.wrapping_mul(31).wrapping_add(i));
        }
        assert!(Cpu::of(&me).since(&before).total_s > 0.0);
        assert!(Memory::of(&me).rss > 100);
        assert!(family(&me).contains(&me[0]));
    }

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = "12 (a) b (c) S 7 1 2 3";
        assert_eq!(fields(stat).unwrap().nth(1), Some("7"));
    }
}
