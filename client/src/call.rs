//! One call: choose a node, try, and go on until it is done or certain not to be.
//!
//! With a route the request goes to the region's leader, carries the region's epoch, and is refused
//! there with a correction when the route is old. Without one it goes to any node, which forwards it;
//! meanwhile the route is fetched in the background, so that no caller waits for the table.

use std::{sync::Arc, time::Duration};

use flotilla_proto::v1::{ReadMode, RequestContext};
use tokio::time::{Instant, timeout_at};

use crate::{
    Client, Error,
    backoff::Backoff,
    node_pool::Node,
    pin::{connect, no_client_port},
    random,
    routes::{Route, Span},
    rpc::Rpc,
    verdict::{Failure, Kind, Remedy, Verdict, judge},
};

/// Bound: so often a call follows a correction without a pause; then it backs off, so that nodes
/// that contradict each other are not asked in a tight loop.
const CORRECTIONS_MAX: u32 = 8;
/// Bound: connections to one address over which a node that was removed has answered. Then it is taken for all that
/// is there.
const REMOVED_MAX: usize = 5;
/// No attempt is given less than this while there is time left, and none of a write is begun with less: so
/// far it is certain that nothing was applied, and an answer that comes too late would end that.
const ATTEMPT_MIN: Duration = Duration::from_millis(50);

/// What is to be left of its timeout when an attempt of a write begins.
pub(crate) fn write_min(timeout: Duration) -> Duration {
    ATTEMPT_MIN.min(timeout / 4)
}

/// Where one attempt goes.
pub(crate) struct Aim {
    pub(crate) node: Arc<Node>,
    pub(crate) route: Option<Route>,
}

/// Who may answer.
#[derive(Clone, Copy)]
pub(crate) enum Audience<'a> {
    /// Any node; rather the leader.
    Anyone,
    /// The node at this address.
    Only(&'a str),
}

impl Client {
    /// Runs a call that any node may answer.
    pub(crate) async fn call<R: Rpc>(&self, request: R) -> Result<R::Response, Error> {
        self.call_for(request, Audience::Anyone).await
    }

    /// # Cancel safety
    /// A dropped call stops retrying; an attempt that was under way may still be applied.
    pub(crate) async fn call_for<R: Rpc>(
        &self,
        request: R,
        audience: Audience<'_>,
    ) -> Result<R::Response, Error> {
        let outcome = self.attempts(request, audience).await;
        if R::KIND == Kind::Write {
            self.shared.written.note(&outcome);
        }
        outcome
    }

    async fn attempts<R: Rpc>(
        &self,
        mut request: R,
        audience: Audience<'_>,
    ) -> Result<R::Response, Error> {
        let span = request.span(self.settings.keyspace);
        let mut progress = Progress::new(self, R::KIND, audience, span);
        progress.learn_cluster().await?;
        loop {
            let aim = progress.aim()?;
            request.set_context(self.context(R::KIND, aim.route.as_ref()));
            let failure =
                match attempt(self, &aim, request.clone(), progress.attempt_timeout()).await {
                    Ok(response) => {
                        self.shared.nodes.trust(&aim.node);
                        return Ok(response);
                    }
                    Err(failure) => failure,
                };
            progress.recover(failure, &aim).await?;
        }
    }

    pub(crate) fn context(&self, kind: Kind, route: Option<&Route>) -> RequestContext {
        let read_mode = match kind {
            Kind::Read => self.settings.read_mode,
            Kind::Write => ReadMode::Unspecified,
        };
        RequestContext {
            keyspace: self.settings.keyspace.get(),
            region_id: route.map_or(0, |route| route.region_id),
            epoch: route.map(|route| route.epoch),
            read_mode: read_mode.into(),
        }
    }
}

async fn attempt<R: Rpc>(
    client: &Client,
    aim: &Aim,
    request: R,
    time_left: Duration,
) -> Result<R::Response, Failure> {
    let until = Instant::now() + time_left;
    let connection = connect(&aim.node, until).await?;
    let mut request = tonic::Request::new(request);
    request.set_timeout(until.saturating_duration_since(Instant::now()));
    client.shared.pin.name(request.metadata_mut());
    let failure = match timeout_at(until, R::send(connection.channel.clone(), request)).await {
        Ok(Ok(response)) => {
            connection.answered();
            return Ok(response.into_inner());
        }
        Ok(Err(status)) => status.into(),
        Err(_) => Failure::Silent,
    };
    aim.node.failed(&connection, &failure);
    Err(failure)
}

