//! What must hold of the figures: the promises of Flotilla's speed against etcd on one machine.
//!
//! A gate whose figures were not measured has not passed.

use serde::Serialize;

use super::{
    api::Api,
    compare::{Idle, Row},
    load::Operation,
    window::Window,
};

/// Most memory of an idle server.
const IDLE_BYTES_MAX: u64 = 200 << 20;
/// Most CPU time of an idle server, in percent of a core.
const IDLE_CPU_PERCENT_MAX: f64 = 2.0;

/// A promise and what was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    pub promise: String,
    pub bound: Bound,
    /// None when it was not measured.
    pub measured: Option<f64>,
    pub passed: bool,
}

/// The side on which a figure must be; both include the bound itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Gate {
    fn new(promise: impl Into<String>, bound: Bound, measured: Option<f64>) -> Self {
        let passed = measured.is_some_and(|figure| match bound {
            Bound::AtLeast(least) => figure >= least,
            Bound::AtMost(most) => figure <= most,
        });
        Self { promise: promise.into(), bound, measured, passed }
    }
}

/// Holds the figures against the promises.
pub fn judge(rows: &[Row], idle: &[Idle]) -> Vec<Gate> {
    let put = |callers| Shape { operation: Operation::Put, callers };
    let get = |callers| Shape { operation: Operation::Get, callers };
    let speed = |window: &Window| window.operations_per_second;
    let cpu = |window: &Window| window.servers_cpu_us;
    let p50 = |window: &Window| window.p50_us;

    let against_etcd = |shape: Shape, figure: fn(&Window) -> f64| {
        ratio(figure(shape.find(rows, Api::Flotilla, 1)?), figure(shape.find(rows, Api::Etcd, 1)?))
    };
    let against_one_region = |regions: u32| {
        ratio(
            speed(put(256).find(rows, Api::Flotilla, regions)?),
            speed(put(256).find(rows, Api::Flotilla, 1)?),
        )
    };
    let nodes =
        || idle.iter().filter(|idle| idle.api == Api::Flotilla).flat_map(|idle| &idle.servers);
    let idle_bytes = nodes().map(|node| node.resident_bytes).max();
    let idle_cpu = nodes().map(|node| node.cpu_percent).max_by(f64::total_cmp);
    let errors: u64 = rows.iter().map(|row| row.median.errors).sum();

    vec![
        Gate::new("put, 256 callers: × etcd's", Bound::AtLeast(2.0), against_etcd(put(256), speed)),
        Gate::new(
            "put, 256 callers: CPU × etcd's",
            Bound::AtMost(0.5),
            against_etcd(put(256), cpu),
        ),
        Gate::new("get, 256 callers: × etcd's", Bound::AtLeast(2.0), against_etcd(get(256), speed)),
        Gate::new(
            "get, 256 callers: CPU × etcd's",
            Bound::AtMost(0.5),
            against_etcd(get(256), cpu),
        ),
        Gate::new("put, 1 caller: p50 × etcd's", Bound::AtMost(1.0), against_etcd(put(1), p50)),
        Gate::new("get, 1 caller: p50 × etcd's", Bound::AtMost(1.0), against_etcd(get(1), p50)),
        Gate::new("put over 6 regions: × of one", Bound::AtLeast(0.8), against_one_region(6)),
        Gate::new("put over 100 regions: × of one", Bound::AtLeast(0.6), against_one_region(100)),
        Gate::new(
            "memory of an idle node, MiB",
            Bound::AtMost((IDLE_BYTES_MAX >> 20) as f64),
            idle_bytes.map(|bytes| bytes as f64 / f64::from(1 << 20)),
        ),
        Gate::new("CPU of an idle node, %", Bound::AtMost(IDLE_CPU_PERCENT_MAX), idle_cpu),
        Gate::new("failed operations", Bound::AtMost(0.0), Some(errors as f64)),
    ]
}

/// A workload, whatever it ran on.
#[derive(Clone, Copy)]
struct Shape {
    operation: Operation,
    callers: usize,
}

impl Shape {
    fn find(self, rows: &[Row], api: Api, regions: u32) -> Option<&Window> {
        let row = rows.iter().find(|row| {
            (row.api, row.regions) == (api, regions)
                && row.workload.operation == self.operation
                && row.workload.callers == self.callers
        })?;
        Some(&row.median)
    }
}

