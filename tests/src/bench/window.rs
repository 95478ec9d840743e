//! What a loop measured in one window of time, and the middle of several.

use hdrhistogram::Histogram;
use serde::Serialize;

/// One window. Times are in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Window {
    /// Operations that were answered well within the window.
    pub operations: u64,
    /// Operations that failed, and reads that did not find what was loaded.
    pub errors: u64,
    /// What the first of them said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_error: Option<String>,
    pub seconds: f64,
    pub operations_per_second: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    /// CPU time of the generator for one operation.
    pub generator_cpu_us: f64,
    /// CPU time of all servers together for one operation.
    pub servers_cpu_us: f64,
    /// CPU time of everything else on the machine, in percent of all its cores. Much of it means that
    /// the figures are of a disturbed machine.
    pub others_cpu_percent: f64,
    /// Bytes that all servers together sent to the disk for one operation.
    pub disk_bytes: f64,
    /// Memory of each server at the end of the window.
    pub resident_bytes: Vec<u64>,
}

impl Window {
    /// Fills in what the answers tell: a histogram of nanoseconds over `seconds`.
    pub(super) fn of_answers(histogram: &Histogram<u64>, seconds: f64) -> Self {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        Self {
            operations: histogram.len(),
            seconds,
            operations_per_second: histogram.len() as f64 / seconds,
            mean_us: histogram.mean() / 1e3,
            p50_us: us(histogram.value_at_quantile(0.5)),
            p90_us: us(histogram.value_at_quantile(0.9)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            max_us: us(histogram.max()),
            ..Self::default()
        }
    }

    /// The middle of several windows, figure by figure; errors are added up.
    pub fn median(windows: &[Self]) -> Self {
        let middle = |figure: fn(&Self) -> f64| median(windows.iter().map(figure).collect());
        let servers = windows.iter().map(|window| window.resident_bytes.len()).min().unwrap_or(0);
        Self {
            operations: middle(|window| window.operations as f64) as u64,
            errors: windows.iter().map(|window| window.errors).sum(),
            first_error: windows.iter().find_map(|window| window.first_error.clone()),
            seconds: middle(|window| window.seconds),
            operations_per_second: middle(|window| window.operations_per_second),
            mean_us: middle(|window| window.mean_us),
            p50_us: middle(|window| window.p50_us),
            p90_us: middle(|window| window.p90_us),
            p99_us: middle(|window| window.p99_us),
            max_us: middle(|window| window.max_us),
            generator_cpu_us: middle(|window| window.generator_cpu_us),
            servers_cpu_us: middle(|window| window.servers_cpu_us),
            others_cpu_percent: middle(|window| window.others_cpu_percent),
            disk_bytes: middle(|window| window.disk_bytes),
            resident_bytes: (0..servers)
                .map(|server| {
                    let of_server = |window: &Self| window.resident_bytes[server] as f64;
                    median(windows.iter().map(of_server).collect()) as u64
                })
                .collect(),
        }
    }
}

/// The middle figure, or the mean of the two middle ones; 0 of none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    match figures.len() {
        0 => 0.0,
        count if count % 2 == 1 => figures[middle],
        _ => f64::midpoint(figures[middle - 1], figures[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_ignores_one_wild_figure() {
        assert_eq!(median(vec![10.0, 900.0, 11.0]), 11.0);
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn no_error_is_lost_in_the_middle() {
        let bad = Window { errors: 3, first_error: Some("refused".into()), ..Window::default() };
        let middle = Window::median(&[Window::default(), Window::default(), bad]);
        assert_eq!((middle.errors, middle.first_error.as_deref()), (3, Some("refused")));
    }

    #[test]
    fn answers_become_percentiles_in_microseconds() {
        let mut histogram = Histogram::new(3).expect("three digits");
        for milliseconds in 1..=100 {
            histogram.record(milliseconds * 1_000_000).expect("it grows");
        }
        let window = Window::of_answers(&histogram, 2.0);
        assert_eq!(window.operations_per_second, 50.0);
        let near = |got: f64, wanted: f64| (got - wanted).abs() < wanted * 0.01;
        assert!(near(window.p50_us, 50_000.0) && near(window.p99_us, 99_000.0), "{window:?}");
        assert!(near(window.mean_us, 50_500.0) && near(window.max_us, 100_000.0), "{window:?}");
    }
}