/// What a call has been through.
pub(crate) struct Progress<'a> {
    client: &'a Client,
    kind: Kind,
    audience: Audience<'a>,
    span: Span,
    deadline: Instant,
    attempts: u32,
    corrections: u32,
    /// Where the last answer sent us, for a region that is not in the table.
    preferred: Option<Arc<str>>,
    /// Addresses that could not help this call.
    avoid: Vec<Arc<str>>,
    /// Addresses that belong to no cluster.
    unjoined: Vec<Arc<str>>,
    /// Addresses where a node answered that was removed, one for each time.
    removed: Vec<Arc<str>>,
    backoff: Backoff,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(client: &'a Client, kind: Kind, audience: Audience<'a>, span: Span) -> Self {
        Self {
            client,
            kind,
            audience,
            span,
            deadline: Instant::now() + client.settings.timeout,
            attempts: 0,
            corrections: 0,
            preferred: None,
            avoid: Vec::new(),
            unjoined: Vec::new(),
            removed: Vec::new(),
            backoff: Backoff::new(),
        }
    }

    /// See [`crate::pin`].
    pub(crate) async fn learn_cluster(&self) -> Result<(), Error> {
        let shared = &self.client.shared;
        shared.pin.learn(&shared.nodes, self.deadline).await
    }

    /// Chooses the node of the next attempt.
    pub(crate) fn aim(&mut self) -> Result<Aim, Error> {
        let shared = &self.client.shared;
        if let Audience::Only(address) = self.audience {
            let node = shared.nodes.get(address)?;
            if node.speaks_http1() {
                return Err(no_client_port(address));
            }
            return Ok(Aim { node, route: None });
        }
        if let Some(route) = self.route()
            && let Some(node) = self.usable(&route.leader)
        {
            return Ok(Aim { node, route: Some(route) });
        }
        let preferred = self.preferred.take().and_then(|address| self.usable(&address));
        let node = preferred.unwrap_or_else(|| shared.nodes.pick(&self.avoid));
        if node.speaks_http1() {
            // Then all do, and no patience helps.
            return Err(no_client_port(&shared.nodes.passed_over().join(" and ")));
        }
        Ok(Aim { node, route: None })
    }

    /// The node at this address, unless it failed us a moment ago.
    fn usable(&self, address: &Arc<str>) -> Option<Arc<Node>> {
        let nodes = &self.client.shared.nodes;
        let node = nodes.get(address).ok()?;
        let is_usable =
            !node.speaks_http1() && !self.avoid.contains(address) && !nodes.is_suspect(&node);
        is_usable.then_some(node)
    }

    fn route(&self) -> Option<Route> {
        let Client { shared, settings } = self.client;
        let reads_anywhere = self.kind == Kind::Read && settings.read_mode == ReadMode::Stale;
        if !shared.routing || self.span == Span::Nowhere || reads_anywhere {
            return None;
        }
        let routes = shared.routes.read();
        let route = routes.locate(&self.span);
        // A span over several regions never has a route; that is no reason to fetch the table.
        let is_known = self.span.first().is_some_and(|key| routes.has_leader(key));
        drop(routes);
        if route.is_none() && !is_known {
            self.client.refresh_routes(&self.span);
        }
        route
    }

    /// A write is given all the time there is: to give it up early would be to not know. A read that
    /// hangs leaves half of it for another node.
    pub(crate) fn attempt_timeout(&self) -> Duration {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match (self.kind, self.audience) {
            (Kind::Read, Audience::Anyone) => (left / 2).max(ATTEMPT_MIN).min(left),
            (Kind::Write, _) | (_, Audience::Only(_)) => left,
        }
    }

    /// Learns from a failed attempt and waits as long as is right; `Ok` means to try again.
    ///
    /// # Errors
    /// The call's outcome, when trying again is of no use or there is no time for it.
    pub(crate) async fn recover(&mut self, failure: Failure, aim: &Aim) -> Result<(), Error> {
        self.attempts += 1;
        if failure.is_of_connection() || matches!(failure, Failure::Silent) {
            self.leave(aim);
        }
        let (remedy, at_least, why) = match judge(self.kind, failure) {
            Verdict::Fail(error) => return Err(error),
            Verdict::Retry { remedy, at_least, why } => (remedy, at_least, why),
        };
        let why = format!("{}: {why}", aim.node.address);
        let next_differs = self.apply(remedy, aim, &why)?;
        let now = Instant::now();
        let pause = if next_differs && at_least.is_zero() && self.corrections < CORRECTIONS_MAX {
            self.corrections += 1;
            Duration::ZERO
        } else {
            // After the pause those that failed may answer again.
            self.avoid.clone_from(&self.unjoined);
            random::draw(|random| self.backoff.next(at_least, random))
        };
        let (timeout, attempts) = (self.client.settings.timeout, self.attempts);
        let worth = match self.kind {
            Kind::Write => write_min(timeout),
            Kind::Read => Duration::ZERO,
        };
        if now + pause + worth >= self.deadline {
            return Err(Error::TimedOut { timeout, attempts, last: why });
        }
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Takes a node out of the running for a moment, for everybody.
    fn leave(&self, aim: &Aim) {
        self.client.shared.nodes.suspect(&aim.node);
        if let Some(route) = &aim.route {
            self.client.shared.routes.write().forget_leader(route.region_id, &route.leader);
        }
    }

    /// Answers whether the next attempt will be a different one.
    fn apply(&mut self, remedy: Remedy, aim: &Aim, why: &str) -> Result<bool, Error> {
        let shared = &self.client.shared;
        match remedy {
            Remedy::Wait => return Ok(false),
            Remedy::OtherNode => {
                self.leave(aim);
                return Ok(self.pass_over(aim));
            }
            Remedy::Unjoined { removed } => {
                self.leave(aim);
                let is_only = matches!(self.audience, Audience::Only(_));
                // Behind a service's address there are others, and the next connections find one of them.
                if removed && !is_only {
                    self.removed.push(aim.node.address.clone());
                    let times = self.removed.iter().filter(|of| **of == aim.node.address).count();
                    if times < REMOVED_MAX {
                        return Ok(self.pass_over(aim));
                    }
                }
                if !self.unjoined.contains(&aim.node.address) {
                    self.unjoined.push(aim.node.address.clone());
                }
                if is_only || shared.nodes.all_in(&self.unjoined) {
                    return Err(Error::NotJoined { removed, message: why.to_owned() });
                }
                return Ok(self.pass_over(aim));
            }
            Remedy::Leader { region_id, leader } => {
                let mut routes = shared.routes.write();
                let address = leader.map(|leader| leader.client_address).unwrap_or_default();
                if address.is_empty() || *address == *aim.node.address {
                    routes.forget_leader(region_id, &aim.node.address);
                } else {
                    let address: Arc<str> = address.into();
                    routes.set_leader(region_id, address.clone());
                    self.preferred = Some(address);
                }
            }
            Remedy::Regions(regions) => {
                let mut routes = shared.routes.write();
                for region in regions {
                    // A new half of a split is first led where the whole was.
                    let is_new = !routes.knows(region.region_id);
                    let route = aim.route.as_ref().filter(|_| is_new);
                    let leader = route.map(|route| route.leader.clone());
                    routes.learn(region, leader);
                }
            }
            Remedy::ForgetRegion(region_id) => shared.routes.write().forget(region_id),
        }
        let Some(used) = &aim.route else {
            let is_routed = shared.routing && shared.routes.read().locate(&self.span).is_some();
            return Ok(self.preferred.is_some() || is_routed);
        };
        let mut routes = shared.routes.write();
        if routes.locate(&self.span).as_ref() == Some(used) {
            // A route that led to an error without a correction is worth nothing.
            routes.forget(used.region_id);
        }
        Ok(true)
    }

    fn pass_over(&mut self, aim: &Aim) -> bool {
        if !self.avoid.contains(&aim.node.address) {
            self.avoid.push(aim.node.address.clone());
        }
        let has_other = self.client.shared.nodes.has_other(&self.avoid);
        matches!(self.audience, Audience::Anyone) && has_other
    }
}

#[cfg(test)]
mod tests;
