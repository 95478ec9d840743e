//! Who may connect: anybody to the clients' ports, only nodes of this cluster to the peers' port.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::metadata;
use crate::{
    desired::Desired,
    names::{CLIENT_PORT, HTTP_PORT, PEER_PORT},
};

pub(super) fn build(desired: &Desired) -> NetworkPolicy {
    let pods = || LabelSelector {
        match_labels: Some(desired.names.selector()),
        ..LabelSelector::default()
    };
    let port = |port| NetworkPolicyPort {
        protocol: Some("TCP".to_owned()),
        port: Some(IntOrString::Int(port)),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicy {
        metadata: metadata(desired, desired.names.name.clone()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(pods()),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    ports: Some(vec![port(CLIENT_PORT), port(HTTP_PORT)]),
                    from: None,
                },
                NetworkPolicyIngressRule {
                    ports: Some(vec![port(PEER_PORT)]),
                    from: Some(vec![NetworkPolicyPeer {
                        pod_selector: Some(pods()),
                        ..NetworkPolicyPeer::default()
                    }]),
                },
            ]),
            egress: None,
        }),
    }
}
