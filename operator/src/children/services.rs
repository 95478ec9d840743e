//! Three ways to the nodes: by name each, by one virtual IP, and by the addresses of the ready ones.

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::metadata;
use crate::{
    crd::{IpFamily, IpFamilyPolicy, ServiceType, TrafficPolicy},
    desired::Desired,
    names::{CLIENT_PORT, HTTP_PORT, PEER_PORT},
};

/// Label that tells the three apart.
pub(super) const ROLE: &str = "flotilla.dev/service";

/// Governs the pods' names. Nodes that are not ready are published: they must be reached to become
/// it.
pub(super) fn headless(desired: &Desired) -> Service {
    let ports = vec![port("client", CLIENT_PORT), port("peer", PEER_PORT), port("http", HTTP_PORT)];
    let mut service = build(desired, desired.names.headless(), "headless", ports);
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".to_owned());
        spec.publish_not_ready_addresses = Some(true);
    }
    service
}

/// One address for clients that know no better; Kubernetes balances their connections.
pub(super) fn virtual_ip(desired: &Desired) -> Service {
    let ports = vec![port("client", CLIENT_PORT), port("http", HTTP_PORT)];
    let mut service = build(desired, desired.names.name.clone(), "client", ports);
    let asked = &desired.spec.service;
    if !asked.annotations.is_empty() {
        service.metadata.annotations = Some(asked.annotations.clone());
    }
    if let Some(spec) = &mut service.spec {
        // Said even where it is the default: left out, it would not go back to it.
        spec.type_ = Some(
            match asked.kind {
                ServiceType::ClusterIP => "ClusterIP",
                ServiceType::NodePort => "NodePort",
                ServiceType::LoadBalancer => "LoadBalancer",
            }
            .to_owned(),
        );
        spec.internal_traffic_policy = asked.internal_traffic_policy.map(|policy| {
            match policy {
                TrafficPolicy::Cluster => "Cluster",
                TrafficPolicy::Local => "Local",
            }
            .to_owned()
        });
    }
    service
}

/// For gRPC: a connection per ready node, balanced by the client.
pub(super) fn clients(desired: &Desired) -> Service {
    let mut service =
        build(desired, desired.names.clients(), "clients", vec![port("client", CLIENT_PORT)]);
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".to_owned());
    }
    service
}

fn build(desired: &Desired, name: String, role: &str, ports: Vec<ServicePort>) -> Service {
    let mut metadata = metadata(desired, name);
    metadata.labels.get_or_insert_default().insert(ROLE.to_owned(), role.to_owned());
    let asked = &desired.spec.service;
    let families = asked.ip_families.iter().map(|family| {
        match family {
            IpFamily::IPv4 => "IPv4",
            IpFamily::IPv6 => "IPv6",
        }
        .to_owned()
    });
    let families: Vec<_> = families.collect();
    Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: Some(desired.names.selector()),
            ports: Some(ports),
            ip_families: (!families.is_empty()).then_some(families),
            ip_family_policy: asked.ip_family_policy.map(|policy| {
                match policy {
                    IpFamilyPolicy::SingleStack => "SingleStack",
                    IpFamilyPolicy::PreferDualStack => "PreferDualStack",
                    IpFamilyPolicy::RequireDualStack => "RequireDualStack",
                }
                .to_owned()
            }),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        app_protocol: (name == "client").then(|| "kubernetes.io/h2c".to_owned()),
        ..ServicePort::default()
    }
}