fn ratio(figure: f64, of: f64) -> Option<f64> {
    (of > 0.0).then(|| figure / of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::compare::{IdleServer, Workload};

    fn row(api: Api, regions: u32, operation: Operation, callers: usize, median: Window) -> Row {
        let workload = Workload { operation, callers, connections: callers.min(16) };
        Row { api, regions, workload, median, windows: Vec::new() }
    }

    fn window(operations_per_second: f64, servers_cpu_us: f64, p50_us: f64) -> Window {
        Window { operations_per_second, servers_cpu_us, p50_us, ..Window::default() }
    }

    /// Figures that are exactly good enough.
    fn good() -> (Vec<Row>, Vec<Idle>) {
        let mut rows = Vec::new();
        for operation in [Operation::Put, Operation::Get] {
            rows.push(row(Api::Etcd, 1, operation, 256, window(7_000.0, 230.0, 30_000.0)));
            rows.push(row(Api::Flotilla, 1, operation, 256, window(14_000.0, 115.0, 15_000.0)));
            rows.push(row(Api::Etcd, 1, operation, 1, window(700.0, 1_700.0, 1_300.0)));
            rows.push(row(Api::Flotilla, 1, operation, 1, window(700.0, 1_700.0, 1_300.0)));
        }
        let spread = |regions, speed| {
            row(Api::Flotilla, regions, Operation::Put, 256, window(speed, 115.0, 15_000.0))
        };
        rows.push(spread(6, 11_200.0));
        rows.push(spread(100, 8_400.0));
        let server = IdleServer { resident_bytes: IDLE_BYTES_MAX, cpu_percent: 2.0 };
        (rows, vec![Idle { api: Api::Flotilla, servers: vec![server] }])
    }

    fn failed(rows: &[Row], idle: &[Idle]) -> Vec<String> {
        let missed = judge(rows, idle).into_iter().filter(|gate| !gate.passed);
        missed.map(|gate| gate.promise).collect()
    }

    #[test]
    fn figures_on_the_bound_pass() {
        let (rows, idle) = good();
        assert_eq!(failed(&rows, &idle), Vec::<String>::new());
    }

    #[test]
    fn each_figure_alone_can_fail_its_gate() {
        type Spoil = fn(&mut Window);
        let slower: Spoil = |window| window.operations_per_second *= 0.99;
        let hungrier: Spoil = |window| window.servers_cpu_us *= 1.01;
        let later: Spoil = |window| window.p50_us *= 1.01;
        let cases: [(Operation, usize, u32, Spoil, &str); 8] = [
            (Operation::Put, 256, 6, slower, "put over 6 regions: × of one"),
            (Operation::Put, 256, 100, slower, "put over 100 regions: × of one"),
            (Operation::Put, 256, 1, slower, "put, 256 callers: × etcd's"),
            (Operation::Put, 256, 1, hungrier, "put, 256 callers: CPU × etcd's"),
            (Operation::Get, 256, 1, slower, "get, 256 callers: × etcd's"),
            (Operation::Get, 256, 1, hungrier, "get, 256 callers: CPU × etcd's"),
            (Operation::Put, 1, 1, later, "put, 1 caller: p50 × etcd's"),
            (Operation::Get, 1, 1, later, "get, 1 caller: p50 × etcd's"),
        ];
        for (operation, callers, regions, spoil, gate) in cases {
            let (mut rows, idle) = good();
            let row = rows
                .iter_mut()
                .find(|row| {
                    (row.api, row.regions) == (Api::Flotilla, regions)
                        && (row.workload.operation, row.workload.callers) == (operation, callers)
                })
                .expect("the good figures have every row");
            spoil(&mut row.median);
            assert_eq!(failed(&rows, &idle), [gate]);
        }
    }

    #[test]
    fn one_greedy_idle_node_fails() {
        let (rows, mut idle) = good();
        let greedy = IdleServer { resident_bytes: IDLE_BYTES_MAX + (1 << 20), cpu_percent: 2.1 };
        idle[0].servers.push(greedy);
        let missed = failed(&rows, &idle);
        assert_eq!(missed, ["memory of an idle node, MiB", "CPU of an idle node, %"]);
    }

    #[test]
    fn one_failed_operation_fails() {
        let (mut rows, idle) = good();
        rows[0].median.errors = 1;
        assert_eq!(failed(&rows, &idle), ["failed operations"]);
    }

    #[test]
    fn what_was_not_measured_has_not_passed() {
        let missed = failed(&[], &[]);
        assert_eq!(missed.len(), judge(&[], &[]).len() - 1, "{missed:?}");
    }
}
