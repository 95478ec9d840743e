//! The result as Markdown tables, as docs/performance.md shows them.

use std::fmt::{Display, Formatter, Result};

use super::{
    api::Api,
    compare::{Report, Row, Workload},
    gates::Bound,
    window::Window,
};

/// Shown when a figure is missing.
const ABSENT: &str = "–";
/// From this share of the machine on, what others use is told.
const OTHERS_PERCENT: f64 = 3.0;

/// Writes a report as tables.
pub struct Tables<'a>(pub &'a Report);

impl Display for Tables<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> Result {
        self.machine(out)?;
        self.workloads(out)?;
        self.regions(out)?;
        self.idle(out)?;
        self.errors(out)?;
        self.others(out)?;
        self.gates(out)
    }
}

impl Tables<'_> {
    fn machine(&self, out: &mut Formatter<'_>) -> Result {
        let (machine, plan) = (&self.0.machine, &self.0.plan);
        writeln!(
            out,
            "{} cores of {}, Linux {}; 4 KiB append and fdatasync {:.0} µs. etcd {}; flotilla {}.",
            machine.cores,
            machine.processor,
            machine.kernel,
            machine.disk_sync_us,
            machine.etcd,
            machine.flotilla
        )?;
        writeln!(
            out,
            "{} rounds, windows of {:?} after {:?}; {} keys of 16 bytes, values of {} bytes; callers go to {}.\n",
            plan.rounds,
            plan.window,
            plan.warm_up,
            plan.keys,
            plan.value_bytes,
            if plan.leader_only { "the leaders" } else { "all nodes in turn" }
        )
    }

    fn workloads(&self, out: &mut Formatter<'_>) -> Result {
        writeln!(
            out,
            "| workload | etcd op/s | flotilla op/s | × | etcd p50 / p90 / p99 ms | flotilla p50 / p90 / p99 ms | etcd CPU µs/op | flotilla CPU µs/op | × | etcd disk B/op | flotilla disk B/op | generator CPU µs/op |"
        )?;
        writeln!(out, "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")?;
        for workload in &self.0.plan.workloads {
            let etcd = self.median(Api::Etcd, 1, workload);
            let ours = self.median(Api::Flotilla, 1, workload);
            let speed = |window: &Window| window.operations_per_second;
            let cpu = |window: &Window| window.servers_cpu_us;
            let generator = |window: &Window| window.generator_cpu_us;
            writeln!(
                out,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} / {} |",
                workload.name(),
                whole(etcd.map(speed)),
                whole(ours.map(speed)),
                ratio(ours.map(speed), etcd.map(speed)),
                latency(etcd),
                latency(ours),
                whole(etcd.map(cpu)),
                whole(ours.map(cpu)),
                ratio(ours.map(cpu), etcd.map(cpu)),
                whole(etcd.map(|window| window.disk_bytes)),
                whole(ours.map(|window| window.disk_bytes)),
                whole(etcd.map(generator)),
                whole(ours.map(generator))
            )?;
        }
        writeln!(out)
    }

    fn regions(&self, out: &mut Formatter<'_>) -> Result {
        let spread: Vec<&Row> = self
            .0
            .rows
            .iter()
            .filter(|row| row.api == Api::Flotilla && row.workload == Workload::SPREAD)
            .collect();
        if spread.is_empty() {
            return Ok(());
        }
        let one = spread.iter().find(|row| row.regions == 1).map(|row| &row.median);
        let speed = |window: &Window| window.operations_per_second;
        writeln!(out, "| regions | put-256 op/s | × of one | p50 / p90 / p99 ms | CPU µs/op |")?;
        writeln!(out, "|--:|--:|--:|--:|--:|")?;
        for row in spread {
            let window = &row.median;
            writeln!(
                out,
                "| {} | {} | {} | {} | {} |",
                row.regions,
                whole(Some(speed(window))),
                ratio(Some(speed(window)), one.map(speed)),
                latency(Some(window)),
                whole(Some(window.servers_cpu_us))
            )?;
        }
        writeln!(out)
    }

    fn idle(&self, out: &mut Formatter<'_>) -> Result {
        if self.0.idle.is_empty() {
            return Ok(());
        }
        writeln!(out, "| idle after the load | memory of each, MiB | CPU of each, % of a core |")?;
        writeln!(out, "|---|--:|--:|")?;
        for idle in &self.0.idle {
            let each = |figure: &dyn Fn(usize) -> String| {
                (0..idle.servers.len()).map(figure).collect::<Vec<_>>().join(" / ")
            };
            let memory = each(&|i| (idle.servers[i].resident_bytes >> 20).to_string());
            let cpu = each(&|i| format!("{:.1}", idle.servers[i].cpu_percent));
            writeln!(out, "| {} | {memory} | {cpu} |", idle.api.name())?;
        }
        writeln!(out)
    }

    fn errors(&self, out: &mut Formatter<'_>) -> Result {
        for row in self.0.rows.iter().filter(|row| row.median.errors > 0) {
            writeln!(
                out,
                "{} with {} regions, {}: {} operations failed, the first with: {}\n",
                row.api.name(),
                row.regions,
                row.workload.name(),
                row.median.errors,
                row.median.first_error.as_deref().unwrap_or("nothing said")
            )?;
        }
        Ok(())
    }

    fn others(&self, out: &mut Formatter<'_>) -> Result {
        let windows = self.0.rows.iter().flat_map(|row| &row.windows);
        let disturbed: Vec<f64> = windows
            .clone()
            .map(|window| window.others_cpu_percent)
            .filter(|percent| *percent >= OTHERS_PERCENT)
            .collect();
        let Some(most) = disturbed.iter().copied().max_by(f64::total_cmp) else { return Ok(()) };
        writeln!(
            out,
            "**Disturbed**: in {} of {} windows other programs used the machine, up to {most:.0} % of it.\n",
            disturbed.len(),
            windows.count()
        )
    }

    fn gates(&self, out: &mut Formatter<'_>) -> Result {
        writeln!(out, "| gate | bound | measured | |")?;
        writeln!(out, "|---|--:|--:|---|")?;
        for gate in &self.0.gates {
            let bound = match gate.bound {
                Bound::AtLeast(least) => format!("≥ {least}"),
                Bound::AtMost(most) => format!("≤ {most}"),
            };
            let measured =
                gate.measured.map_or_else(|| ABSENT.to_owned(), |figure| format!("{figure:.2}"));
            let verdict = match gate.measured {
                None => "not measured",
                Some(_) if gate.passed => "ok",
                Some(_) => "**missed**",
            };
            writeln!(out, "| {} | {bound} | {measured} | {verdict} |", gate.promise)?;
        }
        Ok(())
    }

    fn median(&self, api: Api, regions: u32, workload: &Workload) -> Option<&Window> {
        let row = self
            .0
            .rows
            .iter()
            .find(|row| (row.api, row.regions, &row.workload) == (api, regions, workload))?;
        Some(&row.median)
    }
}

