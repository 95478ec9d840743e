//! The scenarios, each named as what it shows.

mod documents;
mod hand_edits;
mod install;
mod life;
mod machines;
mod monitoring;
mod operators;
mod others;
mod pods;
mod rights;
mod roll;
mod scale;
mod steady;
mod validation;
mod volumes;

use std::fmt;

use futures::future::LocalBoxFuture;

use crate::stage::Stage;

/// How often a scenario is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// By every `make e2e`, and so by CI: a cluster of Kubernetes for it and all of these together take
    /// less than five minutes.
    Short,
    /// By `make e2e-all` only.
    Long,
}

type Run = for<'a> fn(&'a Stage<'a>) -> LocalBoxFuture<'a, anyhow::Result<()>>;

/// Something that is done, and what must come of it.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// How often it is run.
    pub tier: Tier,
    /// Does it.
    pub run: Run,
}

/// The error of a scenario that cannot be run here.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

macro_rules! scenarios {
    ($($tier:ident $module:ident :: $name:ident,)*) => {
        /// All of them, the cheapest first.
        pub const ALL: &[Scenario] = &[$(Scenario {
            name: stringify!($name),
            tier: Tier::$tier,
            run: |stage| Box::pin($module::$name(stage)),
        },)*];
    };
}

scenarios! {
    Short validation::bad_specs_are_refused_in_our_words,
    Short install::sample_is_available_within_a_minute,
    Short scale::scale_1_3_5_3_is_not_noticed,
    Short pods::deleted_pod_is_not_noticed,
    Long pods::lost_volume_is_replaced,
    Long volumes::volumes_grow_under_running_pods,
    Short roll::changed_config_rolls_unnoticed,
    Long roll::broken_image_stops_after_one_pod_and_heals,
    Long operators::operator_restart_touches_no_pod,
    Long rights::operator_may_do_what_it_does_and_no_more,
    Long scale::scale_3_5_3_is_not_noticed,
    Long scale::scale_in_can_be_cancelled,
    Long scale::scale_in_with_a_pending_pod_converges,
    Long roll::image_upgrade_is_not_noticed,
    Long roll::pod_before_its_turn_comes_back_as_it_was,
    Long roll::sick_pod_holds_a_roll_up,
    Long hand_edits::stateful_set_is_put_back,
    Long others::objects_of_others_are_left_alone,
    Long others::policies_that_change_ours_are_lived_with,
    Long documents::commands_of_the_documents_run,
    Long life::clusters_of_one_name_do_not_share_data,
    Long life::stopped_cluster_keeps_its_data,
    Long machines::killed_machine_loses_nothing,
    Long machines::frozen_machine_loses_nothing,
    Long machines::cut_off_machine_loses_nothing,
    Long operators::operator_killed_at_any_step_converges,
    Long operators::frozen_leader_does_no_harm,
    Long steady::twenty_clusters_at_rest_cost_no_writes,
    Long monitoring::prometheus_sees_all_and_alerts,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Kubernetes' limit for the names of namespaces, with what the stage adds.
    const NAME_MAX: usize = 63 - "e2e-".len() - "-clients".len();

    #[test]
    fn names_are_unique_and_fit_namespaces() {
        let names: BTreeSet<_> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(name.len() <= NAME_MAX, "{name} is {} long", name.len());
        }
    }
}
