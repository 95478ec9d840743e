//! How many peers regions have.
//!
//! More come when there are nodes for them, so after nodes were added and before anything else takes
//! one away; fewer before nodes leave, since a node that leaves must leave enough. The placement
//! driver then adds or drops peers one at a time.

use super::{Action, Call, Kind, Step, View, up};
use crate::seen::Row;

impl View<'_> {
    pub(super) fn change_factor(&mut self) -> Option<Step> {
        let table = self.seen.table.as_ref()?;
        let wanted = u32::try_from(self.desired.spec.replication_factor).ok()?;
        let now = table.replication_factor;
        if wanted == now || up(table).count() < wanted as usize {
            return None;
        }
        let operation = self.operation(Kind::ReplicationFactor, &wanted.to_string(), "Change");
        // A node that does not come back may be why fewer are asked for: its peers are the first to be dropped.
        let fewer = wanted < now;
        let is_missed = |row: &Row| !fewer || !self.is_down_for_long(row);
        let mut away = up(table).filter(|row| !self.is_alive(row));
        let refused = if let Some(row) = away.find(|row| is_missed(row)) {
            Some(format!("node {} is down", row.node_id))
        } else if !self.regions.lost_without(None).is_empty() || self.regions.has_gap {
            Some("regions have no quorum".to_owned())
        } else {
            None
        };
        if let Some(why) = refused {
            let message = format!("regions keep {now} peers each: {why}");
            self.trouble("ReplicationFactorRefused", message.clone());
            return Some(Step::Wait(operation, message));
        }
        let call = Call::SetReplicationFactor {
            replication_factor: wanted,
            expected_version: table.version,
        };
        let why = format!("regions are to have {wanted} peers each, not {now}");
        Some(Step::Act(operation, Action::Call(call), why))
    }
}