/// With a thin gap at the thousands.
fn whole(figure: Option<f64>) -> String {
    let Some(figure) = figure else { return ABSENT.to_owned() };
    let digits = format!("{figure:.0}");
    let mut written = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            written.push(' ');
        }
        written.push(digit);
    }
    written
}

fn ratio(figure: Option<f64>, of: Option<f64>) -> String {
    match (figure, of) {
        (Some(figure), Some(of)) if of > 0.0 => format!("{:.2}", figure / of),
        _ => ABSENT.to_owned(),
    }
}

fn latency(window: Option<&Window>) -> String {
    let Some(window) = window else { return ABSENT.to_owned() };
    let ms = |us: f64| format!("{:.2}", us / 1e3);
    format!("{} / {} / {}", ms(window.p50_us), ms(window.p90_us), ms(window.p99_us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let cases = [(7.4, "7"), (999.0, "999"), (1_000.0, "1 000"), (1_234_567.0, "1 234 567")];
        for (figure, written) in cases {
            assert_eq!(whole(Some(figure)), written);
        }
    }

    #[test]
    fn a_ratio_of_nothing_is_not_a_figure() {
        assert_eq!(ratio(Some(3.0), Some(2.0)), "1.50");
        assert_eq!(ratio(Some(3.0), Some(0.0)), ABSENT);
        assert_eq!(ratio(None, Some(2.0)), ABSENT);
    }
}
