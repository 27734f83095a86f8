//! Ports of containers, services and policies are the same ones.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{MATRIX, helm, list, of_kind, pod_spec, render, role};

fn container_ports(all: &[Value], component: &str) -> BTreeSet<(String, u64)> {
    let pods = all
        .iter()
        .filter(|one| role(one) == component)
        .filter_map(pod_spec);
    let ports = pods
        .flat_map(|pod| list(pod, "containers"))
        .flat_map(|container| list(container, "ports"));
    ports
        .map(|port| {
            (
                port["name"].as_str().unwrap().to_owned(),
                port["containerPort"].as_u64().unwrap(),
            )
        })
        .collect()
}

#[test]
fn services_lead_to_ports_that_are_there_and_say_what_is_spoken() {
    let Some(helm) = helm("services") else { return };
    for (name, args) in MATRIX {
        let all = render(&helm, args);
        let services = of_kind(&all, "Service");
        assert!(services.len() >= 4, "{name}");
        for service in services {
            let there = container_ports(&all, role(service));
            for port in list(&service["spec"], "ports") {
                let target = port["targetPort"].as_str().unwrap();
                assert!(
                    there.iter().any(|(port, _)| port == target),
                    "{name}: {} {target}",
                    role(service)
                );
                assert!(
                    port["appProtocol"]
                        .as_str()
                        .is_some_and(|text| !text.is_empty()),
                    "{name}: {target}"
                );
            }
        }
        for object in all.iter().filter(|one| one["kind"] == "StatefulSet") {
            let headless = of_kind(&all, "Service").into_iter().find(|service| {
                service["metadata"]["name"] == object["spec"]["serviceName"]
                    && service["spec"]["clusterIP"] == "None"
            });
            let headless = headless
                .unwrap_or_else(|| panic!("{name}: {} has no headless service", role(object)));
            assert_eq!(
                headless["spec"]["publishNotReadyAddresses"], true,
                "{name}: others must find it before it is ready"
            );
        }
    }
}

#[test]
fn policies_open_the_ports_of_the_containers_and_no_other() {
    let Some(helm) = helm("policies") else { return };
    for (name, args) in MATRIX.iter().filter(|(name, _)| *name != "no policies") {
        let all = render(&helm, args);
        let roles: BTreeSet<&str> = all
            .iter()
            .filter(|one| pod_spec(one).is_some() && one["kind"] != "Pod")
            .map(role)
            .collect();
        let policies = of_kind(&all, "NetworkPolicy");
        let guarded: BTreeSet<&str> = policies.iter().copied().map(role).collect();
        assert_eq!(guarded, roles, "{name}");
        for policy in policies {
            let open: BTreeSet<u64> = list(&policy["spec"], "ingress")
                .flat_map(|rule| list(rule, "ports"))
                .map(|port| port["port"].as_u64().unwrap())
                .collect();
            let there: BTreeSet<u64> = container_ports(&all, role(policy))
                .into_iter()
                .map(|(_, port)| port)
                .collect();
            assert_eq!(open, there, "{name}: {}", role(policy));
        }
    }
}

#[test]
fn only_gateways_reach_workers_and_only_workers_reach_storage() {
    let Some(helm) = helm("reach") else { return };
    let all = render(&helm, &[]);
    for (component, callers) in [
        ("worker", vec!["gateway"]),
        ("storage", vec!["worker"]),
        ("master", vec!["gateway", "worker", "storage"]),
    ] {
        let policies = of_kind(&all, "NetworkPolicy");
        let policy = policies
            .into_iter()
            .find(|one| role(one) == component)
            .unwrap();
        let first = list(&policy["spec"], "ingress").next().unwrap();
        let from: Vec<&str> = list(first, "from")
            .map(|one| {
                one["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
                    .as_str()
                    .unwrap()
            })
            .collect();
        assert_eq!(from, callers, "{component}");
    }
}
