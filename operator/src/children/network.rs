//! Who may connect: those who were named to the clients' ports, the operator to ask and to change
//! membership, only nodes of this cluster to the peers' port; and out, to DNS and to each other.
//!
//! Policies of Kubernetes add up: what this one lets in no other can keep out. So it never lets in more
//! than was asked for, and whoever needs more makes a policy beside it.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use serde_json::Value;

use super::{metadata, value};
use crate::{
    desired::Desired,
    drift,
    names::{CLIENT_PORT, HTTP_PORT, PEER_PORT},
};

/// Where DNS is asked: servers in Kubernetes, on the Kubernetes node or outside of it. The second is
/// where those of OpenShift listen; policies see the port behind the Service.
const DNS_PORTS: [i32; 2] = [53, 5353];

pub(super) fn build(desired: &Desired) -> NetworkPolicy {
    let network = &desired.network;
    let pods = || NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(desired.names.selector()),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    let mut clients = vec![pods()];
    match &network.from {
        Some(named) => clients.extend(named.iter().cloned()),
        // An empty selector is every pod of the policy's own namespace.
        None => clients = vec![this_namespace()],
    }
    let mut ingress =
        vec![rule(&[CLIENT_PORT, HTTP_PORT], clients), rule(&[PEER_PORT], vec![pods()])];
    if !network.operator_from.is_empty() {
        ingress.push(rule(&[CLIENT_PORT], network.operator_from.clone()));
    }
    let dns = |protocol: &'static str| DNS_PORTS.map(|number| port(protocol, number));
    let egress = vec![
        NetworkPolicyEgressRule { ports: Some([dns("UDP"), dns("TCP")].concat()), to: None },
        NetworkPolicyEgressRule {
            ports: Some(vec![port("TCP", CLIENT_PORT), port("TCP", PEER_PORT)]),
            to: Some(vec![pods()]),
        },
    ];
    NetworkPolicy {
        metadata: metadata(desired, desired.names.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: pods().pod_selector,
            policy_types: Some(vec!["Ingress".to_owned(), "Egress".to_owned()]),
            ingress: Some(ingress),
            egress: Some(egress),
        }),
    }
}

fn this_namespace() -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector::default()),
        ..NetworkPolicyPeer::default()
    }
}

fn rule(ports: &[i32], from: Vec<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    // Invariant: `from` is not empty, which would be everybody.
    assert!(!from.is_empty(), "a rule for nobody is none");
    NetworkPolicyIngressRule {
        ports: Some(ports.iter().map(|number| port("TCP", *number)).collect()),
        from: Some(from),
    }
}

fn port(protocol: &str, number: i32) -> NetworkPolicyPort {
    NetworkPolicyPort {
        protocol: Some(protocol.to_owned()),
        port: Some(IntOrString::Int(number)),
        ..NetworkPolicyPort::default()
    }
}

/// Peers that a user wrote.
///
/// # Errors
/// One that names nobody, which Kubernetes refuses, or has a field that there is not.
pub fn read_peers(field: &str, peers: &[Value]) -> Result<Vec<NetworkPolicyPeer>, String> {
    let read = peers.iter().enumerate().map(|(index, written)| {
        let at = format!("{field}[{index}]");
        let peer: NetworkPolicyPeer =
            serde_json::from_value(written.clone()).map_err(|error| format!("{at}: {error}"))?;
        if peer == NetworkPolicyPeer::default() {
            return Err(format!("{at}: names nobody"));
        }
        if peer.ip_block.is_some()
            && (peer.pod_selector.is_some() || peer.namespace_selector.is_some())
        {
            return Err(format!("{at}: ipBlock stands alone"));
        }
        match drift::drift(written, &value(&peer)) {
            Some(drift::Drift::Differs(path) | drift::Drift::HasMore(path)) => {
                Err(format!("{at}: there is no field {}", path.trim_start_matches('.')))
            }
            None => Ok(peer),
        }
    });
    read.collect()
}
