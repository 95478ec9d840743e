//! What kills, cuts, fills, freezes or flips something: nothing acknowledged is lost, and each loss is named.
//!
//! One program, since each would have the client and its protocols compiled into it once more.

mod chaos;
mod clock;
mod crash;
mod crash_points;
mod damage;
mod disk_full;
mod failpoints;
mod outage;
mod overload;
mod slow_link;
